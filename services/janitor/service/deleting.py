"""Deleting many objects in S3: in one request where that is known to work, else side by side."""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Final

from libs.contracts.errors import LockstepError, UnavailableError
from libs.runtime.logs import get_logger
from libs.storage.port import MAX_DELETED, ObjectStore
from libs.storage.probe import deletes_many

log = get_logger("deleting")

_FEW: Final = 8
"""Keys up to so many are deleted one by one: finding out what S3 does would take longer."""
_SINGLE: Final = 8
"""Requests at once that delete one object each."""
_MANY: Final = 2
"""Requests at once that delete up to 1,000."""


class Deleter:
    """Deletes objects. What this S3 does is found out once, when there is first much to delete."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._many: bool | None = None

    async def delete(self, keys: Sequence[str]) -> set[str]:
        """Delete objects and return the keys of those that S3 refused to: they are to be tried again.

        Those that are not there count as done. Raises `UnavailableError`.
        """
        if len(keys) <= _FEW or not await self._deletes_many():
            refused = await self._in_turns(_SINGLE, [[key] for key in keys])
        else:
            cut = range(0, len(keys), MAX_DELETED)
            refused = await self._in_turns(_MANY, [keys[start : start + MAX_DELETED] for start in cut])
        if refused:
            log.warning("S3 refused to delete objects", count=len(refused), first=min(refused))
        return refused

    async def _deletes_many(self) -> bool:
        if self._many is None:
            self._many = await deletes_many(self._store)
            log.info("deleting objects", at_once=MAX_DELETED if self._many else 1)
        return self._many

    async def _in_turns(self, at_once: int, groups: Sequence[Sequence[str]]) -> set[str]:
        """Delete groups of keys, so many requests at once. The first error ends all, raised as itself."""
        waiting = iter(groups)

        async def work() -> set[str]:
            return set(chain.from_iterable([await self._delete(group) for group in waiting]))

        try:
            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(work()) for _ in range(at_once)]
        except* UnavailableError as errors:
            raise errors.exceptions[0] from None
        return set(chain.from_iterable(worker.result() for worker in workers))

    async def _delete(self, keys: Sequence[str]) -> Sequence[str]:
        if len(keys) > 1:
            return await self._delete_group(keys)
        try:
            await self._store.delete(keys)
        except UnavailableError:
            raise
        except LockstepError:
            return keys
        return ()

    async def _delete_group(self, keys: Sequence[str]) -> Sequence[str]:
        """Delete keys in one request, or one by one when S3 refuses that, though not the trial."""
        try:
            return await self._store.delete_many(keys)
        except UnavailableError:
            raise
        except LockstepError as error:
            log.warning("S3 refused to delete objects in one request", count=len(keys), reason=error.detail)
        return list(chain.from_iterable([await self._delete([key]) for key in keys]))
