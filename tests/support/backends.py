"""RabbitMQ, MongoDB and S3 for tests: by URL, else by Docker, else as processes of this machine.

`python -m tests.support.backends --hold` starts local ones, prints the variables that make tests use them,
and keeps them until it is stopped, so that repeated runs need not wait.
"""

import argparse
import os
import secrets
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from deploy.local import commands
from deploy.local.rabbitmq_install import ensure_installed
from tests.support.docker import DockerBackends, docker_answers
from tests.support.processes import Server, free_ports
from tests.support.reaper import Reaper

PREFIX = "LOCKSTEP_TEST_"
URL_VARIABLES = {
    "amqp_url": f"{PREFIX}AMQP_URL",
    "mongo_url": f"{PREFIX}MONGO_URL",
    "s3_endpoint": f"{PREFIX}S3_ENDPOINT",
    "s3_access_key": f"{PREFIX}S3_ACCESS_KEY",
    "s3_secret_key": f"{PREFIX}S3_SECRET_KEY",
}
# `local` skips Docker even where an engine answers.
KIND_VARIABLE = f"{PREFIX}BACKENDS"


class NotOursError(Exception):
    """A test wants to stop a backend that it did not start as a local process."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Where the backends are. The local ones can also be stopped and started, for tests of failures."""

    amqp_url: str
    mongo_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str = field(repr=False)
    servers: Mapping[str, Server] = field(default_factory=dict, repr=False)

    @property
    def can_fail(self) -> bool:
        """Whether `stop`, `kill` and `start` work."""
        return bool(self.servers)

    def stop(self, name: str) -> None:
        """Stop `rabbitmq`, `mongo` or `s3` in the regular way."""
        self._server(name).stop()

    def kill(self, name: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal (SIGSTOP and SIGCONT make a backend hang and go on)."""
        self._server(name).kill(with_signal)

    def start(self, name: str) -> None:
        """Start it again on the same port with the same data; returns when it is ready."""
        server = self._server(name)
        server.start()
        server.wait_ready()

    def variables(self) -> dict[str, str]:
        """What makes another test run use these backends."""
        return {variable: str(getattr(self, name)) for name, variable in URL_VARIABLES.items()}

    def _server(self, name: str) -> Server:
        if name not in self.servers:
            raise NotOursError(f"{name} is no local process of this test run: set {KIND_VARIABLE}=local")
        return self.servers[name]


def find_backends() -> AbstractContextManager[Backends]:
    """The backends of this test run; they exist inside the `with` block."""
    given = {name: os.environ.get(variable) for name, variable in URL_VARIABLES.items()}
    if any(given.values()):
        missing = [URL_VARIABLES[name] for name, value in given.items() if not value]
        if missing:
            raise SystemExit(f"{PREFIX}* must be set all or none; missing: {', '.join(missing)}")
        return nullcontext(_given(given))
    if os.environ.get(KIND_VARIABLE) != "local" and docker_answers():
        return _in_containers()
    return LocalBackends()


def _given(values: Mapping[str, str | None]) -> Backends:
    return Backends(
        amqp_url=values["amqp_url"] or "",
        mongo_url=values["mongo_url"] or "",
        s3_endpoint=values["s3_endpoint"] or "",
        s3_access_key=values["s3_access_key"] or "",
        s3_secret_key=values["s3_secret_key"] or "",
    )


@contextmanager
def _in_containers() -> Iterator[Backends]:
    with DockerBackends() as found:
        yield Backends(
            amqp_url=found["amqp_url"],
            mongo_url=found["mongo_url"],
            s3_endpoint=found["s3_endpoint"],
            s3_access_key=found["s3_access_key"],
            s3_secret_key=found["s3_secret_key"],
        )


class LocalBackends(AbstractContextManager[Backends]):
    """Backends as processes of this machine: free ports, a folder of their own, started side by side."""

    def __init__(self) -> None:
        self._exit = ExitStack()

    def __enter__(self) -> Backends:
        server = ensure_installed()
        reaper = Reaper()
        self._exit.callback(reaper.close)
        try:
            return self._start(server, reaper)
        except BaseException:
            self._exit.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _start(self, rabbitmq_server: Path, reaper: Reaper) -> Backends:
        folder = Path(tempfile.mkdtemp(prefix="lockstep-test-"))
        reaper.remove(folder)
        password = secrets.token_hex(16)
        keys = commands.S3Keys(secrets.token_hex(10), secrets.token_hex(20), secrets.token_hex(20))
        ports = {name: free_ports(count) for name, count in commands.PORTS_OF_BACKEND.items()}
        definitions = (
            commands.rabbitmq(rabbitmq_server, folder / "rabbitmq", ports["rabbitmq"], password),
            commands.mongo(folder / "mongo", ports["mongo"]),
            commands.s3(folder / "s3", ports["s3"], keys, folder / "sockets"),
        )
        servers = {definition.name: Server(definition, folder, reaper) for definition in definitions}
        for server in servers.values():
            self._exit.callback(server.kill)
            server.start()
        for server in servers.values():
            server.wait_ready()
        return Backends(
            amqp_url=commands.amqp_url(ports["rabbitmq"], password),
            mongo_url=commands.mongo_url(ports["mongo"]),
            s3_endpoint=commands.s3_url(ports["s3"]),
            s3_access_key=keys.access_key,
            s3_secret_key=keys.secret_key,
            servers=servers,
        )


def main(arguments: list[str]) -> int:
    """Hold local backends for a developer's shell."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.backends", description=main.__doc__)
    parser.add_argument("--hold", action="store_true", required=True, help="run until SIGTERM or Ctrl-C")
    parser.parse_args(arguments)
    # Blocked before anything starts, so that a signal is always answered by the clean-up below.
    awaited = {signal.SIGTERM, signal.SIGINT}
    with LocalBackends() as backends:
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        for name, value in backends.variables().items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        signal.sigwait(awaited)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
