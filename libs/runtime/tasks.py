"""Structured background work for processes whose lifetime is an async context."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from libs.runtime.logs import get_logger

log = get_logger("tasks")


@asynccontextmanager
async def running(*jobs: Callable[[], Awaitable[None]]) -> AsyncIterator[asyncio.TaskGroup]:
    """Run `jobs` beside the body and cancel them at its end; the group takes further tasks.

    A job that fails fails the body, so a process never goes on with a dead part.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_as_coroutine(job)) for job in jobs]
        try:
            yield group
        finally:
            for task in tasks:
                task.cancel()


async def until_signalled() -> None:
    """Return at the first SIGTERM or SIGINT."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


async def every(seconds: float, job: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Call `job` for ever with pauses of `seconds`; an error is logged and the next round tried."""
    while True:
        try:
            await job()
        except Exception:
            log.exception("periodic job failed", job=name)
        await asyncio.sleep(seconds)


async def _as_coroutine(job: Callable[[], Awaitable[None]]) -> None:
    await job()
