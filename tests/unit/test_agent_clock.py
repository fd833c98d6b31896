"""A clock that jumps: nothing is put off for ever, nothing is done all the time."""

from pathlib import Path
from unittest.mock import patch

import pytest

from agent import clock
from agent.model import FileStat, LocalEntry, LocalKind, Trouble
from agent.planning import waiting
from agent.scanner.rolling import chosen_to_read
from agent.state import State

NOW = 1_800_000_000.0
DAY = 86_400.0
WEEK = 7 * DAY


@pytest.mark.parametrize(
    ("ahead", "left"), [(-1.0, 0.0), (0.0, 0.0), (5.0, 5.0), (60.0, 60.0), (61.0, 0.0), (10 * DAY, 0.0)]
)
def test_a_moment_too_far_ahead_is_over(ahead: float, left: float) -> None:
    with patch.object(clock, "now", return_value=NOW):
        assert clock.until(NOW + ahead, 60.0) == left


def test_a_problem_noted_before_the_clock_was_set_back_is_tried_again(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    with patch.object(clock, "now", return_value=NOW):
        state.put_problem("f", Trouble("in_use", "A program has it open"), lambda _: 30.0)
        assert state.problems["f"].wait == 30.0
        assert waiting(state) == {"f"}
    with patch.object(clock, "now", return_value=NOW - 365 * DAY):
        assert state.problems["f"].wait == 0
        assert waiting(state) == frozenset()
    state.close()


# The rolling re-hash -----------------------------------------------------------------------------


def files(count: int, hashed_at: float = NOW, size: int = 1) -> dict[str, LocalEntry]:
    stat = FileStat(1, 2, size, 0, 0, 0o644)
    paths = [f"d/{number}" for number in range(count)]
    return {path: LocalEntry(path, LocalKind.FILE, stat, "0" * 64, hashed_at=hashed_at) for path in paths}


def read_hourly(known: dict[str, LocalEntry], days: float) -> list[int]:
    """Read what each hourly scan chooses; return how many it were in each hour."""
    counts = []
    for hour in range(int(days * 24)):
        now = NOW + hour * 3600
        chosen = chosen_to_read(known, now, WEEK)
        known.update({path: files_at(known[path], now) for path in chosen})
        counts.append(len(chosen))
    return counts


def files_at(entry: LocalEntry, now: float) -> LocalEntry:
    return LocalEntry(entry.path, entry.kind, entry.stat, entry.content_hash, hashed_at=now)


def test_what_was_read_at_one_moment_is_read_again_within_the_week_and_not_at_one_moment() -> None:
    known = files(6000)
    counts = read_hourly(known, 7)
    assert sum(counts) < 1.5 * 6000
    assert all(entry.hashed_at > NOW for entry in known.values())
    assert max(counts) < 6000 / 40


def test_after_a_long_sleep_a_scan_reads_a_share_and_the_longest_unread_first() -> None:
    known = files(20_000, hashed_at=NOW - 30 * DAY)
    oldest = {"d/7": files_at(known["d/7"], NOW - 40 * DAY)}
    chosen = chosen_to_read({**known, **oldest}, NOW, WEEK)
    assert "d/7" in chosen
    assert len(chosen) <= 20_000 / 40


def test_large_files_are_spread_by_their_bytes_and_one_is_always_read() -> None:
    known = files(50, hashed_at=NOW - 30 * DAY, size=10**9)
    assert len(chosen_to_read(known, NOW, WEEK)) == 1


def test_a_file_read_at_a_moment_to_come_is_read_again_and_then_rests() -> None:
    known = files(10, hashed_at=NOW + 365 * DAY)
    assert chosen_to_read(known, NOW, WEEK) == known.keys()
    assert chosen_to_read(files(10), NOW + 1, WEEK) == frozenset()


def test_what_is_in_trouble_or_never_read_is_left_to_the_scan() -> None:
    known = files(1, hashed_at=0.0)
    (entry,) = known.values()
    other = LocalEntry("u", LocalKind.FILE, entry.stat)
    stuck = LocalEntry("t", LocalKind.FILE, entry.stat, "0" * 64, trouble=Trouble("changing", ""))
    folder = LocalEntry("d", LocalKind.FOLDER, entry.stat)
    assert chosen_to_read({"u": other, "t": stuck, "d": folder, **known}, NOW, WEEK) == known.keys()
