"""Sending a difference instead of a file: the delta object, written down before it is sent."""

import errno
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from agent.errors import LocalError
from agent.transfer.blocking import Stop, never, until_stopped
from agent.transfer.source import DeltaBase, LargeSource
from agent.transfer.spool import Kept, Spool, check_room
from libs.contracts.api import DeltaOffer
from libs.contracts.limits import SINGLE_PUT_BYTES
from libs.contracts.recipe import Recipe, encode
from libs.delta.package import ShortReadError, Written, write
from libs.runtime.logs import get_logger

log = get_logger("delta")

_SOON_MADE: Final = SINGLE_PUT_BYTES
"""New bytes of a content up to which its delta object is not kept for the next run."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A delta object in an open file, from its first byte on."""

    file: BinaryIO
    size: int
    offer: DeltaOffer


@dataclass(frozen=True, slots=True)
class _Unnamed:
    """A file that is gone when it is closed."""

    file: BinaryIO


@asynccontextmanager
async def packed(source: LargeSource, spool: Spool) -> AsyncIterator[Packed | None]:
    """Have the delta object of a file written down while the context lasts; a large one stays beyond.

    None where there is no base, no room for it, or nothing to be gained. Raises `LocalError`
    "changed" when the file is shorter than its recipe says or not what it was, "unreadable".
    """
    base = source.delta
    if base is None:
        yield None
        return
    with _place(base, source, spool) as place:
        written = None
        if place is not None:
            written = await until_stopped(partial(_made, place, base.recipe, source, spool.limit))
        if place is None or written is None or written.size >= source.size:
            yield None
            return
        offer = DeltaOffer(base_version_id=base.version_id, size=written.size, sha256=written.sha256)
        yield Packed(place.file, written.size, offer)


@contextmanager
def _place(base: DeltaBase, source: LargeSource, spool: Spool) -> Iterator[Kept | _Unnamed | None]:
    """Open the file in which the delta object is, or is to be; None where there is no room."""
    with ExitStack() as stack:
        place: Kept | _Unnamed | None = None
        try:
            place = stack.enter_context(_chosen(base, source, spool))
        except OSError as error:
            _tell_no_room(error)
        yield place


def _chosen(base: DeltaBase, source: LargeSource, spool: Spool) -> AbstractContextManager[Kept | _Unnamed]:
    most = base.recipe.literal_bytes
    if most <= _SOON_MADE or not spool.is_free(source.content_hash):
        return _unnamed(base.folder, min(most, spool.limit))
    return spool.kept(source.content_hash, most, _stamp(base.recipe, source.fd))


def _stamp(recipe: Recipe, fd: int) -> bytes:
    """Return what tells of which file, as it is now, and by which recipe a delta object is made."""
    found = os.fstat(fd)
    signs = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} "
    return sha256(signs.encode() + encode(recipe)).digest()


@contextmanager
def _unnamed(folder: Path, most: int) -> Iterator[_Unnamed]:
    """Open an unnamed file. Raises `OSError` where there is no room for `most` bytes in it.

    To close it raises nothing: what a full disk has not taken is tried once more then.
    """
    check_room(folder, most)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below, where errors are of no matter
    try:
        yield _Unnamed(file)
    finally:
        with suppress(OSError):
            file.close()


@dataclass(slots=True)
class _Bounded:
    """A file that takes no more than a delta object may have."""

    file: BinaryIO
    left: int

    def write(self, data: bytes) -> int:
        """Write bytes, or raise `OSError` when they would be too many."""
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return self.file.write(data)


def _made(
    place: Kept | _Unnamed, recipe: Recipe, source: LargeSource, limit: int, stop: Stop = never
) -> Written | None:
    """Return the delta object that is kept, or write it; None when there is no room for it. Blocks."""
    if isinstance(place, _Unnamed):
        return _written(recipe, source.fd, _Bounded(place.file, limit), stop)
    found = place.found(stop)
    if found is not None:
        log.info("a kept delta is gone on with", path=source.path, size=found.size)
        return found
    place.clear()
    written = _written(recipe, source.fd, _Bounded(place.file, limit), stop)
    if written is not None and not source.unchanged():
        raise LocalError(code="changed")
    return written if written is not None and _sealed(place, written) else None


def _sealed(place: Kept, written: Written) -> bool:
    try:
        place.seal(written)
    except OSError as error:
        _tell_no_room(error)
        return False
    return True


def _written(recipe: Recipe, fd: int, out: _Bounded, stop: Stop) -> Written | None:
    """Write the delta object; None when there is no room for it, or it would be too long. Blocks."""

    def read(offset: int, length: int) -> bytes:
        if stop():
            return b""
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error

    try:
        written = write(recipe, read, out)
        out.file.flush()
    except ShortReadError as error:
        raise LocalError("The file became shorter", code="changed") from error
    except OSError as error:
        _tell_no_room(error)
        return None
    return written


def _tell_no_room(error: OSError) -> None:
    log.warning("there is no room for a delta", error=str(error))
