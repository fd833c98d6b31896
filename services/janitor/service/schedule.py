"""When jobs run: each at its interval, by one janitor at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge

from libs.contracts.errors import LockstepError, UnavailableError
from libs.contracts.ids import new_id
from libs.runtime.backoff import Backoff
from libs.runtime.logs import bind_request, get_logger
from services.janitor.store import Leases

log = get_logger("janitor")

RUNS: Final = Counter("lockstep_janitor_runs_total", "Runs of the jobs", ["job", "result"])
LAST_SUCCESS: Final = Gauge("lockstep_janitor_last_success_seconds", "When a job last ended well", ["job"])

_FIRST: Final = Backoff(2.0, 2.0)
_RETRY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """A periodic job; `interval` in seconds. A local one runs in every janitor, without a lease."""

    name: str
    interval: float
    run: Callable[[], Awaitable[None]]
    local: bool = False


class Schedule:
    """Runs jobs under their leases.

    A lease outlasts the pause until the next run, so that of many janitors one runs the job once
    an interval, and another takes over when it dies.
    """

    def __init__(self, leases: Leases, lease_seconds: float) -> None:
        self._leases = leases
        self._lease_seconds = lease_seconds

    async def keep(self, job: Job) -> None:
        """Run the job for ever; what could not be done is tried again sooner."""
        await asyncio.sleep(min(job.interval, _FIRST.delay(0)))
        while True:
            bind_request(new_id(), job=job.name)
            done = await self.once(job)
            await asyncio.sleep(job.interval if done else min(job.interval, _RETRY_SECONDS))

    async def once(self, job: Job) -> bool:
        """Run the job if it is ours to run; False when it could not be done."""
        try:
            if not job.local and not await self._take(job):
                return True
            await self._run_under_lease(job)
        except LockstepError as error:
            log.warning("a job could not be done", code=error.code, reason=error.detail)
            RUNS.labels(job.name, error.code).inc()
            return False
        except Exception:
            log.exception("a job failed")
            RUNS.labels(job.name, "internal").inc()
            return False
        RUNS.labels(job.name, "done").inc()
        LAST_SUCCESS.labels(job.name).set_to_current_time()
        return True

    async def _run_under_lease(self, job: Job) -> None:
        """Run, renewing the lease; a renewal that fails ends the run."""
        if job.local:
            await job.run()
            return
        renewal = asyncio.create_task(self._renew(job))
        work = asyncio.ensure_future(job.run())
        try:
            await asyncio.wait({renewal, work}, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done() and not work.done():
                renewal.result()
            await work
        finally:
            for task in (renewal, work):
                task.cancel()
            await asyncio.gather(renewal, work, return_exceptions=True)

    async def _renew(self, job: Job) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            if not await self._take(job):
                raise UnavailableError("The job's lease was lost")

    async def _take(self, job: Job) -> bool:
        return await self._leases.take(job.name, job.interval + self._lease_seconds)
