"""Agents as processes: the command itself, and a copy of this process that is quick to kill."""

import asyncio
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Final

from agent.app import read_status, run_agent, run_sync
from agent.settings import Settings
from tests.support.devices import LOCKSTEP, Device
from tests.support.waiting import wait_until

_STOP_SECONDS: Final = 30.0


class Running:
    """`lockstep start` of one device; its log is beside the device's home."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._device.home.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [LOCKSTEP, "start", str(self._device.folder)],
                env=self._device.environment(), stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it as a person does; it must end soon, and well."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._device.name}: the agent does not stop") from None
        self._process = None
        assert code == 0, f"{self._device.name}: the agent ended with {code}"

    def is_in_step(self) -> bool:
        """Whether it says so; one that ended by itself is a failure."""
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"{self._device.name}: the agent ended by itself with {code}"
        return read_status(Settings(home=self._device.home)).phase == "in_step"


@dataclass
class Mortal:
    """An agent in a copy of this process: it works at once, so that a kill meets its work."""

    device: Device
    pid: int

    @staticmethod
    def start(device: Device, *, stays: bool) -> "Mortal":
        """Sync once, or stay as `lockstep start` does. Only for a process without other threads."""
        pid = os.fork()
        if pid == 0:
            _live(device, stays=stays)
        return Mortal(device, pid)

    def ended(self) -> bool:
        """Whether it ended by itself."""
        if self.pid:
            pid, _ = os.waitpid(self.pid, os.WNOHANG)
            self.pid = 0 if pid else self.pid
        return not self.pid

    def kill_after(self, seconds: float) -> bool:
        """Kill it after some seconds; say whether it was still at work."""
        end = time.monotonic() + seconds
        try:
            wait_until(lambda: self.ended() or time.monotonic() > end, seconds + 5, "its end", every=0.002)
        finally:
            killed = bool(self.pid)
            self.kill()
        return killed

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _live(device: Device, *, stays: bool) -> None:
    """Be the agent until the end of this process."""
    code = 1
    try:
        log = os.open(device.home.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        settings = Settings(home=device.home)
        run = run_agent if stays else run_sync
        asyncio.run(run(settings, device.folder, allow_mass_delete=True))
        code = 0
    finally:
        os._exit(code)
