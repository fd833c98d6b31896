"""Starting, stopping and killing the servers that tests run against."""

import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from deploy.local.commands import Command
from deploy.local.probes import port_is_free
from tests.support.reaper import Reaper

READY_SECONDS = 120.0
LOOK_EVERY = 0.03
LOG_LINES = 60


class NotReadyError(Exception):
    """A server ended or stayed silent; the text holds the end of its log."""


class Server:
    """One process made from a `Command`; it can be stopped, killed and started again on its ports."""

    def __init__(self, command: Command, folder: Path, reaper: Reaper) -> None:
        self.command = command
        self.log_path = folder / f"{command.name}.log"
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None
        command.prepare()
        if command.afterwards:
            reaper.run(command.afterwards, command.env)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise NotReadyError(f"{self.command.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start without waiting; nothing happens when it runs."""
        if self.running:
            return
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command.argv,
                env=dict(self.command.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaper.kill_group(self._process.pid)

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Return when the server answers; raise `NotReadyError` when it ended or time is up."""
        end = time.monotonic() + seconds
        while not self.command.ready.ready():
            if not self.running:
                raise NotReadyError(f"{self.command.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() > end:
                late = f"{self.command.name} ({self.command.ready}) was not ready after {seconds} s"
                raise NotReadyError(f"{late}:\n{self.log_tail()}")
            time.sleep(LOOK_EVERY)

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the whole group; a SIGKILL is waited for."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, with_signal)
        if with_signal is signal.SIGKILL:
            self._reap()

    def stop(self) -> None:
        """Stop as `Command.stop` says: ask, wait for the grace time, kill."""
        if self._process is None:
            return
        self._process.send_signal(self.command.stop.signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.command.stop.grace)
        self.kill(signal.SIGKILL)

    def wait(self, seconds: float) -> int:
        """The exit status, once the process has ended by itself."""
        assert self._process is not None
        status = self._process.wait(seconds)
        self._reap()
        return status

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = LOG_LINES) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._reaper.forget_group(self._process.pid)
        self._process = None


def free_ports(count: int) -> int:
    """The first of `count` neighbouring free ports, below those that the system hands out by itself."""
    for _ in range(200):
        first = 12_000 + secrets.randbelow(20_000 - count)
        if all(port_is_free("127.0.0.1", first + offset) for offset in range(count)):
            return first
    raise NotReadyError(f"found no {count} free ports in a row")
