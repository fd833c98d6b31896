"""Progress by items and bytes, on a terminal only."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TextIO


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; totals grow as more work is found. Sizes in bytes."""

    phase: str
    """One or two words for a person."""
    items_done: int = 0
    items_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0


OnProgress = Callable[[Progress], None]


def ignore(_progress: Progress) -> None:
    """Show nothing."""


class ProgressBar:
    """Shows the latest `Progress` with rate and time left while the context lasts.

    Nothing is drawn when `stream` (standard error unless given) is no terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task("looking", total=None, items="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing and leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands; cheap enough for every piece of bytes."""
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=progress.phase,
                completed=progress.bytes_done,
                total=progress.bytes_total or None,
                items=items_text(progress),
            )


class Counted(Protocol):
    """What has been settled so far: see `agent.transfer.Tally`."""

    settled_bytes: int
    settled_files: int


class PlanProgress:
    """Adds up what plans announce, a file that is planned again only once."""

    def __init__(self, tally: Counted) -> None:
        self._tally = tally
        self._announced: set[tuple[str, str | None]] = set()
        self._bytes = 0

    def announce(self, transfers: Iterable[tuple[str, str | None, int]]) -> None:
        """Take note of transfers: path, content hash, size in bytes."""
        for path, content_hash, size in transfers:
            if (path, content_hash) not in self._announced:
                self._announced.add((path, content_hash))
                self._bytes += size

    def now(self) -> Progress:
        """Return where the run stands; what was sent twice never shows more than all."""
        return Progress(
            "syncing",
            min(self._tally.settled_files, len(self._announced)),
            len(self._announced),
            min(self._tally.settled_bytes, self._bytes),
            self._bytes,
        )


def items_text(progress: Progress) -> str:
    """Return how many items are done of how many, or nothing when there are none."""
    return f"{progress.items_done:,}/{progress.items_total:,}" if progress.items_total else ""


def _bar(stream: TextIO) -> Any:
    """Return rich's display; imported here because most commands never need it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Display  # noqa: PLC0415

    return Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[items]}", markup=False),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    )
