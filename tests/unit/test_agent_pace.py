"""The limit of speed, on a clock that only moves when nobody can go on."""

import asyncio
import heapq
import random
from collections.abc import Coroutine
from itertools import count
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import LocalError
from agent.rates import parse_rate
from agent.settings import Settings, read_settings
from agent.transfer import Tally
from agent.transfer.pace import Pace
from agent.transfer.wire import body_of

KIB = 1024
MIB = 1024 * KIB


class Clock:
    """Virtual time: it jumps to the next sleeper when all tasks wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        waiter = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), waiter))
        await waiter

    async def run(self, *jobs: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.ensure_future(job) for job in jobs]
        await self.settle()
        while not all(task.done() for task in tasks):
            self.advance()
            await self.settle()
        await asyncio.gather(*tasks)

    def advance(self) -> None:
        """Wake the next sleeper."""
        at, _, waiter = heapq.heappop(self._sleepers)
        self.now = max(self.now, at)
        if not waiter.done():
            waiter.set_result(None)

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def paced(rate: float | None) -> tuple[Pace, Clock]:
    clock = Clock()
    return Pace(rate, clock.time, clock.sleep), clock


takes = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 4 * MIB), st.booleans()), min_size=1, max_size=25)


@settings(deadline=None, max_examples=150)
@given(rate=st.floats(1024, 50 * MIB), schedule=takes)
def test_what_passes_never_exceeds_rate_and_burst_in_any_window(
    rate: float, schedule: list[tuple[float, int, bool]]
) -> None:
    """Some takers are cancelled while they wait: they take nothing and nobody waits for them."""
    passed: list[tuple[float, int]] = []

    async def scenario() -> None:
        pace, clock = paced(rate)

        async def take(at: float, size: int) -> None:
            await clock.sleep(at)
            await pace.take(size)
            passed.append((clock.now, size))

        async def cancelled(at: float, size: int) -> None:
            task = asyncio.ensure_future(take(at, size))
            await clock.sleep(at + 0.01)
            task.cancel()
            await asyncio.wait([task])

        await clock.run(*((cancelled if cut else take)(at, size) for at, size, cut in schedule))
        wanted = [size for _, size, cut in schedule if not cut]
        assert len(passed) >= len(wanted)
        assert_bounded(passed, rate, pace.burst)

    asyncio.run(scenario())


def assert_bounded(passed: list[tuple[float, int]], rate: float, burst: float) -> None:
    """A window that ends with one large take may hold that take: it was saved up for before."""
    for start in range(len(passed)):
        total = 0
        if start == 0:
            assert sum(size for _, size in passed) <= rate * passed[-1][0] + burst + 1
        for end, (at, size) in enumerate(passed[start:], start):
            total += size
            began = passed[start - 1][0] if start else 0.0
            room = rate * (at - began) + max(burst, *(size for _, size in passed[start : end + 1]))
            assert total <= room + 1, (start, end)


async def test_the_first_to_ask_is_the_first_to_pass() -> None:
    pace, clock = paced(100 * KIB)
    order: list[int] = []

    async def take(number: int, size: int) -> None:
        await pace.take(size)
        order.append(number)

    await clock.run(*(take(number, size) for number, size in enumerate([512 * KIB, 1, 256 * KIB, 1])))
    assert order == [0, 1, 2, 3], "a small piece does not overtake a large one, nor starve it"


async def test_connections_side_by_side_get_equal_shares() -> None:
    pace, clock = paced(1.0 * MIB)
    shares = [0, 0, 0]

    async def send(number: int) -> None:
        for _ in range(40):
            await pace.take(64 * KIB)
            shares[number] += 1
            assert max(shares) - min(shares) <= 1 + pace.burst / (64 * KIB), "the first may take the burst"

    await clock.run(*(send(number) for number in range(3)))
    assert clock.now == pytest.approx((3 * 40 * 64 * KIB - pace.burst) / MIB, abs=0.01)


async def test_who_is_cancelled_has_taken_nothing() -> None:
    pace, clock = paced(100 * KIB)
    await pace.take(256 * KIB)
    waiting = asyncio.ensure_future(pace.take(10 * MIB))
    queued = asyncio.ensure_future(pace.take(10 * MIB))
    await clock.settle()
    for task in (queued, waiting):
        task.cancel()
    await asyncio.wait([waiting, queued])
    await clock.run(pace.take(100 * KIB))
    assert clock.now < 103, "the sleeper of the cancelled one is all that the clock had to pass"
    clock.now += 1000
    await pace.take(256 * KIB)
    assert pace._tokens == pytest.approx(0), "what was saved up for the cancelled one is not kept"


async def test_a_pause_saves_up_a_burst_and_no_more() -> None:
    pace, clock = paced(4.0 * MIB)
    clock.now = 3600
    await pace.take(MIB)
    await clock.run(pace.take(MIB))
    assert clock.now == pytest.approx(3600.25)


async def test_no_limit_never_waits_nor_asks_the_time() -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError

    pace = Pace(None, refuse, refuse)
    for _ in range(1000):
        await pace.take(10 * MIB)


@pytest.mark.parametrize(
    ("rate", "piece"), [(None, 256 * KIB), (100e6, 256 * KIB), (10_000, 2500), (1024, 1024)]
)
def test_pieces_are_smaller_where_the_limit_is_low(rate: float | None, piece: int) -> None:
    assert Pace(rate).piece == piece


def test_sixteen_connections_at_the_least_rate_are_never_idle_for_twenty_seconds() -> None:
    assert 16 * Pace(1024).piece / 1024 < 20


# Bodies -----------------------------------------------------------------------------------------


class Line:
    """The network: it keeps what was written, and breaks off when it has had enough."""

    def __init__(self, most: int = 10 * MIB) -> None:
        self.pieces: list[bytes] = []
        self._most = most

    async def write(self, piece: Any) -> None:
        if sum(map(len, self.pieces)) + len(piece) > self._most:
            raise ConnectionResetError
        self.pieces.append(bytes(piece))


async def test_a_body_under_a_low_limit_goes_in_small_pieces_and_whole() -> None:
    clock, tally, line = Clock(), Tally(), Line()
    content = random.Random(7).randbytes(MIB + 77)
    body = body_of(content)
    with body.sending(Pace(10_000, clock.time, clock.sleep), tally):
        await clock.run(body.write(cast("Any", line)))
        assert tally.in_flight_bytes == len(content)
    assert b"".join(line.pieces) == content
    assert max(map(len, line.pieces)) == 2500
    assert clock.now == pytest.approx((len(content) - 256 * KIB) / 10_000, abs=0.01)
    assert tally.in_flight_bytes == 0


async def test_what_broke_off_is_no_longer_under_way() -> None:
    tally, body = Tally(), body_of(bytes(MIB))
    with body.sending(Pace(None), tally):
        with pytest.raises(ConnectionResetError):
            await body.write(cast("Any", Line(300 * KIB)))
        assert tally.in_flight_bytes == 256 * KIB
        await body.write(cast("Any", Line()))
        assert tally.in_flight_bytes == MIB, "it began anew"
    assert (tally.in_flight_bytes, tally.settled_bytes) == (0, 0)


# The texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("0", 0),
        ("off", 0),
        ("2048", 2048),
        ("500k", 500 * KIB),
        ("500K", 500 * KIB),
        ("2M", 2 * MIB),
        ("1.5MiB", 1.5 * MIB),
        ("1.5 MiB/s", 1.5 * MIB),
        ("2MB", 2_000_000),
        (" 1g ", 1024 * MIB),
        (".5m", MIB / 2),
        ("4096B", 4096),
    ],
)
def test_rates_are_read_as_rsync_and_rclone_read_them(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1", "1x", "1e6", "k", "1 2", "nan", "inf", "1kk", "½M", "٣M"])
def test_what_is_no_rate_is_a_usage_error_that_shows_how_to_write_one(text: str) -> None:
    with pytest.raises(LocalError, match="500k") as error:
        parse_rate(text)
    assert error.value.code == "usage"


@pytest.mark.parametrize("text", ["1", "500", "0.5k", "1023B"])
def test_a_rate_at_which_nothing_would_end_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match="1 KiB") as error:
        parse_rate(text)
    assert error.value.code == "usage"


def test_the_environment_takes_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_AGENT_LIMIT_UP", "500k")
    assert (read_settings().limit_up, read_settings().limit_down) == (500 * KIB, 0)
    monkeypatch.setenv("LOCKSTEP_AGENT_LIMIT_DOWN", "fast")
    with pytest.raises(LocalError, match="LIMIT_DOWN") as error:
        read_settings()
    assert error.value.code == "usage"


def test_a_number_is_bytes_a_second() -> None:
    assert Settings(limit_up=1_000_000.0).limit_up == 1_000_000
