import io
import re

import pytest

from agent import progress as progress_module
from agent.progress import FileProgress, PlanProgress, Progress, ProgressBar, items_text, short_name
from agent.transfer import Tally

MIB = 1024 * 1024


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_where_no_terminal_is() -> None:
    stream = io.StringIO()
    with ProgressBar(stream) as bar:
        assert not bar.due
        bar(Progress("sending", 1, 2, 3, 4))

    assert stream.getvalue() == ""


def test_a_call_right_after_another_is_not_due(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProgressBar(Terminal()) as bar:
        monkeypatch.setattr(progress_module, "_REDRAW_SECONDS", 3600.0)
        bar._drawn_at = -3600.0
        due = [bar.due]
        bar(Progress("sending", 1, 2, 3, 4))
        due.append(bar.due)
        monkeypatch.setattr(progress_module, "_REDRAW_SECONDS", 0.0)
        due.append(bar.due)

    assert due == [True, False, True]


def test_a_terminal_shows_items_and_bytes() -> None:
    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar(Progress("sending", 1_000, 2_500, 1024 * 1024, 4 * 1024 * 1024))

    shown = stream.getvalue()
    assert "sending" in shown
    assert "1,000/2,500" in shown
    assert "1.0/4.0" in shown


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def lines_of(shown: str) -> list[str]:
    """Return what a terminal shows at the end of a stream, line by line, without its colours."""
    plain = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", shown)
    return [line.strip() for line in re.split("[\r\n]+", plain) if line.strip()]


def test_a_terminal_shows_a_line_for_all_and_one_for_each_large_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress_module, "time", Clock())
    files = (
        FileProgress("d/big.iso", "uploading", 41 * MIB, 100 * MIB, 84 * MIB, 290),
        FileProgress("evil\x1b[2J\n.bin", "downloading", 1, 4 * MIB),
    )
    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar(Progress("syncing", 1, 9, 42 * MIB, 104 * MIB, 2 * MIB, 31, transfers=files))
        bar._bar.refresh()
        *_, first, second, third = lines_of(stream.getvalue())
        bar(Progress("syncing", 3, 9, 104 * MIB, 104 * MIB, transfers=files[:1]))
        bar._bar.refresh()
        shown = lines_of(stream.getvalue())[-2:]
    assert "syncing" in first
    assert "2.0 MiB/s  31 s left" in first
    assert second.startswith("big.iso")
    assert "84 MiB/s  5 min left" in second
    assert third.startswith("evil\ufffd[2J\ufffd.bin")
    assert "0 B/s" in third
    assert [line.split()[0] for line in shown] == ["syncing", "big.iso"]


def test_what_was_told_long_ago_is_shown_as_standing_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress_module, "time", clock)
    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar(Progress("syncing", 1, 9, MIB, 104 * MIB, 2 * MIB, 31))
        clock.now += 60
        bar._bar.refresh()
        last = lines_of(stream.getvalue())[-1]
    assert last.endswith("0 B/s")


def test_long_names_are_cut_and_keep_their_ends() -> None:
    assert short_name("folder/" + "x" * 60 + "-part-17.iso") == "x" * 28 + "…part-17.iso"


def test_items_are_shown_only_where_there_are_some() -> None:
    assert items_text(Progress("x")) == ""
    assert items_text(Progress("x", 1, 2)) == "1/2"


def test_a_file_that_is_planned_again_counts_once() -> None:
    progress = PlanProgress(Tally())
    progress.announce([("a", "hash", 10), ("b", "hash", 5)])
    progress.announce([("b", "hash", 5), ("b", "other", 7)])

    assert progress.now() == Progress("syncing", 0, 3, 0, 22, eta_seconds=None)


def test_progress_never_passes_its_total() -> None:
    progress = PlanProgress(Tally(settled_bytes=100, settled_files=9))
    progress.announce([("a", "hash", 10)])

    assert progress.now() == Progress("syncing", 1, 1, 10, 10, eta_seconds=0)


def test_what_moves_and_what_need_not_are_told_apart() -> None:
    told: list[int] = []
    tally = Tally(on_change=told.append)
    tally.sent(3)
    tally.received(4)
    tally.settled(5)
    tally.file_done()

    assert (tally.uploaded_bytes, tally.downloaded_bytes, tally.settled_bytes, tally.settled_files) == (
        3,
        4,
        12,
        1,
    )
    assert told == [3, 4, 5, 0]
