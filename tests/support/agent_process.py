"""`lockstep` as a process of its own that is forked from one that has loaded it: no start-up to wait for.

What runs in it is the command line from its first line, so it can be killed as the real one is.
"""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Final

import agent.app
import agent.commands.folder
from agent import cli
from tests.support.devices import Device

_LOADED: Final = (agent.app, agent.commands.folder)
_CONTEXT: Final[ForkServerContext] = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])
_SECONDS: Final = 120


class AgentProcess:
    """One run of a command; `log` holds what it printed, after what earlier ones printed."""

    def __init__(self, device: Device, arguments: Sequence[str]) -> None:
        self.log = device.home.with_suffix(".log")
        env = {"LOCKSTEP_HOME": str(device.home), **device.env}
        process = _CONTEXT.Process(target=_main, args=(tuple(arguments), env, self.log), daemon=True)
        assert isinstance(process, ForkServerProcess)
        self._process = process
        process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """End it as `kill -9` does; returns when it is gone."""
        self._process.kill()
        self._process.join(_SECONDS)

    def wait(self) -> int:
        """Return the exit code, once it has ended by itself."""
        self._process.join(_SECONDS)
        assert self._process.exitcode is not None, f"it does not end: {self.log.read_text()[-2000:]}"
        return self._process.exitcode

    def interrupt(self) -> int:
        """Stop `start` as a user does, and return the exit code."""
        if self.running and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGINT)
        return self.wait()


@contextmanager
def running(device: Device, command: str = "sync") -> Iterator[AgentProcess]:
    """Run `lockstep sync` (or `start`) on the device's folder; it is killed at the end if it still runs."""
    process = AgentProcess(device, (command, str(device.folder), "--json"))
    try:
        yield process
    finally:
        process.kill()


def _main(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
    """Be the command. Runs in the new process."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(env)
    logging.getLogger().handlers.clear()
    sys.argv = ["lockstep", *arguments]
    code = cli.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
