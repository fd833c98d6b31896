"""The periodic jobs. Each may be repeated, stopped anywhere and run by two at once."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from prometheus_client import Counter

from libs.contracts.internal import MAX_KEYS
from libs.contracts.keys import OBJECTS_PREFIX, PROBE_PREFIX
from libs.messaging.dlq import dead_letters
from libs.messaging.metrics import DEAD_WAITING
from libs.mongo.views import Views
from libs.runtime.logs import get_logger
from libs.storage.port import ObjectStore
from services.janitor.domain import is_old, may_sweep_objects, unowned
from services.janitor.service.housekeeping import Housekeeping
from services.janitor.service.verification import Verifier
from services.janitor.settings import Settings

log = get_logger("janitor")
T = TypeVar("T")

COLLECTED: Final = Counter("lockstep_janitor_collected_total", "What the jobs dealt with", ["job"])


class Jobs:
    """What the janitor does from time to time."""

    def __init__(
        self,
        settings: Settings,
        housekeeping: Housekeeping,
        store: ObjectStore,
        views: Views,
        verifier: Verifier,
    ) -> None:
        self._settings = settings
        self._housekeeping = housekeeping
        self._store = store
        self._views = views
        self._verifier = verifier

    async def expire(self) -> None:
        """Expire upload sessions that were left alone."""
        await _until_done("expire", self._housekeeping.expire_uploads)

    async def redrive(self) -> None:
        """Take up sessions that are stuck; once a round, because one may be stuck again at once."""
        COLLECTED.labels("redrive").inc(await self._housekeeping.redrive_uploads())

    async def purge(self) -> None:
        """Purge removed namespaces, then what has been in the trash for too long."""
        await _until_done("purge", self._housekeeping.purge_namespaces)
        await _until_done("purge trash", self._housekeeping.purge_trash)

    async def expire_versions(self) -> None:
        """Thin the history of all files to what retention keeps."""
        place: str | None = None
        while True:
            step = await self._housekeeping.expire_versions(place)
            COLLECTED.labels("expire versions").inc(step.done)
            place = step.next
            if place is None:
                return

    async def collect_garbage(self) -> None:
        """Doom objects without a version; delete those doomed long enough, in S3 first."""
        await _until_done("doom", self._housekeeping.doom_objects)
        while items := await self._housekeeping.doomed():
            await self._store.delete([item.key for item in items])
            await self._housekeeping.forget([item.id for item in items])
            COLLECTED.labels("delete").inc(len(items))

    async def find_unverified(self) -> None:
        """Have objects verified whose event was missed."""
        for item in await self._housekeeping.unverified():
            self._verifier.add(item)

    async def sweep(self) -> None:
        """Remove what S3 holds and no service knows; nothing outside Lockstep's own prefixes."""
        await self._sweep_multiparts()
        await self._sweep_probes()
        if may_sweep_objects(await self._views.epoch(), datetime.now(UTC), self._settings.epoch_quiet):
            await self._sweep_objects()

    async def _sweep_objects(self) -> None:
        async for keys in _batches(self._old_keys()):
            lost = unowned(keys, await self._housekeeping.known_keys(keys))
            await self._store.delete(lost)
            _note_removed("objects", len(lost))

    async def _sweep_probes(self) -> None:
        """Remove what a service that died left of its look at S3: whatever the epoch, nobody owns it."""
        async for keys in _batches(self._old_keys(PROBE_PREFIX)):
            await self._store.delete(keys)
        async for batch in _batches(self._old_multiparts(PROBE_PREFIX)):
            for key, upload_id in batch:
                await self._store.abort_multipart(key, upload_id)

    async def _old_keys(self, prefix: str = OBJECTS_PREFIX) -> AsyncIterator[str]:
        async for item in self._store.walk(prefix):
            if is_old(item.modified_at, datetime.now(UTC), self._settings.sweep_grace):
                yield item.key

    async def _sweep_multiparts(self) -> None:
        async for batch in _batches(self._old_multiparts()):
            known = await self._housekeeping.known_multiparts([upload_id for _, upload_id in batch])
            lost = [(key, upload_id) for key, upload_id in batch if upload_id not in known]
            for key, upload_id in lost:
                await self._store.abort_multipart(key, upload_id)
            _note_removed("multiparts", len(lost))

    async def _old_multiparts(self, prefix: str = OBJECTS_PREFIX) -> AsyncIterator[tuple[str, str]]:
        async for key, upload_id, started_at in self._store.walk_multiparts(prefix):
            if is_old(started_at, datetime.now(UTC), self._settings.sweep_grace):
                yield key, upload_id

    async def count_dead_letters(self) -> None:
        """Set the metric of waiting dead letters."""
        async with dead_letters(self._settings) as dead:
            for service, count in (await dead.counts()).items():
                DEAD_WAITING.labels(service).set(count)


async def _until_done(job: str, call: Callable[[], Awaitable[int]]) -> None:
    while done := await call():
        COLLECTED.labels(job).inc(done)


async def _batches(items: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    batch: list[T] = []
    async for item in items:
        batch.append(item)
        if len(batch) == MAX_KEYS:
            yield batch
            batch = []
    if batch:
        yield batch


def _note_removed(what: str, count: int) -> None:
    if count:
        log.warning("removed what nobody owned", what=what, count=count)
        COLLECTED.labels(f"sweep {what}").inc(count)
