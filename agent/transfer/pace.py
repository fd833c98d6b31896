"""How fast bytes may travel in one direction, over all connections of the process: a token bucket."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

_BURST_SECONDS: Final = 0.25
_BURST_BYTES: Final = 256 * 1024
"""The least burst, so that a piece of a body is never cut by the limit of a fast line."""
_PIECE_BYTES: Final = 256 * 1024
_PIECE_SECONDS: Final = 0.25
"""What a piece may take by itself: sixteen connections side by side then each move a piece within four
seconds, and S3 cuts connections that are idle for some twenty."""
_LEAST_PIECE: Final = 1024
_LEAST_SLEEP: Final = 0.001
"""Seconds; a shorter one may end before the clock has moved."""


class Pace:
    """Lets bytes pass at `rate` bytes a second, first come, first served; None lets all pass at once.

    In any `t` seconds at most `rate * t + burst` bytes pass, in pieces of up to `burst` bytes. Who is
    cancelled while waiting has taken nothing.
    """

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.rate = rate
        self.burst = 0.0 if rate is None else max(rate * _BURST_SECONDS, _BURST_BYTES)
        """Bytes that may pass at once after a pause."""
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._tokens = self.burst
        self._filled_at = 0.0 if rate is None else clock()

    @property
    def piece(self) -> int:
        """Return how many bytes should travel at once: fewer where the limit is low.

        So no connection is silent for long.
        """
        if self.rate is None:
            return _PIECE_BYTES
        return int(min(_PIECE_BYTES, max(_LEAST_PIECE, self.rate * _PIECE_SECONDS)))

    async def take(self, count: int) -> None:
        """Return when `count` bytes may pass (or, of bytes that came, when the next may come)."""
        if self.rate is not None and count > 0:
            async with self._turn:
                await self._filled_to(count, self.rate)
                self._tokens -= count

    async def _filled_to(self, count: int, rate: float) -> None:
        """Wait for the tokens. More than a burst is saved up only for who waits for it."""
        self._fill(self.burst, rate)
        while self._tokens < count:
            await self._sleep(max((count - self._tokens) / rate, _LEAST_SLEEP))
            self._fill(max(self.burst, count), rate)

    def _fill(self, most: float, rate: float) -> None:
        now = self._clock()
        self._tokens = min(most, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
