"""How many parts travel at once: `Lanes` on a clock of the test's own."""

import asyncio
from dataclasses import dataclass

import pytest

from agent.transfer.lanes import Lanes

PART = 10 * 1024 * 1024


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def travel(lanes: Lanes, clock: Clock, rate_of_width: dict[int, float], parts: int) -> list[int]:
    """Send parts over a line whose whole rate (parts a second) depends on the width; the widths seen."""
    widths: list[int] = []
    waiting = asyncio.Semaphore(0)

    async def one() -> None:
        async with lanes.lane():
            await waiting.acquire()
        clock.now += 1 / rate_of_width[lanes.width]
        lanes.moved(PART)
        widths.append(lanes.width)

    tasks = [asyncio.create_task(one()) for _ in range(parts)]
    while not all(task.done() for task in tasks):
        waiting.release()
        await asyncio.sleep(0)
    return widths


async def test_the_width_grows_while_each_lane_makes_it_faster() -> None:
    clock = Clock()
    lanes = Lanes(8, clock)

    widths = await travel(lanes, clock, {n: 2.0 * n for n in range(1, 9)}, 600)

    assert widths[-1] == 8
    assert lanes.rate == pytest.approx(16 * PART, rel=0.1)


async def test_a_lane_that_brings_nothing_is_taken_back() -> None:
    clock = Clock()
    lanes = Lanes(8, clock, first=2)

    widths = await travel(lanes, clock, {n: min(4.0 * n, 12.0) for n in range(1, 9)}, 800)

    late = widths[200:]
    assert set(late) == {3, 4}, "four is tried now and then"
    assert late.count(3) > 3 * late.count(4)


async def test_the_width_stays_within_its_limit() -> None:
    clock = Clock()
    lanes = Lanes(1, clock)

    assert set(await travel(lanes, clock, {1: 5.0}, 50)) == {1}


async def test_trouble_halves_the_width_once_for_one_cause() -> None:
    clock = Clock()
    lanes = Lanes(8, clock)
    await travel(lanes, clock, {n: 2.0 * n for n in range(1, 9)}, 600)

    for _ in range(8):
        lanes.struggled()
    assert lanes.width == 4

    clock.now += 5
    lanes.struggled()
    assert lanes.width == 2


async def test_no_more_than_the_width_travel_at_once_and_the_first_come_first() -> None:
    lanes = Lanes(8, Clock())
    inside: list[int] = []
    release = asyncio.Event()

    async def one(number: int) -> None:
        async with lanes.lane():
            inside.append(number)
            await release.wait()

    tasks = [asyncio.create_task(one(n)) for n in range(7)]
    await asyncio.sleep(0)
    assert inside == [0, 1, 2, 3]
    release.set()
    await asyncio.gather(*tasks)
    assert inside == [0, 1, 2, 3, 4, 5, 6]


async def test_one_that_is_cancelled_while_it_waits_takes_no_lane() -> None:
    lanes = Lanes(1, Clock())
    release = asyncio.Event()

    async def hold() -> None:
        async with lanes.lane():
            await release.wait()

    first, second, third = (asyncio.create_task(hold()) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    release.set()
    await asyncio.gather(first, third)

    async with asyncio.timeout(1), lanes.lane():
        pass


async def test_one_that_is_cancelled_just_as_it_is_let_in_gives_the_lane_on() -> None:
    lanes = Lanes(1, Clock())
    release = asyncio.Event()

    async def hold() -> None:
        async with lanes.lane():
            await release.wait()

    first, second, third = (asyncio.create_task(hold()) for _ in range(3))
    await asyncio.sleep(0)
    release.set()
    first.add_done_callback(lambda _: second.cancel())
    await asyncio.gather(first, third)
    async with asyncio.timeout(1), lanes.lane():
        pass


async def test_time_in_which_nothing_was_to_be_sent_does_not_count() -> None:
    clock = Clock()
    lanes = Lanes(8, clock)
    await travel(lanes, clock, dict.fromkeys(range(1, 9), 10.0), 50)
    clock.now += 1000

    await travel(lanes, clock, dict.fromkeys(range(1, 9), 10.0), 50)

    assert lanes.rate == pytest.approx(10 * PART, rel=0.1)


async def test_who_is_cancelled_in_the_moment_of_getting_a_lane_gives_it_back() -> None:
    """Otherwise nothing would move any more once this had happened often enough."""
    lanes = Lanes(1)
    await lanes.enter()
    waiter = asyncio.create_task(lanes.enter())
    await asyncio.sleep(0)
    lanes.leave()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter

    async with asyncio.timeout(5):
        await lanes.enter()
