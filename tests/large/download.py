"""The download by a second device, killed at a quarter, the half and three quarters."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from agent.settings import Settings
from tests.large.agent import AgentRuns
from tests.large.size import Shape
from tests.large.source import Source
from tests.large.summary import Summary
from tests.large.upload import NAME, SHARES
from tests.support.devices import OWN, Device

_JITTER: Final = 0.03
_STALL: Final = 120.0


@dataclass
class Fetch:
    """The file, from S3 onto another device."""

    device: Device
    source: Source
    shape: Shape
    summary: Summary

    def run(self, random: Random) -> AgentRuns:
        """Fetch the file over kills, and check that what had arrived is not fetched again."""
        runs, held = AgentRuns(self.device), 0
        for share in SHARES:
            held = self._killed_at(runs, share + random.uniform(-_JITTER, _JITTER))
        started = time.monotonic()
        with runs.running() as run:
            report = run.report(_STALL + self.shape.size / (10 << 20))
        self.summary.phase("last sync until in step", report["downloaded_bytes"], time.monotonic() - started)
        limit = self.shape.size - held + Settings(home=self.device.home).part_parallel * self.shape.part_size
        self.summary.expect(
            report["downloaded_bytes"] <= limit,
            f"the last run fetched {report['downloaded_bytes']} bytes of {self.shape.size}, and had {held}",
        )
        self._check(self.device.path(NAME))
        return runs

    def _killed_at(self, runs: AgentRuns, share: float) -> int:
        """Kill it with this share on the disk; what is there then."""
        target, before, started = int(self.shape.size * share), self._on_disk(), time.monotonic()
        with runs.running() as run:
            run.until(lambda: self._on_disk() >= target, self._on_disk, _STALL)
            run.kill()
        seconds, held = time.monotonic() - started, self._on_disk()
        self.summary.phase(f"sync until killed at {held / self.shape.size:.0%}", held - before, seconds)
        self.summary.expect(not self.device.path(NAME).exists(), "a file that is not whole is visible")
        return held

    def _on_disk(self) -> int:
        """Bytes in the folder's temporary files: what was written, without the holes."""
        return sum(_blocks(path) for path in (self.device.folder / OWN).rglob("*"))

    def _check(self, path: Path) -> None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        self.summary.expect(
            (size, found) == (self.shape.size, self.source.sha256()), f"what was fetched is {size} {found}"
        )


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
