"""Delta objects that are kept on disk until they are sent, so that the next run goes on with them.

A kept one ends with a trailer that says what it was made of. Nothing is flushed to the disk and
nothing is believed: who goes on with one hashes it first. It is a cache; without it a delta object is
made anew, by the same program to the same bytes.
"""

import errno
import hashlib
import os
import struct
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent import clock
from agent.errors import LocalError
from agent.transfer.blocking import Stop
from libs.contracts.limits import MIB
from libs.delta.package import Written
from libs.runtime.logs import get_logger

log = get_logger("spool")

FOLDER: Final = "spool"
"""In the agent's home."""
KEPT_FREE: Final = 256 * MIB
"""Bytes of the disk that deltas leave free: the agent's memory lies there, too."""
_TRAILER: Final = struct.Struct("<4sQ32s32s")
"""Magic, size and SHA-256 of the object before it, and the stamp of what it was made of."""
_MAGIC: Final = b"LSSP"
_UNUSED_SECONDS: Final = 8 * 24 * 3600.0
"""After which the server has let go of a session that nobody touched."""


@dataclass(slots=True)
class Kept:
    """An open kept file. `stamp` (32 bytes) tells what the delta object is, or is to be, made of."""

    file: BinaryIO
    stamp: bytes
    whole: bool = False
    """Whether it holds a delta object made of that."""

    def found(self, stop: Stop) -> Written | None:
        """Return what it holds, when that is whole and made of the same. Blocks: it is hashed."""
        end = self.file.seek(0, os.SEEK_END) - _TRAILER.size
        sealed = _sealed(self.file, end)
        if sealed is None or sealed.stamp != self.stamp:
            return None
        digest = hashlib.sha256()
        for at in range(0, end, MIB):
            if stop():
                return None
            digest.update(os.pread(self.file.fileno(), min(MIB, end - at), at))
        self.whole = digest.digest() == sealed.digest
        if not self.whole:
            log.warning("a kept delta is damaged and made anew")
            return None
        os.utime(self.file.fileno())
        return Written(end, digest.hexdigest())

    def clear(self) -> None:
        """Drop what the file holds. Raises `OSError`."""
        self.file.seek(0)
        self.file.truncate()

    def seal(self, written: Written) -> None:
        """Say that what was written is whole. Raises `OSError`."""
        self.file.write(_TRAILER.pack(_MAGIC, written.size, bytes.fromhex(written.sha256), self.stamp))
        self.file.flush()
        self.whole = True


@dataclass(frozen=True, slots=True)
class _Seal:
    digest: bytes
    stamp: bytes


def _sealed(file: BinaryIO, end: int) -> _Seal | None:
    """Return what the trailer at `end` says; None: there is none."""
    if end < 0:
        return None
    magic, size, digest, stamp = _TRAILER.unpack(os.pread(file.fileno(), _TRAILER.size, end))
    return _Seal(digest, stamp) if (magic, size) == (_MAGIC, end) else None


class Spool:
    """The kept delta objects of one home, by content hash; `limit` bounds the bytes of all."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder / FOLDER
        self.limit = limit
        self._busy: dict[str, int] = {}
        """Those in use, and how many bytes each may come to have."""

    def is_free(self, name: str) -> bool:
        """Whether nobody uses a name."""
        return name not in self._busy

    @contextmanager
    def kept(self, name: str, most: int, stamp: bytes) -> Iterator[Kept]:
        """Open the file of a free name for at most `most` bytes, whatever it holds.

        It stays when it is whole, unless the body raises `LocalError`: the source is not what it
        was, or what was kept of it is wrong. Raises `OSError` when there is no room.
        """
        self._make_room(name, most)
        self._busy[name] = most
        try:
            with _opened(self._folder / name) as file:
                kept = Kept(file, stamp)
                try:
                    yield kept
                except LocalError:
                    kept.whole = False
                    raise
                finally:
                    if not kept.whole:
                        self._unlink(name)
        finally:
            del self._busy[name]

    def remove(self, name: str) -> None:
        """Drop what is kept: it is sent, or wrong."""
        if name not in self._busy:
            self._unlink(name)

    def tidy(self, wanted: Container[str]) -> None:
        """Drop what no run will go on with: unfinished, of no wanted content, or unused for long."""
        before = clock.now() - _UNUSED_SECONDS
        for name, stat in self._idle():
            if name not in wanted or stat.st_mtime < before or not self._is_whole(name):
                self._unlink(name)

    def _is_whole(self, name: str) -> bool:
        try:
            with (self._folder / name).open("rb") as file:
                return _sealed(file, file.seek(0, os.SEEK_END) - _TRAILER.size) is not None
        except OSError:
            return False

    def _make_room(self, name: str, most: int) -> None:
        """Drop the oldest that are not in use until `most` bytes fit. Raises `OSError` "no space"."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        idle = sorted(self._idle(but=name), key=lambda one: one[1].st_mtime)
        promised = sum(self._busy.values())
        while idle and not self._fits(most + promised, sum(stat.st_size for _, stat in idle)):
            self._unlink(idle.pop(0)[0])
        if most + promised > self.limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        check_room(self._folder, most + promised)

    def _fits(self, wanted: int, idle: int) -> bool:
        return wanted + idle <= self.limit and _free(self._folder) >= wanted + KEPT_FREE

    def _idle(self, but: str = "") -> list[tuple[str, os.stat_result]]:
        found = []
        with suppress(OSError):  # what cannot be listed is not dropped
            for entry in os.scandir(self._folder):
                if entry.name not in self._busy and entry.name != but:
                    with suppress(FileNotFoundError):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
        return found

    def _unlink(self, name: str) -> None:
        with suppress(OSError):
            (self._folder / name).unlink()


def check_room(folder: Path, wanted: int) -> None:
    """Raise `OSError` unless `wanted` bytes fit on the disk of a folder beside what is kept free."""
    if _free(folder) < wanted + KEPT_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open for reading and writing, made when it is not there, what it holds kept.

    To close it raises nothing: what a full disk has not taken is tried once more then.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()
