"""Changes that wait at the same time share a transaction, and nobody suffers for another."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from libs.contracts.errors import NotFoundError, UnavailableError
from libs.contracts.tree import CreateFolder, ItemResult
from services.metadata.domain.model import Actor, Job
from services.metadata.service.changes import Changes, Results

ROOT = "f" * 24


def job(name: str, ops: int = 1) -> Job:
    return Job(Actor(device=name), tuple(CreateFolder(parent_id=ROOT, name=f"{name}{i}") for i in range(ops)))


@dataclass
class Carrier:
    """Records what it is given; a job whose device is `poison` fails."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    taken: list[list[str]] = field(default_factory=list)
    error: Exception | None = None
    running: int = 0

    async def carry_out(self, namespace_id: str, jobs: Sequence[Job]) -> list[Results]:
        names = [str(job.actor.device) for job in jobs]
        self.taken.append(names)
        self.running += 1
        assert namespace_id != ROOT or self.running == 1, "two transactions of one namespace at once"
        await self.gate.wait()
        self.running -= 1
        if self.error is not None:
            raise self.error
        if "poison" in names:
            raise ZeroDivisionError
        return [
            tuple(ItemResult(index=i, detail=name) for i in range(len(one.ops)))
            for name, one in zip(names, jobs, strict=True)
        ]


async def submitted(changes: Changes, *jobs: Job) -> list[asyncio.Task[Results]]:
    tasks = [asyncio.create_task(changes.submit(ROOT, one)) for one in jobs]
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_is_joined_up_to_the_limit_and_each_gets_its_own_results() -> None:
    carrier = Carrier()
    changes = Changes(carrier, max_ops=5)
    tasks = await submitted(changes, job("a"), job("b", 2), job("c", 3), job("d"), job("e", 9), job("f"))
    carrier.gate.set()
    results = await asyncio.gather(*tasks)
    assert carrier.taken == [["a"], ["b", "c"], ["d"], ["e"], ["f"]] or carrier.taken[0] == ["a", "b"]
    assert [result[0].detail for result in results] == ["a", "b", "c", "d", "e", "f"]
    assert [len(result) for result in results] == [1, 2, 3, 1, 9, 1]


async def test_namespaces_do_not_wait_for_each_other() -> None:
    carrier = Carrier()
    changes = Changes(carrier, max_ops=5)
    first = asyncio.create_task(changes.submit(ROOT, job("a")))
    second = asyncio.create_task(changes.submit("e" * 24, job("b")))
    await asyncio.sleep(0)
    assert carrier.taken == [["a"], ["b"]]
    carrier.gate.set()
    await asyncio.gather(first, second)
    assert changes.idle


async def test_a_job_that_breaks_takes_no_other_with_it() -> None:
    carrier = Carrier()
    changes = Changes(carrier, max_ops=10)
    tasks = await submitted(changes, job("first"), job("a"), job("poison"), job("b"))
    carrier.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], ZeroDivisionError)
    assert [one[0].detail for one in (results[0], results[1], results[3]) if isinstance(one, tuple)] == [
        "first",
        "a",
        "b",
    ]
    assert changes.idle


@pytest.mark.parametrize("error", [UnavailableError("away", retry_after=2), NotFoundError()])
async def test_an_outage_is_everyones(error: Exception) -> None:
    carrier = Carrier(error=error)
    changes = Changes(carrier, max_ops=10)
    tasks = await submitted(changes, job("a"), job("b"))
    carrier.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(error)] * 2
    assert changes.idle


async def test_when_the_one_who_carries_out_is_cancelled_the_others_hear_of_it() -> None:
    carrier = Carrier()
    changes = Changes(carrier, max_ops=10)
    (leader,) = await submitted(changes, job("leader"))
    followers = await submitted(changes, job("a"), job("b"))
    leader.cancel()
    carrier.running = 0
    carrier.gate.set()
    results = await asyncio.gather(leader, *followers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, tuple | UnavailableError) for result in results[1:])
    assert changes.idle


async def test_a_job_that_is_withdrawn_before_its_turn_is_not_carried_out() -> None:
    carrier = Carrier()
    changes = Changes(carrier, max_ops=10)
    tasks = await submitted(changes, job("a"), job("withdrawn"), job("b"))
    tasks[1].cancel()
    await asyncio.sleep(0)
    carrier.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert "withdrawn" not in [name for names in carrier.taken for name in names]
    assert changes.idle
