"""What is measured and told of a transfer, on a clock that the test moves."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.progress import PlanProgress, progress_of
from agent.rates import Meter, age_text, left_text, rate_text, seconds_left
from agent.transfer import Tally
from agent.transfer import tally as tally_module

MIB = 1024 * 1024


class Clock:
    def __init__(self, now: float = 1000.3) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    monotonic = __call__


# The meter --------------------------------------------------------------------------------------


def test_a_steady_stream_has_its_rate_from_the_second_second_on() -> None:
    clock = Clock()
    meter = Meter(clock)
    for _ in range(400):
        clock.now += 0.1
        meter.add(10_000)
        if clock.now > 1002.3:
            assert meter.rate == pytest.approx(100_000, rel=0.06)


def test_nothing_moves_is_zero_before_and_after() -> None:
    clock = Clock()
    meter = Meter(clock)
    assert meter.rate == 0
    meter.add(5 * MIB)
    assert meter.rate == 5 * MIB, "one piece is taken to have needed a second"
    clock.now += 5
    assert meter.rate == MIB
    clock.now += 6
    assert meter.rate == 0
    assert not meter._slots, "and nothing is kept of it"


def test_a_silence_does_not_count_for_what_follows() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.add(MIB)
    clock.now += 3600
    meter.add(MIB)
    assert meter.rate == MIB


def test_a_burst_long_ago_does_not_make_the_rest_look_fast() -> None:
    clock = Clock(1000.0)
    meter = Meter(clock)
    meter.add(100 * MIB)
    clock.now += 9
    meter.add(MIB)
    clock.now += 2
    assert meter.rate == pytest.approx(MIB / 10, rel=0.06)


@given(st.lists(st.tuples(st.floats(0, 12), st.integers(0, 10**9)), max_size=60))
def test_a_rate_is_never_negative_and_never_more_than_all_in_a_second(
    steps: list[tuple[float, int]],
) -> None:
    clock = Clock()
    meter = Meter(clock)
    for pause, count in steps:
        clock.now += pause
        meter.add(count)
        assert 0 <= meter.rate <= sum(count for _, count in steps)
    assert len(meter._slots) <= 22


@pytest.mark.parametrize(
    ("missing", "rate", "seconds"), [(0, 0.0, 0), (-5, 9.0, 0), (10, 0.0, None), (10, 4.0, 2.5)]
)
def test_the_time_left_is_unknown_when_nothing_moves(
    missing: int, rate: float, seconds: float | None
) -> None:
    assert seconds_left(missing, rate) == seconds


# The texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0 B/s"),
        (512, "512 B/s"),
        (1536, "1.5 KiB/s"),
        (84 * MIB, "84 MiB/s"),
        (3 * 1024**5, "3072 TiB/s"),
    ],
)
def test_rates_are_told_in_the_unit_that_reads_best(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.2, "1 s left"),
        (59, "59 s left"),
        (290, "5 min left"),
        (3600, "1 h 0 min left"),
        (86_400 + 60, "24 h 1 min left"),
        (10 * 86_400, "10 days left"),
    ],
)
def test_the_time_left_is_told_in_the_unit_that_tells_enough(seconds: float | None, text: str) -> None:
    assert left_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (61, "1 min"), (7300, "2 h"), (3 * 86_400, "3 days")]
)
def test_ages_are_told_in_the_unit_that_tells_enough(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


# The tally --------------------------------------------------------------------------------------


def test_what_was_there_is_done_but_not_in_the_rate() -> None:
    tally = Tally()
    with tally.moving("big", "uploading", 100):
        tally.settled(60)
        (moving,) = tally.under_way
        assert (moving.bytes_done, moving.resumed_bytes, moving.rate) == (60, 60, 0)
        tally.flying(20)
        assert (moving.bytes_done, moving.resumed_bytes, moving.rate) == (80, 60, 20)
        tally.flying(-20)
        tally.sent(20)
        assert (moving.bytes_done, moving.rate, tally.up.rate, tally.down.rate) == (80, 20, 20, 0)


def test_a_piece_that_came_to_nothing_travelled_but_is_not_done() -> None:
    tally = Tally()
    with tally.moving("big", "uploading", 100):
        tally.flying(30)
        tally.flying(-30)
        (moving,) = tally.under_way
        assert (moving.bytes_done, moving.travelled) == (0, 30)
        assert progress_of(tally, "x", 100).bytes_done == 0


def test_damaged_bytes_are_taken_back() -> None:
    tally = Tally()
    with tally.moving("big", "downloading", 100):
        tally.received(100)
        tally.lost(40)
        (moving,) = tally.under_way
        assert (moving.bytes_done, moving.rate, tally.down.rate) == (60, 100, 100)
        assert progress_of(tally, "x", 100).bytes_done == 60


async def test_files_side_by_side_are_counted_apart_in_all_their_tasks() -> None:
    tally = Tally()
    both = asyncio.Barrier(2)

    async def transfer(path: str, size: int) -> None:
        with tally.moving(path, "downloading", size):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(receive(size // 4))
            await both.wait()
            assert {m.path: m.bytes_done for m in tally.under_way} == {"a": 400, "b": 800}
            await both.wait()

    async def receive(count: int) -> None:
        await asyncio.sleep(0)
        tally.received(count)

    await asyncio.gather(transfer("a", 400), transfer("b", 800))
    tally.received(5)
    assert (tally.under_way, tally.settled_bytes) == ([], 1205)


def test_a_file_that_is_interrupted_and_goes_on_counts_once() -> None:
    tally = Tally()
    progress = PlanProgress(tally)
    progress.announce([("big", "hash", 100), ("small", "other", 50)])
    with tally.moving("big", "downloading", 100):
        tally.received(70)
    assert progress.now().bytes_done == 0
    with tally.moving("big", "downloading", 100):
        tally.settled(70)
        tally.received(30)
        tally.settled(100)  # such as when the server asked for all of it again
        assert progress.now().bytes_done <= 150
    assert progress.now().bytes_done == 100


def test_progress_never_shows_more_than_all_nor_less_than_nothing() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    tally = Tally()
    with tally.moving("big", "downloading", 1000):
        (moving,) = tally.under_way
        for _ in range(2000):
            call = rng.choice((tally.received, tally.settled, tally.lost, tally.sent, tally.flying))
            call(rng.randrange(200))
            told = progress_of(tally, "x", 1000)
            assert 0 <= told.bytes_done <= 1000
            assert 0 <= moving.bytes_done <= 1000
            assert told.rate >= 0
            assert told.eta_seconds is None or told.eta_seconds >= 0


def test_the_log_tells_when_a_large_file_starts_goes_on_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(tally_module, "time", clock)
    told: list[dict[str, Any]] = []
    log = SimpleNamespace(info=lambda event, **fields: told.append({"event": event, **fields}))
    monkeypatch.setattr(tally_module, "log", log)
    tally = Tally()
    tally.resumes(5)
    with tally.moving("big.iso", "uploading", 5 * MIB):
        tally.resumes(0)
        tally.resumes(3 * MIB)
        tally.settled(3 * MIB)
        tally.flying(2 * MIB)
        tally.sent(2 * MIB)
        clock.now += 4
    assert [entry["event"] for entry in told] == [
        "a large file starts",
        "a large file goes on",
        "a large file ended",
    ]
    assert (told[1]["there"], told[1]["size"]) == ("3.0 MiB", "5.0 MiB")
    assert (told[2]["moved"], told[2]["seconds"], told[2]["rate"]) == ("2.0 MiB", 4.0, "512 KiB/s")
