"""Hints of changes, collected from any thread and fetched by the loop once it is quiet."""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Final

_MANY: Final = 50_000
"""Dirty paths beyond which a full scan costs less."""
_WRITE_QUIET: Final = 0.2
"""Seconds of silence after which a file that was written to, but not closed, is looked at."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What to scan: these paths with what is below them, or everything."""

    paths: frozenset[str] = frozenset()
    overflow: bool = False
    """Events were lost, so only a full scan helps."""

    def __bool__(self) -> bool:
        """Whether there is anything to scan."""
        return self.overflow or bool(self.paths)


class Inbox:
    """Collects hints from any thread until they are fetched; many about one path are one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._ready = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self._dirty: set[str] = set()
        self._written: set[str] = set()
        self._full = False
        self._first = self._last = 0.0

    def changed(self, path: str, *, open_still: bool = False) -> None:
        """Note a change; with `open_still` more is expected until the file is closed."""
        with self._lock:
            self._dirty.add(path)
            if open_still:
                self._written.add(path)
            else:
                self._written.discard(path)
            if len(self._dirty) > _MANY:
                self._lost()
            self._touch()

    def everything(self) -> None:
        """Note that events were lost: only a full scan helps."""
        with self._lock:
            self._lost()
            self._touch()

    def _lost(self) -> None:
        self._full = True
        self._dirty, self._written = set(), set()

    def _touch(self) -> None:
        self._last = time.monotonic()
        if not self._first:
            self._first = self._last
            self._loop.call_soon_threadsafe(self._ready.set)

    async def wait(self) -> None:
        """Return when there is something to fetch."""
        await self._ready.wait()

    def due(self, quiet: float, longest: float) -> float:
        """Return when (of `time.monotonic`) the hints are to be fetched, if nothing more comes."""
        with self._lock:
            rest = max(quiet, _WRITE_QUIET) if self._written else quiet
            return min(self._last + rest, self._first + longest)

    def fetch(self) -> Hint:
        """Take everything collected so far."""
        with self._lock:
            hint = Hint(overflow=True) if self._full else Hint(frozenset(self._dirty))
            self._clear()
            self._ready.clear()
            return hint
