"""The sweep: do documents and S3 belong together? In both directions, and the documents among themselves."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, get_args

from prometheus_client import Counter, Gauge

from libs.contracts.internal import Checkable, Checked
from libs.mongo.views import Views
from libs.runtime.logs import get_logger
from libs.storage.owner import foreign, owner_of
from libs.storage.port import ObjectStore
from services.janitor.service.findings import Report
from services.janitor.service.housekeeping import Housekeeping
from services.janitor.service.stored import StoredSweep
from services.janitor.service.unowned import UnownedSweep
from services.janitor.settings import Settings

log = get_logger("sweep")

FOUND: Final = Counter("lockstep_sweep_findings_total", "What sweeps found", ["kind", "repaired"])
HALTED: Final = Gauge("lockstep_sweep_halted", "1 when the last sweep did not believe what it saw of S3")


class Sweep:
    """Looks at everything. With `repair` it mends what can be mended without losing anything."""

    def __init__(
        self, settings: Settings, housekeeping: Housekeeping, store: ObjectStore, views: Views
    ) -> None:
        self._check_owner = settings.s3_check_owner
        self._store = store
        self._views = views
        self._housekeeping = housekeeping
        self._stored = StoredSweep(housekeeping, store, settings.sweep_recheck)
        self._unowned = UnownedSweep(settings, housekeeping, store, views)

    async def run(self, *, repair: bool) -> Report:
        """Return what was found. When S3 does not look right, nothing is removed or marked."""
        report, started = Report(), time.monotonic()
        report.halted = await self._whose()
        if report.halted is None:
            await self._stored.run(report, repair=repair)
        if report.halted is None:
            await self._unowned.run(report, repair=repair)
            for what in get_args(Checkable):
                await self._check(report, what, repair=repair)
            await self._walk(report, "part rows", lambda after: self._parts(after, repair=repair))
        report.seconds = time.monotonic() - started
        return report

    async def periodic(self) -> None:
        """Repair what can be repaired; log and count all of it."""
        report = await self.run(repair=True)
        HALTED.set(report.halted is not None)
        for kind, count in report.found.items():
            FOUND.labels(kind, "yes").inc(report.repaired[kind])
            FOUND.labels(kind, "no").inc(count - report.repaired[kind])
            log.warning("a sweep found something", kind=kind, count=count, repaired=report.repaired[kind])
        if report.halted is not None:
            log.error("a sweep was halted", reason=report.halted)

    async def _whose(self) -> str | None:
        """Return why the bucket is not for this deployment to clean up; None: it is."""
        if not self._check_owner:
            return None
        found, own = await owner_of(self._store), await self._views.deployment()
        return foreign(found, own) if found not in {None, own} else None

    async def _check(self, report: Report, what: Checkable, *, repair: bool) -> None:
        await self._walk(report, what, lambda after: self._housekeeping.check(what, after, repair=repair))

    async def _parts(self, after: str | None, *, repair: bool) -> Checked:
        return await self._housekeeping.check_parts(after, repair=repair)

    async def _walk(
        self, report: Report, what: str, step: Callable[[str | None], Awaitable[Checked]]
    ) -> None:
        place: str | None = None
        while True:
            checked = await step(place)
            report.seen[what] += checked.seen
            report.add(checked.findings)
            place = checked.next
            if place is None:
                return
