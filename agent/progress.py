"""Progress by items and bytes, of everything and of each large file; drawn on a terminal only."""

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO

from agent.rates import WINDOW, left_text, rate_text, seconds_left

_REDRAW_SECONDS: Final = 0.1
_NAME_LENGTH: Final = 40


@dataclass(frozen=True, slots=True)
class FileProgress:
    """Where a large file under way stands. Sizes in bytes."""

    path: str
    code: str
    """ "uploading" or "downloading"."""
    bytes_done: int = 0
    """What is there, and what the store has not acknowledged yet; never more than all."""
    bytes_total: int = 0
    rate: float = 0.0
    """Bytes a second that travel."""
    eta_seconds: float | None = None
    """None: nobody knows."""
    resumed_bytes: int = 0
    """Of those done: what was there before, and did not travel."""

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it, and as the running agent notes it."""
        return {
            "path": self.path,
            "code": self.code,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "rate": round(self.rate),
            "eta_seconds": _whole(self.eta_seconds),
            "resumed_bytes": self.resumed_bytes,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; totals grow as more work is found. Sizes in bytes."""

    phase: str
    """One or two words for a person."""
    items_done: int = 0
    items_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    """Bytes a second that travel, in both directions."""
    eta_seconds: float | None = None
    """None: nobody knows."""
    rate_up: float = 0.0
    rate_down: float = 0.0
    transfers: tuple[FileProgress, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what concerns all, as scripts read it."""
        return {
            "phase": self.phase,
            "items_done": self.items_done,
            "items_total": self.items_total,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "rate": round(self.rate),
            "eta_seconds": _whole(self.eta_seconds),
        }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


OnProgress = Callable[[Progress], None]


def ignore(_progress: Progress) -> None:
    """Show nothing."""


# What is known ----------------------------------------------------------------------------------


class MovingFile(Protocol):
    """A large file under way: see `agent.transfer.Moving`."""

    path: str
    size: int
    resumed_bytes: int

    @property
    def code(self) -> str: ...

    @property
    def bytes_done(self) -> int: ...

    @property
    def rate(self) -> float: ...


class Measured(Protocol):
    """Bytes a second: see `agent.rates.Meter`."""

    @property
    def rate(self) -> float: ...


class Counted(Protocol):
    """What has been settled so far and is under way: see `agent.transfer.Tally`."""

    settled_bytes: int
    settled_files: int
    in_flight_bytes: int

    @property
    def up(self) -> Measured: ...

    @property
    def down(self) -> Measured: ...

    @property
    def under_way(self) -> Iterable[MovingFile]: ...


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
        items = len(self._announced)
        return progress_of(
            self._tally, "syncing", self._bytes, items=(min(self._tally.settled_files, items), items)
        )


def progress_of(tally: Counted, phase: str, size: int, *, items: tuple[int, int] = (0, 0)) -> Progress:
    """Return where transfers of `size` bytes and of `items` (done, in total) stand."""
    done = max(0, min(tally.settled_bytes + tally.in_flight_bytes, size))
    up, down = tally.up.rate, tally.down.rate
    return Progress(
        phase,
        *items,
        done,
        size,
        up + down,
        seconds_left(size - done, up + down),
        up,
        down,
        tuple(map(_of_file, tally.under_way)),
    )


def _of_file(moving: MovingFile) -> FileProgress:
    done, rate = moving.bytes_done, moving.rate
    return FileProgress(
        os.fsencode(moving.path).decode(errors="replace"),
        moving.code,
        done,
        moving.size,
        rate,
        seconds_left(moving.size - done, rate),
        min(moving.resumed_bytes, moving.size),
    )


def items_text(progress: Progress) -> str:
    """Return how many items are done of how many, or nothing when there are none."""
    return f"{progress.items_done:,}/{progress.items_total:,}" if progress.items_total else ""


# What is drawn ----------------------------------------------------------------------------------


class ProgressBar:
    """Shows the latest `Progress` while the context lasts: a line for all, and one for each large file.

    Nothing is drawn when `stream` (standard error unless given) is no terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._files: dict[str, Any] = {}
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task("looking", total=None, items="", **_pace(0.0, None))
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing and leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def due(self) -> bool:
        """Whether a call would draw: who has to put the progress together first may ask."""
        return self._bar is not None and time.monotonic() - self._drawn_at >= _REDRAW_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands; cheap enough for every piece of bytes."""
        if not self.due:
            return
        self._drawn_at = time.monotonic()
        self._bar.update(
            self._task,
            description=progress.phase,
            completed=progress.bytes_done,
            total=progress.bytes_total or None,
            items=items_text(progress),
            **_pace(progress.rate, progress.eta_seconds),
        )
        self._show_files({file.path: file for file in progress.transfers})

    def _show_files(self, files: dict[str, FileProgress]) -> None:
        for path in self._files.keys() - files.keys():
            self._bar.remove_task(self._files.pop(path))
        for path, file in files.items():
            if path not in self._files:
                self._files[path] = self._bar.add_task(short_name(path), items="", **_pace(0.0, None))
            self._bar.update(
                self._files[path],
                completed=file.bytes_done,
                total=file.bytes_total,
                **_pace(file.rate, file.eta_seconds),
            )


def short_name(path: str) -> str:
    """Return a file's name as one short line that no terminal takes for a command."""
    name = "".join(letter if letter.isprintable() else "\ufffd" for letter in path.rpartition("/")[2])
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 12]}…{name[-11:]}"


def _pace(rate: float, eta_seconds: float | None) -> dict[str, Any]:
    """Return the fields of a line that are true only for a while."""
    return {"rate": rate_text(rate), "left": left_text(eta_seconds), "at": time.monotonic()}


def _bar(stream: TextIO) -> Any:
    """Return rich's display; imported here because most commands never need it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, ProgressColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Display  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    class Pace(ProgressColumn):
        """Rate and time left as they were told, and that nothing moves when that is long ago."""

        def render(self, task: Any) -> Text:
            stale = time.monotonic() - task.fields["at"] > WINDOW
            fields = _pace(0.0, None) if stale else task.fields
            return Text(f"{fields['rate']}  {fields['left']}".rstrip())

    return Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[items]}", markup=False),
        DownloadColumn(binary_units=True),
        Pace(),
        console=Console(file=stream),
        transient=True,
    )
