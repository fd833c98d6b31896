"""The line that a command draws while it moves one file."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from agent.progress import ProgressBar, progress_of, short_name
from agent.transfer import Direction, Transfer


@contextmanager
def shown(transfer: Transfer, bar: ProgressBar, path: str, code: Direction, size: int) -> Iterator[None]:
    """Draw what moves in the body for one file: the line for all is the file's."""
    tally = transfer.tally

    def draw(_count: int) -> None:
        if bar.due:
            bar(replace(progress_of(tally, short_name(path), size), transfers=()))

    tally.on_change = draw
    with tally.moving(path, code, size):
        yield
