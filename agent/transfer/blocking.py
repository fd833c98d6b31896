"""Calls to the file system from the event loop, with its errors as the agent's."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from agent.errors import LocalError

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a blocking call returns. Raises as `guarded`.

    Who is cancelled meanwhile waits for its end all the same, however often: it works on a file
    that is closed next.
    """
    job = partial(copy_context().run, partial(guarded, call, *args, **kwargs))
    thread = asyncio.get_running_loop().run_in_executor(None, job)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        while not thread.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        thread.exception()  # nobody is there to hear of it
        raise


def guarded(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call with the file system's errors as `LocalError` "unwritable" (such as a full disk)."""
    try:
        return call(*args, **kwargs)
    except OSError as error:
        raise LocalError(f"The file cannot be written: {error.strerror}", code="unwritable") from error
