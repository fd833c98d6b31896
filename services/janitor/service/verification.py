"""Background reading of objects.

Where S3 could not check the whole, the hash is verified; of all but small ones the manifest is kept,
by which deltas are made.

Events and a periodic look at what is unverified put objects into queues in memory. Losing them loses
nothing: being unverified is the object's own state, and a missing manifest costs a full transfer.
"""

import asyncio
from typing import Final, Protocol

from prometheus_client import Counter

from libs.contracts.chunks import average_for
from libs.contracts.errors import NotFoundError, UnavailableError
from libs.contracts.internal import HousedObject
from libs.contracts.keys import manifest_key, namespace_of
from libs.contracts.limits import GIB, MIB
from libs.contracts.recipe import Range
from libs.delta.content import ContentReader
from libs.runtime.logs import get_logger
from libs.storage.port import ObjectStore
from libs.storage.steady import read_on
from services.janitor.domain import Reading, is_claimed

log = get_logger("verification")

VERIFIED: Final = Counter("lockstep_objects_verified_total", "Objects read and hashed", ["result"])

_MAX_WAITING: Final = 10_000
_GIANT: Final = 4 * GIB
"""Larger objects take minutes to hours to read."""
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
        self._unread: dict[str, HousedObject] = {}
        self._busy: set[str] = set()
        self._giants = 0
        """How many giants are being read."""
        self._work = asyncio.Event()

    def add(self, item: HousedObject) -> None:
        """Have an object verified; when too many wait already, the periodic look finds it later."""
        self._queue(self._waiting, item)

    def add_verified(self, item: HousedObject) -> None:
        """Have the manifest of an object made whose hash was checked by others, after what is not."""
        if average_for(item.size) is not None:
            self._queue(self._unread, item)

    def _queue(self, queue: dict[str, HousedObject], item: HousedObject) -> None:
        if item.id not in self._busy and len(queue) < _MAX_WAITING:
            queue[item.id] = item
            self._work.set()

    async def run(self) -> None:
        """Verify for ever; run as many of these as objects may be read at once."""
        while True:
            await self._work.wait()
            chosen = self._next(self._waiting) or self._next(self._unread)
            if chosen is None:
                self._work.clear()
                continue
            item, queue = chosen
            self._busy.add(item.id)
            self._giants += item.size > _GIANT
            try:
                await (self.verify(item) if queue is self._waiting else self.chunk(item))
            except Exception:  # it stays unverified: the periodic look finds it again
                log.exception("an object could not be read yet", object_id=item.id)
            finally:
                self._busy.discard(item.id)
                self._giants -= item.size > _GIANT
                self._work.set()

    def _next(self, queue: dict[str, HousedObject]) -> tuple[HousedObject, dict[str, HousedObject]] | None:
        """Take the first of a queue. Only one giant is read at a time, so that it holds up no small ones."""
        for item in queue.values():
            if item.size <= _GIANT or not self._giants:
                return queue.pop(item.id), queue
        return None

    async def verify(self, item: HousedObject) -> bool:
        """Read the object, compare and report; a mismatch is believed when a second reading agrees.

        Raises `UnavailableError` when the two differ: then it is the line that is bad, or the S3.
        """
        ok = await self._is_as_claimed(item)
        try:
            await self._reports.verified(item.id, ok=ok)
        except NotFoundError:
            return ok
        VERIFIED.labels("ok" if ok else "corrupt").inc()
        if not ok:
            log.error("an object is not what was claimed", object_id=item.id)
        return ok

    async def chunk(self, item: HousedObject) -> None:
        """Make the manifest of an object unless it is there; one that is not as S3 said is looked into."""
        if await self._lacks_manifest(item) and not _is_right(item, await self._look(item)):
            await self.verify(item)

    async def _is_as_claimed(self, item: HousedObject) -> bool:
        first = await self._look(item)
        if _is_right(item, first):
            return True
        second = await self._look(item)
        if not _is_right(item, second) and first != second:
            raise UnavailableError("Two readings of an object differ")
        return _is_right(item, second)

    async def _look(self, item: HousedObject) -> Reading | None:
        """Read the object; of one that is what was claimed, keep the manifest, unless that is there."""
        content = ContentReader(item.size, chunks=await self._lacks_manifest(item))
        reading = await self._read(item, content)
        manifest = await asyncio.to_thread(content.manifest) if _is_right(item, reading) else None
        if manifest is not None:
            await self._store.put(_manifest_key(item), b"".join(manifest.encode()))
        return reading

    async def _lacks_manifest(self, item: HousedObject) -> bool:
        """Whether the object is one of those that have a manifest, and its is not there yet."""
        return average_for(item.size) is not None and await self._store.head(_manifest_key(item)) is None

    async def _read(self, item: HousedObject, content: ContentReader) -> Reading | None:
        """Read to the end, or as far as shows that there is more than was claimed.

        One that breaks off is read on: a terabyte takes hours, and may never come in one piece.
        """
        size, batch, held = 0, list[bytes](), 0
        try:
            async for chunk in read_on(self._store, item.key, Range(0, item.size + 1)):
                batch.append(chunk)
                held += len(chunk)
                if held >= _BATCH_BYTES:
                    await asyncio.to_thread(_update, content, batch)
                    size, batch, held = size + held, [], 0
        except NotFoundError:
            return None
        await asyncio.to_thread(_update, content, batch)
        return Reading(size + held, content.hexdigest())


def _is_right(item: HousedObject, reading: Reading | None) -> bool:
    return is_claimed(reading, size=item.size, content_hash=item.content_hash)


def _update(content: ContentReader, chunks: list[bytes]) -> None:
    for chunk in chunks:
        content.update(chunk)


def _manifest_key(item: HousedObject) -> str:
    return manifest_key(namespace_of(item.key), item.id)
