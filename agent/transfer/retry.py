"""When to try a transfer again: per file or part, and for the store as a whole."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from agent.errors import LocalError
from agent.settings import Settings
from libs.contracts.errors import UnavailableError
from libs.runtime.backoff import Backoff

T = TypeVar("T")

_BACKOFF: Final = Backoff(0.2, 5.0)
_LONGEST_PAUSE: Final = 10.0
"""Seconds between two tries; a failure that is older is of another time."""
_MAX_REFUSALS: Final = 3
_MAX_DAMAGED: Final = 3


class TransientError(Exception):
    """The store did not answer, broke off, or said that it cannot right now."""

    def __init__(self, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class UrlRefusedError(Exception):
    """The store does not take this URL (any more): ask the server for a new one."""


class DamagedError(Exception):
    """The store says that the bytes that arrived are not those that were announced."""


class Patience:
    """Shared by all transfers: gives up once none has succeeded for `transfer_retry_seconds`.

    So hundreds of waiting files do not each wait out a store that is away.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] | None = None) -> None:
        self.attempts = settings.transfer_attempts
        self._seconds = settings.transfer_retry_seconds
        self._clock = clock or time.monotonic
        self._failing_since: float | None = None
        self._last_failure = 0.0

    def succeeded(self) -> None:
        """Take note that the store works."""
        self._failing_since = None

    def exhausted(self) -> bool:
        """Take note of a failure and say whether to give up."""
        now = self._clock()
        if self._failing_since is None or now - self._last_failure > self._seconds + _LONGEST_PAUSE:
            self._failing_since = now
        self._last_failure = now
        return now - self._failing_since > self._seconds


class _Tries:
    """The tries of one transfer so far."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._failures = 0
        self._refusals = 0
        self._damaged = 0

    async def after_failure(self, error: TransientError) -> None:
        """Wait before the next try or raise `UnavailableError`."""
        self._failures += 1
        if self._patience.exhausted() or self._failures >= self._patience.attempts:
            raise UnavailableError(f"The store does not answer: {error}", retry_after=5) from error
        await asyncio.sleep(max(_BACKOFF.delay(self._failures - 1), min(error.retry_after, _LONGEST_PAUSE)))

    def after_refusal(self, error: UrlRefusedError) -> None:
        """Return when a new URL may help or raise `LocalError` "refused_by_store"."""
        self._refusals += 1
        if self._refusals > _MAX_REFUSALS:
            raise LocalError(f"The store refused the transfer: {error}", code="refused_by_store") from error

    def after_damage(self, error: DamagedError) -> None:
        """Return when sending again may help or raise `LocalError` "corrupt_upload"."""
        self._damaged += 1
        if self._damaged >= _MAX_DAMAGED:
            raise LocalError(code="corrupt_upload") from error


def _nothing() -> None:
    return None


async def repeat(
    patience: Patience,
    once: Callable[[], Awaitable[T]],
    renew: Callable[[], Awaitable[None]],
    struggled: Callable[[], None] = _nothing,
) -> T:
    """Return what `once` returns, repeated while that can help; `renew` gets a new URL.

    `struggled` is told of each failure that says something about the store or the line to it.

    Raises `UnavailableError`, `LocalError` ("refused_by_store", "corrupt_upload"), and whatever
    else `once` and `renew` raise.
    """
    tries = _Tries(patience)
    while True:
        try:
            result = await once()
        except TransientError as error:
            struggled()
            await tries.after_failure(error)
        except UrlRefusedError as error:
            tries.after_refusal(error)
            await renew()
        except DamagedError as error:
            tries.after_damage(error)
        else:
            patience.succeeded()
            return result


async def together(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run jobs side by side; the first error stops the others and is raised as itself."""
    async with side_by_side() as group:
        for job in jobs:
            group.create_task(job)


@asynccontextmanager
async def side_by_side() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first error stops the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as error:
        raise _first(error) from error


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
