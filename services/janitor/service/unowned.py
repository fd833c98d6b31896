"""What S3 holds and nobody owns: objects, manifests, multipart uploads, leftovers of probes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from libs.contracts.ids import is_id
from libs.contracts.internal import Finding
from libs.contracts.keys import MANIFESTS_PREFIX, OBJECTS_PREFIX, PROBE_PREFIX, object_of_manifest
from libs.mongo.views import Views
from libs.storage.port import ObjectStore
from services.janitor.domain import is_old, may_sweep_objects, unowned
from services.janitor.service.batches import batches
from services.janitor.service.deleting import Deleter
from services.janitor.service.findings import Report
from services.janitor.service.housekeeping import Housekeeping
from services.janitor.settings import Settings

_QUIET: Final = "the server has a new epoch: it may have had an owner"


class UnownedSweep:
    """Finds, and with `repair` removes, what is older than the grace time; nothing outside our prefixes."""

    def __init__(
        self, settings: Settings, housekeeping: Housekeeping, store: ObjectStore, views: Views
    ) -> None:
        self._settings = settings
        self._housekeeping = housekeeping
        self._store = store
        self._deleter = Deleter(store)
        self._views = views

    async def run(self, report: Report, *, repair: bool) -> None:
        """Look at everything that S3 lists."""
        await self._multiparts(report, repair=repair)
        await self._probes(report, repair=repair)
        epoch = await self._views.epoch()
        calm = may_sweep_objects(epoch, datetime.now(UTC), self._settings.epoch_quiet)
        for prefix, owned in (
            (OBJECTS_PREFIX, self._housekeeping.known_keys),
            (MANIFESTS_PREFIX, self._owned_manifests),
        ):
            await self._keys(report, prefix, owned, repair=repair and calm, why="" if calm else _QUIET)

    async def _keys(
        self,
        report: Report,
        prefix: str,
        owned: Callable[[Sequence[str]], Awaitable[set[str]]],
        *,
        repair: bool,
        why: str,
    ) -> None:
        kind = "unowned_object" if prefix == OBJECTS_PREFIX else "unowned_manifest"
        async for keys in batches(self._old_keys(prefix)):
            lost = unowned(keys, await owned(keys))
            kept = await self._deleter.delete(lost) if repair else lost
            report.add(Finding(kind=kind, id=key, detail=why, repaired=key not in kept) for key in lost)

    async def _owned_manifests(self, keys: Sequence[str]) -> set[str]:
        """Return the manifests whose object has a document; what is no manifest's key is nobody's."""
        by_object = {object_of_manifest(key): key for key in keys}
        alive = await self._housekeeping.alive([one for one in by_object if is_id(one)])
        return {by_object[object_id] for object_id in alive}

    async def _probes(self, report: Report, *, repair: bool) -> None:
        """What a service that died left of its look at S3: whatever the epoch, nobody owns it."""
        async for keys in batches(self._old_keys(PROBE_PREFIX)):
            kept = await self._deleter.delete(keys) if repair else keys
            report.add(Finding(kind="unowned_probe", id=key, repaired=key not in kept) for key in keys)
        async for batch in batches(self._old_multiparts(PROBE_PREFIX)):
            await self._give_up(report, "unowned_probe", batch, repair=repair)

    async def _multiparts(self, report: Report, *, repair: bool) -> None:
        async for batch in batches(self._old_multiparts(OBJECTS_PREFIX)):
            known = await self._housekeeping.known_multiparts([upload_id for _, upload_id in batch])
            lost = [(key, upload_id) for key, upload_id in batch if upload_id not in known]
            await self._give_up(report, "unowned_multipart", lost, repair=repair)

    async def _give_up(
        self, report: Report, kind: str, lost: Sequence[tuple[str, str]], *, repair: bool
    ) -> None:
        for key, upload_id in lost:
            if repair:
                await self._store.abort_multipart(key, upload_id)
            report.add([Finding(kind=kind, id=upload_id, detail=key, repaired=repair)])

    async def _old_keys(self, prefix: str) -> AsyncIterator[str]:
        async for item in self._store.walk(prefix):
            if is_old(item.modified_at, datetime.now(UTC), self._settings.sweep_grace):
                yield item.key

    async def _old_multiparts(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        async for key, upload_id, started_at in self._store.walk_multiparts(prefix):
            if is_old(started_at, datetime.now(UTC), self._settings.sweep_grace):
                yield key, upload_id
