import io
from types import SimpleNamespace

from agent.progress import PlanProgress, Progress, ProgressBar, items_text
from agent.transfer import Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_where_no_terminal_is() -> None:
    stream = io.StringIO()
    with ProgressBar(stream) as bar:
        bar(Progress("sending", 1, 2, 3, 4))

    assert stream.getvalue() == ""


def test_a_terminal_shows_items_and_bytes() -> None:
    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar(Progress("sending", 1_000, 2_500, 1024 * 1024, 4 * 1024 * 1024))

    shown = stream.getvalue()
    assert "sending" in shown
    assert "1,000/2,500" in shown
    assert "1.0/4.0" in shown


def test_items_are_shown_only_where_there_are_some() -> None:
    assert items_text(Progress("x")) == ""
    assert items_text(Progress("x", 1, 2)) == "1/2"


def test_a_file_that_is_planned_again_counts_once() -> None:
    done = SimpleNamespace(settled_bytes=0, settled_files=0)
    progress = PlanProgress(done)
    progress.announce([("a", "hash", 10), ("b", "hash", 5)])
    progress.announce([("b", "hash", 5), ("b", "other", 7)])

    assert progress.now() == Progress("syncing", 0, 3, 0, 22)


def test_progress_never_passes_its_total() -> None:
    progress = PlanProgress(SimpleNamespace(settled_bytes=100, settled_files=9))
    progress.announce([("a", "hash", 10)])

    assert progress.now() == Progress("syncing", 1, 1, 10, 10)


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
