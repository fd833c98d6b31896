"""An event loop in which time passes only while everybody waits, and threads are calls.

So a day takes no time, nothing runs at once, and the order of everything is given by what is
scheduled: one seed, one trace.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from typing_extensions import override

T = TypeVar("T")


class StuckError(AssertionError):
    """Everybody waits for something that will never happen."""


class _Selector(selectors.DefaultSelector):
    """Moves the loop's clock on instead of waiting."""

    now = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise StuckError("everybody waits, and nothing is going to happen")
        if timeout > 0:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.set_default_executor(Inline())

    @override
    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._virtual.now


class Inline(ThreadPoolExecutor):
    """Runs what it is given at once, in the caller's thread; takes a pool's arguments."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__(1)

    @override
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as a pool does; the caller gets it
            future.set_exception(error)
        return future
