"""One `lockstep sync` as a process, that ends by itself or by a kill."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.devices import LOCKSTEP, Device
from tests.support.memory import Peak

_EVERY = 0.2


class StuckError(AssertionError):
    """Nothing moved for too long, or the agent ended before it was to be killed."""


@dataclass
class AgentRuns:
    """The runs of one device, one after the other, and the most memory any of them held."""

    device: Device
    peak: Peak = field(default_factory=Peak)

    @contextmanager
    def running(self) -> Iterator["AgentRun"]:
        """A run for the time of the body; killed at its end, if it still runs then."""
        log = self.device.home.with_suffix(".err")
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [LOCKSTEP, "sync", str(self.device.folder), "--json"],
                env=self.device.environment(), stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        try:
            with self.peak.watching(process.pid):
                yield AgentRun(process, log.read_text)
        finally:
            process.kill()
            process.communicate()


@dataclass
class AgentRun:
    process: subprocess.Popen[bytes]
    errors: Callable[[], str]
    started: float = field(default_factory=time.monotonic)

    def until(self, reached: Callable[[], bool], moved: Callable[[], Any], stall: float) -> None:
        """Return when it is `reached`.

        Raises `StuckError` when it ends before, or when `moved` stays equal for `stall` seconds.
        """
        last, since = moved(), time.monotonic()
        while not reached():
            if self.process.poll() is not None:
                raise StuckError(f"the agent ended with {self.process.returncode}: {self.errors()[-2000:]}")
            now = moved()
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > stall:
                raise StuckError(f"nothing has moved for {stall:.0f} s: {last}")
            time.sleep(_EVERY)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def report(self, seconds: float) -> dict[str, Any]:
        """What it says at its end, which must be success."""
        out, _ = self.process.communicate(timeout=seconds)
        if self.process.returncode:
            raise StuckError(
                f"the agent ended with {self.process.returncode}: {out!r} {self.errors()[-2000:]}"
            )
        report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return report
