"""How many parts travel side by side: as many as make it faster, fewer when the store struggles."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

_FIRST: Final = 4
"""As other tools for S3 begin: few enough for a slow line, enough not to wait for one answer at a time."""
_WINDOW_SECONDS: Final = 2.0
"""Over which a rate is measured before the next step; several parts should fit."""
_WINDOW_PARTS: Final = 2
"""Parts per lane that must have ended in a window, so that the rate means something."""
_GAIN: Final = 1.05
"""A step up must raise the rate by this to be kept: the gain of one lane of eight is 1.14 at best."""
_REST_WINDOWS: Final = 8
"""Windows that a width which proved best is kept before the next is tried."""
_CALM_SECONDS: Final = 1.0
"""Failures within so long of the last step down are of the same cause."""


class Lanes:
    """A semaphore for parts in one direction whose width, 1 to `most`, follows what it brings.

    Hill climbing on the measured rate: one lane more is tried, kept when it makes the whole
    faster, and taken back when not. A store that breaks off or says that it is busy halves the width, as
    TCP does with its window. It begins with `first`: few where what travels is large, so that a slow
    line is not crowded, and all where many small things each wait for an answer.
    """

    def __init__(self, most: int, clock: Callable[[], float] | None = None, *, first: int = _FIRST) -> None:
        self._most = most
        self._clock = clock or time.monotonic
        self.width = min(first, most)
        self.rate: float | None = None
        """Bytes a second over the last full window."""
        self._busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._climb = _Climb(self.width)
        self._window_start = self._clock()
        self._window_bytes = 0
        self._window_parts = 0
        self._calm_until = 0.0

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[None]:
        """Hold a lane while the body runs."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    async def enter(self) -> None:
        """Take a lane, which somebody has to `leave`; first come, first served."""
        if not self._busy:
            self._restart()  # the time in which nothing was to be moved tells nothing
        if self._busy < self.width and not self._queue:
            self._busy += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._busy -= 1
                self._admit()
            raise

    def leave(self) -> None:
        """Give a lane back."""
        self._busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._busy < self.width:
            waiter = self._queue.popleft()
            if not waiter.done():
                self._busy += 1
                waiter.set_result(None)

    def moved(self, count: int) -> None:
        """Take note of a part of `count` bytes that has arrived, and perhaps change the width."""
        self._window_bytes += count
        self._window_parts += 1
        seconds = self._clock() - self._window_start
        if seconds < _WINDOW_SECONDS or self._window_parts < _WINDOW_PARTS * self.width:
            return
        self.rate = rate = self._window_bytes / seconds
        self._restart()
        if self._busy >= self.width or self._queue:  # else the width was not what held it up
            self._widen_to(self._climb.next(self.width, rate, self._most))

    def struggled(self) -> None:
        """Take note that the store broke off or said that it is busy: half the width."""
        if self._clock() < self._calm_until:
            return
        self._calm_until = self._clock() + _CALM_SECONDS
        self._restart()
        self.width = max(1, self.width // 2)
        self._climb = _Climb(self.width)

    def _widen_to(self, width: int) -> None:
        self.width = width
        self._admit()

    def _restart(self) -> None:
        self._window_start, self._window_bytes, self._window_parts = self._clock(), 0, 0


class _Climb:
    """The next width from the rate of the last window."""

    def __init__(self, width: int) -> None:
        self._best = width
        self._best_rate = 0.0
        self._rest = 0

    def next(self, width: int, rate: float, most: int) -> int:
        """Return the width to measure next; `rate` (bytes a second) is that of `width`."""
        if width <= self._best:
            self._best, self._best_rate = width, rate
            if self._rest:
                self._rest -= 1
                return width
            return min(width + 1, most)
        if rate >= self._best_rate * _GAIN:
            self._best, self._best_rate = width, rate
            return min(width + 1, most)
        self._rest = _REST_WINDOWS
        return self._best
