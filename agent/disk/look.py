"""Looking at entries: what stands at a place, what its bytes hash to, whether it is as expected."""

import hashlib
import os
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

from agent.disk import native
from agent.disk.errors import BlockedError, MismatchError, VanishedError
from agent.disk.native import Place
from agent.model import FileStat, LocalEntry, LocalKind

BLOCK: Final = 1024 * 1024
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS: Final = {
    modes.S_IFREG: LocalKind.FILE,
    modes.S_IFDIR: LocalKind.FOLDER,
    modes.S_IFLNK: LocalKind.SYMLINK,
}

Stop = Callable[[], bool]
"""Says that the agent wants to end; asked between blocks of a long read."""


class Digest(Protocol):
    """What a file's bytes are shown to while they are read: `hashlib.sha256()`, or more than that."""

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes; their buffer is used again afterwards."""

    def hexdigest(self) -> str:
        """Return the SHA-256 of all that came."""


class Seen(NamedTuple):
    """What stands at a place."""

    kind: LocalKind
    stat: FileStat


def look(place: Place) -> Seen | None:
    """Return what stands at a place, links not followed; None when nothing does."""
    try:
        raw = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return Seen(kind_of(raw.st_mode), file_stat(raw, native.birth_ns(place.fd, place.name, raw.st_ino)))


def present(seen: Seen | None) -> Seen:
    """Return what was seen, or raise `VanishedError` when it was nothing."""
    if seen is None:
        raise VanishedError("It is no longer there")
    return seen


def look_inside(fd: int) -> Seen:
    """Return what a descriptor holds open."""
    raw = os.fstat(fd)
    return Seen(kind_of(raw.st_mode), file_stat(raw, native.birth_ns(fd, "", raw.st_ino)))


def kind_of(mode: int) -> LocalKind:
    """Return the kind that an entry's mode says."""
    return _KINDS.get(modes.S_IFMT(mode), LocalKind.OTHER)


def file_stat(raw: os.stat_result, birth_ns: int | None) -> FileStat:
    """Return the part of a system's stat that the agent keeps."""
    return FileStat(
        dev=raw.st_dev,
        ino=raw.st_ino,
        size=raw.st_size,
        mtime_ns=raw.st_mtime_ns,
        ctime_ns=raw.st_ctime_ns,
        mode=modes.S_IMODE(raw.st_mode),
        birth_ns=birth_ns,
    )


@contextmanager
def reading(place: Place) -> Iterator[tuple[int, FileStat]]:
    """Open a regular file for reading without following a link or waiting for a FIFO's writer.

    Raises `MismatchError` when something else stands there.
    """
    fd = os.open(place.name, _READ, dir_fd=place.fd)
    try:
        kind, stat = look_inside(fd)
        if kind is not LocalKind.FILE:
            raise MismatchError("It is not a file")
        yield fd, stat
    finally:
        os.close(fd)


def hash_open(fd: int, stat: FileStat, stop: Stop, digest: Digest | None = None) -> str:
    """Hash an open file that must stay as `stat` says, by `digest` when another is wanted.

    Raises `MismatchError` "changing" when it did not; a file that grows is noticed at once.
    """
    digest, left = digest or hashlib.sha256(), stat.size
    buffer = bytearray(min(BLOCK, stat.size + 1))
    view, offset = memoryview(buffer), 0
    while count := os.preadv(fd, [view], offset):
        digest.update(view[:count])
        offset, left = offset + count, left - count
        if left < 0:
            raise MismatchError("The file changes while it is read", code="changing")
        if stop():
            raise BlockedError("The agent is stopping", code="stopping")
    if left or not file_stat(os.fstat(fd), None).same(stat):
        raise MismatchError("The file changes while it is read", code="changing")
    return digest.hexdigest()


def resembles(seen: Seen | None, expect: LocalEntry) -> bool:
    """Say whether nothing visible from outside suggests that this is not what was expected."""
    if seen is None or seen.kind is not expect.kind:
        return False
    if seen.kind is LocalKind.FOLDER:
        return (seen.stat.dev, seen.stat.ino) == (expect.stat.dev, expect.stat.ino)
    return seen.stat.same_content_signs(expect.stat)


def check_signs(place: Place, expect: LocalEntry) -> None:
    """Raise unless what stands at a place looks as expected; its content is not read."""
    seen = look(place)
    if seen is None:
        raise VanishedError("It is no longer there", path=expect.path)
    if not resembles(seen, expect):
        raise MismatchError("It is no longer what it was", path=expect.path)


def check_content(place: Place, expect: LocalEntry, stop: Stop) -> None:
    """Raise unless what stands at a place is what was expected, to the last byte.

    Raises `BlockedError` "in_use" while any process could still write into the file. Whether
    there is a writer is asked before the last look at the times: one that closed earlier shows
    there.
    """
    check_signs(place, expect)
    if expect.kind is LocalKind.SYMLINK:
        if os.readlink(place.name, dir_fd=place.fd) != expect.symlink_target:
            raise MismatchError("The link points elsewhere now", path=expect.path)
    elif expect.kind is LocalKind.FILE:
        _check_bytes(place, expect, stop)


def check_unused(place: Place, path: str) -> None:
    """Raise `BlockedError` "in_use" when a process has the file open for writing."""
    with reading(place) as (fd, _):
        if native.open_for_writing(fd):
            raise BlockedError("A program has the file open for writing", code="in_use", path=path)


def _check_bytes(place: Place, expect: LocalEntry, stop: Stop) -> None:
    with reading(place) as (fd, stat):
        if not stat.same_content_signs(expect.stat):
            raise MismatchError("It is no longer what it was", path=expect.path)
        digest = hash_open(fd, stat, stop)
        if native.open_for_writing(fd):
            raise BlockedError("A program has the file open for writing", code="in_use", path=expect.path)
        if digest != expect.content_hash or not look_inside(fd).stat.same(stat):
            raise MismatchError("Its content is no longer what it was", path=expect.path)
