"""How long the server's rate limit is waited out: each call for so long, and none for nothing."""

import time
from collections.abc import Callable
from typing import Final

_OF_ANOTHER_TIME: Final = 60.0
"""Seconds after which an earlier refusal says nothing of the next one."""


class RateLimit:
    """Shared by the calls of a process: what one waited for in vain, the others do not wait for too."""

    def __init__(self, seconds: float, clock: Callable[[], float] | None = None) -> None:
        self._seconds = seconds
        self._clock = clock or time.monotonic
        self._hopeless = False
        self._refused_at = 0.0

    def lets_wait(self, since: float, delay: float) -> bool:
        """Take note of a refusal of a call that began at `since`; say whether to wait `delay` seconds."""
        now = self._clock()
        if now - self._refused_at > _OF_ANOTHER_TIME:
            self._hopeless = False
        self._refused_at = now
        self._hopeless = self._hopeless or now + delay - since > self._seconds
        return not self._hopeless

    def lifted(self) -> None:
        """Take note that a call was let in."""
        self._hopeless = False
