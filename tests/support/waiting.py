"""Waiting for something that another process does."""

import asyncio
import time
from collections.abc import Awaitable, Callable


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str, every: float = 0.05) -> None:
    """Return when the condition holds; raise `TimeoutError` with `otherwise` when time is up."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{otherwise} within {seconds} s")
        time.sleep(every)


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float, every: float = 0.05) -> None:
    """Return when the awaited check holds; raise `TimeoutError` when time is up."""
    end = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > end:
            raise TimeoutError(f"not so within {seconds} s")
        await asyncio.sleep(every)
