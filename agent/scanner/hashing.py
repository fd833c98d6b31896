"""Reading the files whose content is not known, beside each other and in bounded memory."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, NamedTuple

from agent.disk import Disk, DiskError
from agent.model import FileStat

WORKERS: Final = 2
BATCH: Final = 1000
"""Files handed to the pool at a time."""
WRITER_SECONDS: Final = 5.0
"""A file written to so recently by a program that still has it open is left to it."""


class Hashed(NamedTuple):
    """What reading one file gave."""

    path: str
    at: float
    """When reading began."""
    stat: FileStat | None = None
    digest: str | None = None
    error: DiskError | None = None


def hash_files(disk: Disk, paths: Sequence[str]) -> Iterator[Hashed]:
    """Read files and yield what each gave, in the order asked; ends early when the agent stops."""
    if len(paths) <= WORKERS:
        yield from (_hash(disk, path) for path in paths)
        return
    waiting = iter(paths)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="hash") as pool:
        while batch := list(islice(waiting, BATCH)):
            yield from pool.map(lambda path: _hash(disk, path), batch)


def _hash(disk: Disk, path: str) -> Hashed:
    at = time.time()
    try:
        stat, digest = disk.hash_file(path, writers_since=at - WRITER_SECONDS)
    except DiskError as error:
        return Hashed(path, at, error=error)
    return Hashed(path, at, stat, digest)
