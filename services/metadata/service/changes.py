"""Group commit: the changes of a namespace that wait at the same time share one transaction."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from prometheus_client import Histogram

from libs.contracts.errors import CallerError, LockstepError, UnavailableError
from libs.contracts.tree import ItemResult
from libs.runtime.logs import get_logger
from services.metadata.domain.model import Job

log = get_logger("changes")

OPS: Final = Histogram(
    "lockstep_metadata_transaction_ops",
    "Operations joined into one transaction",
    buckets=(1, 2, 5, 20, 100, 500),
)
SECONDS: Final = Histogram("lockstep_metadata_transaction_seconds", "Seconds of one transaction")

Results = tuple[ItemResult, ...]


class Carrier(Protocol):
    """Carries jobs of one namespace out in one transaction."""

    async def carry_out(self, namespace_id: str, jobs: Sequence[Job]) -> list[Results]:
        """Return each job's results, durable and told of; otherwise nothing was done."""


@dataclass(slots=True, eq=False)
class _Waiting:
    job: Job
    outcome: Results | Exception | None = None


@dataclass(slots=True)
class _Lane:
    """The changes of one namespace in this process: one transaction at a time."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Changes:
    """Takes jobs. Whoever comes first carries out what has gathered, also for the others."""

    def __init__(self, carrier: Carrier, max_ops: int) -> None:
        self._carrier = carrier
        self._max_ops = max_ops
        self._lanes: dict[str, _Lane] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._lanes

    async def submit(self, namespace_id: str, job: Job) -> Results:
        """Return the results of a job once they are durable.

        Raises `NotFoundError` when the namespace is not there (any more), `UnavailableError` when
        the outcome is unknown.
        """
        lane = self._lanes.setdefault(namespace_id, _Lane())
        mine = _Waiting(job)
        lane.waiting.append(mine)
        try:
            async with lane.lock:
                while mine.outcome is None:
                    await self._carry_out(namespace_id, self._take(lane))
        finally:
            self._leave(namespace_id, lane, mine)
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome

    def _take(self, lane: _Lane) -> list[_Waiting]:
        taken = [lane.waiting.popleft()]
        ops = len(taken[0].job.ops)
        while lane.waiting and ops + len(lane.waiting[0].job.ops) <= self._max_ops:
            taken.append(lane.waiting.popleft())
            ops += len(taken[-1].job.ops)
        return taken

    def _leave(self, namespace_id: str, lane: _Lane, mine: _Waiting) -> None:
        if mine in lane.waiting:
            lane.waiting.remove(mine)
        if not lane.waiting and not lane.lock.locked() and self._lanes.get(namespace_id) is lane:
            del self._lanes[namespace_id]

    async def _carry_out(self, namespace_id: str, taken: list[_Waiting]) -> None:
        """Set the outcome of everyone taken, whatever happens."""
        OPS.observe(sum(len(one.job.ops) for one in taken))
        try:
            with SECONDS.time():
                results = await self._carrier.carry_out(namespace_id, [one.job for one in taken])
        except (CallerError, UnavailableError) as error:
            _settle(taken, error)
        except Exception as error:  # noqa: BLE001 - it becomes the outcome of whoever waits for it
            await self._divide(namespace_id, taken, error)
        except BaseException:
            _settle(taken, UnavailableError("The server is stopping", retry_after=2))
            raise
        else:
            for one, result in zip(taken, results, strict=True):
                one.outcome = result

    async def _divide(self, namespace_id: str, taken: list[_Waiting], error: Exception) -> None:
        """One job that cannot be carried out must not take the others down with it."""
        if len(taken) == 1:
            log.error("a job failed", error=str(error), kind=type(error).__name__)
            _settle(taken, error)
            return
        for one in taken:
            await self._carry_out(namespace_id, [one])


def _settle(taken: Sequence[_Waiting], error: Exception) -> None:
    """Give each its own copy: a traceback grows on every raise."""
    for one in taken:
        one.outcome = _copy(error)


def _copy(error: Exception) -> Exception:
    if not isinstance(error, LockstepError):
        return error
    return type(error)(error.detail, code=error.code, **error.extra)
