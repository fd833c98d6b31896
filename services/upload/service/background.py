"""Work that outlives the request which began it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from libs.runtime.logs import get_logger

log = get_logger("background")


class Background:
    """Tasks of this process. What is cut off at its end is driven on by another one."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the caller; its error is logged, and kept for whoever awaits the task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("background work failed", kind=type(error).__name__, error=str(error))

    async def close(self, seconds: float) -> None:
        """Give running work a moment, then cut it off."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


@asynccontextmanager
async def repeating(seconds: float, job: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call `job` every so many seconds while the context lasts; its errors are logged."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await job()
            except Exception:
                log.exception("repeated work failed")

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
