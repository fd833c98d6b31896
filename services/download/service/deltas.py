"""What a version has in common with another one, for a client that has the other one's bytes."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from libs.contracts import recipe as recipes
from libs.contracts.api import DownloadDelta
from libs.contracts.binary import MalformedError
from libs.contracts.chunks import SMALLEST_CHUNKED, Manifest
from libs.contracts.errors import ConflictError, NotFoundError
from libs.contracts.limits import GIB
from libs.contracts.recipe import Recipe, RecipeTooLongError, recipe_of
from libs.runtime.logs import get_logger
from services.download.domain import Readable, Wanted, worth_it
from services.download.service.files import CheckNamespace, Downloads
from services.download.service.manifests import Manifests

log = get_logger("deltas")

_AT_ONCE: Final = 2
"""Pairs of versions compared at once; each takes memory for the chunks of both."""
_LARGE: Final = 20 * GIB
"""Comparing larger ones takes seconds: they wait for each other, and nobody waits for them."""
_MOST_WAITING: Final = 32
"""Further ones are fetched whole, as by those who would not wait for their turn."""


class Deltas:
    """Use case of `GET /files/{id}/delta`."""

    def __init__(self, downloads: Downloads, manifests: Manifests, max_recipe_bytes: int) -> None:
        self._downloads = downloads
        self._manifests = manifests
        self._max_recipe_bytes = max_recipe_bytes
        self._small, self._large = _Turns(_AT_ONCE), _Turns(1)

    async def between(self, base: Wanted, target: Wanted, check: CheckNamespace) -> DownloadDelta:
        """Return how the target is made of ranges of the base.

        Raises as `Downloads.one` does for either, and `ConflictError` "no_delta" when the chunks of
        one are not known, the two have less than half in common, or too many wait already.
        """
        old = await self._downloads.found(base, check)
        new = await self._downloads.found(target, check)
        if min(old.size, new.size) < SMALLEST_CHUNKED:
            raise ConflictError(code="no_delta")
        async with (self._large if max(old.size, new.size) > _LARGE else self._small).one():
            text = await self._recipe(old, new)
        link = await self._downloads.presigned(new, attachment=False)
        return DownloadDelta(**link.model_dump(), from_version_id=old.version_id, recipe=text)

    async def _recipe(self, old: Readable, new: Readable) -> str:
        try:
            before = await self._manifests.of(old)
            after = await self._manifests.of(new)
            recipe = await asyncio.to_thread(_compared, before, after)
        except (NotFoundError, MalformedError, RecipeTooLongError) as error:
            log.info("there is no delta", version_id=new.version_id, reason=str(error))
            raise ConflictError(code="no_delta") from error
        encoded = await asyncio.to_thread(recipes.encode, recipe)
        if not worth_it(recipe, new.size) or len(encoded) > self._max_recipe_bytes:
            raise ConflictError(code="no_delta")
        return base64.b64encode(encoded).decode("ascii")


def _compared(before: Manifest, after: Manifest) -> Recipe:
    """Compare two manifests. Raises `MalformedError` where their chunks cannot be equal."""
    if before.average != after.average:
        raise MalformedError("The two are cut into chunks of different sizes")
    return recipe_of(before, after)


class _Turns:
    """So many at once, and not too many waiting."""

    def __init__(self, at_once: int) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._waiting = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context lasts. Raises `ConflictError` "no_delta"."""
        if self._waiting >= _MOST_WAITING:
            raise ConflictError(code="no_delta")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()
