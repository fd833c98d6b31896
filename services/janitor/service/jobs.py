"""The periodic jobs. Each may be repeated, stopped anywhere and run by two at once."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from prometheus_client import Counter

from libs.contracts.internal import HousedObject, Round
from libs.contracts.keys import manifest_key, namespace_of
from libs.messaging.dlq import dead_letters
from libs.messaging.metrics import DEAD_WAITING
from libs.mongo.views import Views
from libs.runtime.logs import get_logger
from libs.storage.port import ObjectStore
from services.janitor.service.deleting import Deleter
from services.janitor.service.housekeeping import Housekeeping
from services.janitor.service.sweep import Sweep
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
        self._deleter = Deleter(store)
        self._views = views
        self._verifier = verifier
        self._sweep = Sweep(settings, housekeeping, store, views)

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
        await _walk("expire versions", self._housekeeping.expire_versions)

    async def measure_usage(self) -> None:
        """Measure what history costs those accounts that are too large to be measured when asked for."""
        await _walk("measure usage", self._housekeeping.measure_usage)

    async def collect_garbage(self) -> None:
        """Doom objects without a version; delete those doomed long enough, in S3 first.

        What S3 refuses to delete stays for the next round.
        """
        await _until_done("doom", self._housekeeping.doom_objects)
        kept: set[str] = set()
        while items := [item for item in await self._housekeeping.doomed() if item.id not in kept]:
            refused = await self._deleter.delete([key for item in items for key in _keys_of(item)])
            gone = [item.id for item in items if refused.isdisjoint(_keys_of(item))]
            kept.update(item.id for item in items if not refused.isdisjoint(_keys_of(item)))
            if gone:
                await self._housekeeping.forget(gone)
                COLLECTED.labels("delete").inc(len(gone))

    async def find_unverified(self) -> None:
        """Have objects verified whose event was missed."""
        for item in await self._housekeeping.unverified():
            self._verifier.add(item)

    async def sweep(self) -> None:
        """See whether documents and S3 belong together; repair what can be repaired."""
        await self._sweep.periodic()

    async def count_dead_letters(self) -> None:
        """Set the metric of waiting dead letters."""
        async with dead_letters(self._settings) as dead:
            for service, count in (await dead.counts()).items():
                DEAD_WAITING.labels(service).set(count)


async def _until_done(job: str, call: Callable[[], Awaitable[int]]) -> None:
    while done := await call():
        COLLECTED.labels(job).inc(done)


async def _walk(job: str, step: Callable[[str | None], Awaitable[Round]]) -> None:
    """Go from place to place until the end."""
    done = await step(None)
    while True:
        COLLECTED.labels(job).inc(done.done)
        if done.next is None:
            return
        done = await step(done.next)


def _keys_of(item: HousedObject) -> tuple[str, str]:
    """Return the keys of an object and of its manifest, which may not be there."""
    return item.key, manifest_key(namespace_of(item.key), item.id)
