"""Reading the files whose content is not known, beside each other and in bounded memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from agent import clock
from agent.disk import Disk, DiskError
from agent.manifests import Manifests
from agent.model import FileStat, LocalEntry

WORKERS: Final = 2
LARGE_BYTES: Final = 1024 * 1024
BATCH: Final = 1000
"""Large files handed to the pool at a time."""
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


def hash_files(
    disk: Disk, entries: Sequence[LocalEntry], manifests: Manifests | None = None
) -> Iterator[Hashed]:
    """Read files and yield what each gave. When the disk is stopped each gives that error at once.

    Small files are read one after the other: handing them to threads costs more than it gains. Of
    large ones `manifests` keeps which chunks they consist of, found in the same reading.
    """
    read = partial(_hash, disk, manifests)
    yield from (read(entry) for entry in entries if entry.stat.size < LARGE_BYTES)
    waiting = (entry for entry in entries if entry.stat.size >= LARGE_BYTES)
    while batch := list(islice(waiting, BATCH)):
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="hash") as pool:
            yield from pool.map(read, batch)


def _hash(disk: Disk, manifests: Manifests | None, entry: LocalEntry) -> Hashed:
    at, path = clock.now(), entry.path
    reader = None if manifests is None else manifests.reader(entry.stat.size, entry.content_hash)
    try:
        stat, digest = disk.hash_file(path, writers_since=at - WRITER_SECONDS, digest=reader)
    except DiskError as error:
        return Hashed(path, at, error=error)
    if manifests is not None and reader is not None:
        manifests.keep(digest, reader.manifest())
    return Hashed(path, at, stat, digest)
