"""Calls to the file system from the event loop, with its errors as the agent's."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from agent.errors import LocalError

P = ParamSpec("P")
T = TypeVar("T")

Stop = Callable[[], bool]
"""Says that nobody waits for the result any more; asked between blocks of a long call."""


def never() -> bool:
    """Go on to the end."""
    return False


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a blocking call returns. Raises as `guarded`.

    Who is cancelled meanwhile waits for its end all the same, however often: it works on a file
    that is closed next.
    """
    return await _ended(partial(guarded, call, *args, **kwargs), threading.Event())


async def until_stopped(call: Callable[[Stop], T]) -> T:
    """As `in_thread`, for a call that may take minutes: it is given what says that it is to end soon."""
    stopped = threading.Event()
    return await _ended(partial(guarded, call, stopped.is_set), stopped)


async def _ended(job: Callable[[], T], stopped: threading.Event) -> T:
    """Return what a job gives in a thread; who is cancelled sets `stopped` and waits for its end."""
    thread = asyncio.get_running_loop().run_in_executor(None, partial(copy_context().run, job))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stopped.set()
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
