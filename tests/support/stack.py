"""The six services as processes on free ports, with a database, a bucket and queues of their own."""

import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from deploy.local import commands
from tests.support.backends import Backends
from tests.support.processes import READY_SECONDS, Server, free_ports
from tests.support.reaper import Reaper


class Stack:
    """The running services. Names: gateway, upload, download, metadata, notification, janitor."""

    def __init__(self, env: Mapping[str, str], servers: Mapping[str, Server]) -> None:
        self.env = env
        self._servers = servers

    @property
    def gateway_url(self) -> str:
        return self.url("gateway")

    def url(self, name: str) -> str:
        """The base URL of one service."""
        return f"http://{commands.HOST}:{self._servers[name].command.ports[0]}"

    def pid(self, name: str) -> int:
        return self._servers[name].pid

    def running(self, name: str) -> bool:
        return self._servers[name].running

    def kill(self, name: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; a SIGKILL is waited for."""
        self._servers[name].kill(with_signal)

    def stop(self, name: str) -> None:
        """Stop in the regular way (SIGTERM) and wait for the end."""
        self._servers[name].stop()

    def start(self, name: str) -> None:
        """Start without waiting; the port stays the same."""
        self._servers[name].start()

    def wait_ready(self, name: str, seconds: float = READY_SECONDS) -> None:
        """Return when `/readyz` answers 200."""
        self._servers[name].wait_ready(seconds)

    def restart(self, name: str) -> None:
        """Stop, start and wait: the state after a deployment."""
        self.stop(name)
        self.start(name)
        self.wait_ready(name)

    def restart_with(self, name: str, settings: Mapping[str, str]) -> None:
        """Restart one service with other settings, which go over those it had."""
        server = self._servers[name]
        server.command = replace(server.command, env={**server.command.env, **settings})
        self.restart(name)

    def ensure_running(self) -> None:
        """Start what a test has left stopped, so that the next one finds everything."""
        for server in self._servers.values():
            server.start()
        for server in self._servers.values():
            server.wait_ready()

    def log(self, name: str) -> str:
        """Everything that the service has logged so far."""
        return self._servers[name].log()

    def logs(self, lines: int = 40) -> dict[str, str]:
        """The end of every log."""
        return {name: server.log_tail(lines) for name, server in self._servers.items()}


def environment(backends: Backends, ports: Mapping[str, int]) -> dict[str, str]:
    """The settings of one stack: nothing of it is shared with another stack on the same backends."""
    own = f"t{secrets.token_hex(6)}"
    return {
        "LOCKSTEP_AMQP_URL": backends.amqp_url,
        "LOCKSTEP_AMQP_PREFIX": own,
        "LOCKSTEP_MONGO_URL": backends.mongo_url,
        "LOCKSTEP_MONGO_DATABASE": own,
        "LOCKSTEP_S3_ENDPOINT": backends.s3_endpoint,
        "LOCKSTEP_S3_PUBLIC_ENDPOINT": backends.s3_endpoint,
        "LOCKSTEP_S3_REGION": "us-east-1",
        "LOCKSTEP_S3_BUCKET": own,
        "LOCKSTEP_S3_ACCESS_KEY": backends.s3_access_key,
        "LOCKSTEP_S3_SECRET_KEY": backends.s3_secret_key,
        "LOCKSTEP_TOKEN_SECRET": secrets.token_hex(32),
        "LOCKSTEP_LOG_LEVEL": "info",
        "LOCKSTEP_LOG_FORMAT": "json",
        # All tests sign in from one address, and none is about the cost of a password's hash.
        "LOCKSTEP_RATE_SIGNIN_PER_MINUTE": "100000",
        "LOCKSTEP_RATE_ADDRESS_PER_MINUTE": "100000",
        "LOCKSTEP_ARGON2_TIME_COST": "1",
        "LOCKSTEP_ARGON2_MEMORY_KIB": "8192",
        **commands.service_urls(ports),
    }


@contextmanager
def running_stack(backends: Backends, settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A stack that is ready; `settings` go over the usual ones (limits, intervals)."""
    reaper = Reaper()
    try:
        folder = Path(tempfile.mkdtemp(prefix="lockstep-stack-"))
        reaper.remove(folder)
        ports = {name: free_ports(1) for name in commands.SERVICES}
        env = environment(backends, ports) | dict(settings or {})
        servers = {
            name: Server(commands.service(name, ports[name], env), folder, reaper)
            for name in commands.SERVICES
        }
        try:
            stack = Stack(env, servers)
            stack.ensure_running()
            yield stack
        finally:
            for server in servers.values():
                server.kill(signal.SIGTERM)
            for server in servers.values():
                server.stop()
    finally:
        reaper.close()
