"""Background verification: read and hash every byte of objects that S3 could not check as a whole.

Events and a periodic look at what is unverified put objects into a queue in memory; losing it
loses nothing, because being unverified is the object's own state.
"""

import asyncio
import hashlib
from typing import Final, Protocol

from prometheus_client import Counter

from libs.contracts.errors import NotFoundError
from libs.contracts.internal import HousedObject
from libs.contracts.limits import MIB
from libs.runtime.logs import get_logger
from libs.storage.port import ObjectStore
from services.janitor.domain import Reading, is_claimed

log = get_logger("verification")

VERIFIED: Final = Counter("lockstep_objects_verified_total", "Objects read and hashed", ["result"])

_MAX_WAITING: Final = 10_000
_BATCH_BYTES: Final = 8 * MIB


class Reports(Protocol):
    """Where results go."""

    async def verified(self, object_id: str, *, ok: bool) -> None:
        """Record the result; repeating it changes nothing. Raises `NotFoundError` when the object is gone."""


class Verifier:
    """Verifies the objects that it is told of, each once at a time."""

    def __init__(self, store: ObjectStore, reports: Reports) -> None:
        self._store = store
        self._reports = reports
        self._waiting: dict[str, HousedObject] = {}
        self._busy: set[str] = set()
        self._work = asyncio.Event()

    def add(self, item: HousedObject) -> None:
        """Have an object verified; when too many wait already, the periodic look finds it later."""
        if item.id not in self._busy and len(self._waiting) < _MAX_WAITING:
            self._waiting[item.id] = item
            self._work.set()

    async def run(self) -> None:
        """Verify for ever; run as many of these as objects may be read at once."""
        while True:
            await self._work.wait()
            item = self._next()
            if item is None:
                continue
            try:
                await self.verify(item)
            except Exception:  # it stays unverified: the periodic look finds it again
                log.exception("an object could not be verified yet", object_id=item.id)
            finally:
                self._busy.discard(item.id)

    def _next(self) -> HousedObject | None:
        if not self._waiting:
            self._work.clear()
            return None
        item = self._waiting.pop(next(iter(self._waiting)))
        self._busy.add(item.id)
        return item

    async def verify(self, item: HousedObject) -> bool:
        """Read the object, compare and report; a mismatch is believed when a second reading agrees."""
        ok = await self._reads_as_claimed(item) or await self._reads_as_claimed(item)
        try:
            await self._reports.verified(item.id, ok=ok)
        except NotFoundError:
            return ok
        VERIFIED.labels("ok" if ok else "corrupt").inc()
        if not ok:
            log.error("an object is not what was claimed", object_id=item.id)
        return ok

    async def _reads_as_claimed(self, item: HousedObject) -> bool:
        return is_claimed(await self._read(item.key), size=item.size, content_hash=item.content_hash)

    async def _read(self, key: str) -> Reading | None:
        digest, size, batch, held = hashlib.sha256(), 0, list[bytes](), 0
        try:
            async for chunk in self._store.read(key):
                batch.append(chunk)
                held += len(chunk)
                if held >= _BATCH_BYTES:
                    await asyncio.to_thread(_update, digest, batch)
                    size, batch, held = size + held, [], 0
        except NotFoundError:
            return None
        await asyncio.to_thread(_update, digest, batch)
        return Reading(size + held, digest.hexdigest())


def _update(digest: "hashlib._Hash", chunks: list[bytes]) -> None:
    for chunk in chunks:
        digest.update(chunk)
