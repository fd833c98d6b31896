"""What has moved so far, of everything and of each large file under way."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from agent.rates import Meter, rate_text, scaled
from libs.runtime.logs import get_logger

log = get_logger("transfer")

Direction = Literal["uploading", "downloading"]


@dataclass(eq=False, slots=True)
class Moving:
    """A large file under way. Sizes in bytes."""

    path: str
    code: Direction
    size: int
    resumed_bytes: int = 0
    """What was there already and did not travel: done, but not in the rate."""
    meter: Meter = field(default_factory=Meter)
    settled: int = 0
    in_flight: int = 0
    travelled: int = 0
    waiting: bool = False
    """Whether it moves nothing for now, for a reason that may last minutes."""

    @property
    def bytes_done(self) -> int:
        """What is there or under way; never more than all."""
        return max(0, min(self.size, self.settled + self.in_flight))

    @property
    def rate(self) -> float:
        """Bytes a second that travel."""
        return self.meter.rate

    def moved(self, count: int) -> None:
        """Count bytes that travelled."""
        self.travelled += count
        self.meter.add(count)


_MOVING: ContextVar[Moving | None] = ContextVar("moving", default=None)
"""The large file that the running task works for. Tasks inherit it, so that what counts bytes, deep in
a request to the store, need not be told which file they are of."""


@dataclass(slots=True)
class Tally:
    """Payload bytes to and from S3, and what that settles. `on_change` is told the settled bytes added."""

    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    settled_bytes: int = 0
    """Bytes of files or parts that are where they are to be, those that S3 held before too."""
    settled_files: int = 0
    on_change: Callable[[int], None] | None = None
    on_wait: Callable[[], None] | None = None
    """Told that a large file begins to wait: another one may move meanwhile."""
    in_flight_bytes: int = 0
    """Bytes sent that the store has not acknowledged yet."""
    under_way: list[Moving] = field(default_factory=list)
    """Large files, in the order in which they began."""
    up: Meter = field(default_factory=Meter)
    down: Meter = field(default_factory=Meter)

    def sent(self, count: int) -> None:
        """Count bytes that the store has acknowledged."""
        self.uploaded_bytes += count
        self._settle(count)

    def received(self, count: int) -> None:
        """Count bytes that arrived."""
        self.downloaded_bytes += count
        self.down.add(count)
        if moving := _MOVING.get():
            moving.moved(count)
        self._settle(count)

    def settled(self, count: int) -> None:
        """Count bytes that did not have to travel."""
        if moving := _MOVING.get():
            moving.resumed_bytes += count
        self._settle(count)

    def lost(self, count: int, *, files: int = 0) -> None:
        """Take back bytes, and files, that were counted and turned out not to be there: they travel again."""
        self.settled_files -= files
        self._settle(-count)

    def flying(self, count: int) -> None:
        """Count bytes that were given to the network; less than 0: they arrived or came to nothing."""
        moving = _MOVING.get()
        self.in_flight_bytes += count
        if moving:
            moving.in_flight += count
        if count > 0:
            self.up.add(count)
            if moving:
                moving.moved(count)
            self._tell(0)

    def file_done(self) -> None:
        """Count a file that is there as a whole."""
        self.settled_files += 1
        self._tell(0)

    @contextmanager
    def moving(self, path: str, code: Direction, size: int) -> Iterator[None]:
        """Count what moves in the body, and in tasks that it starts, for one large file, too.

        What is settled counts for good, and once, when all of it is there; otherwise it is counted
        again when the file goes on.
        """
        moving, begun = Moving(path, code, size), time.monotonic()
        self.under_way.append(moving)
        token = _MOVING.set(moving)
        log.info("a large file starts", path=path, code=code, size=_size(size))
        whole = False
        try:
            yield
            whole = moving.settled >= size
        finally:
            _MOVING.reset(token)
            self.under_way.remove(moving)
            self.settled_bytes -= moving.settled - (size if whole else 0)
            event = "a large file ended" if whole else "a large file stopped before its end"
            _say_end(event, moving, time.monotonic() - begun)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the large file count as one that moves nothing while the body runs."""
        moving = _MOVING.get()
        if moving is None:
            yield
            return
        moving.waiting = True
        if self.on_wait is not None:
            self.on_wait()
        try:
            yield
        finally:
            moving.waiting = False

    def resumes(self, count: int) -> None:
        """Tell the log, before the rest travels, that `count` bytes of the large file are there."""
        moving = _MOVING.get()
        if moving and count:
            log.info("a large file goes on", path=moving.path, there=_size(count), size=_size(moving.size))

    def _settle(self, count: int) -> None:
        self.settled_bytes += count
        if moving := _MOVING.get():
            moving.settled += count
        self._tell(count)

    def _tell(self, count: int) -> None:
        if self.on_change is not None:
            self.on_change(count)


def _say_end(event: str, moving: Moving, seconds: float) -> None:
    log.info(
        event,
        path=moving.path,
        code=moving.code,
        moved=_size(moving.travelled),
        seconds=round(seconds, 1),
        rate=rate_text(moving.travelled / seconds if seconds else 0.0),
    )


def _size(count: int) -> str:
    amount, unit = scaled(count)
    return f"{amount:.1f} {unit}"
