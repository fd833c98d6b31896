"""Sending a difference instead of a file: the delta object, written to an unnamed temporary file."""

import errno
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from agent.errors import LocalError
from agent.transfer.blocking import Stop, never, until_stopped
from libs.contracts.api import DeltaOffer
from libs.contracts.limits import MAX_DELTA_BYTES, MIB
from libs.contracts.recipe import Recipe
from libs.delta.package import ShortReadError, Written, write
from libs.runtime.logs import get_logger

log = get_logger("delta")

_KEPT_FREE: Final = 256 * MIB
"""Bytes of the disk that a delta leaves free: the agent's memory lies there, too."""


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class DeltaBase:
    """How a file is made of a version that the server has.

    `folder` is where the delta object is written before it is sent. `refused` is called when the
    server finds that it does not give the content.
    """

    version_id: str
    recipe: Recipe
    folder: Path
    refused: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Packed:
    """A delta object in an open temporary file."""

    file: BinaryIO
    size: int
    offer: DeltaOffer


@asynccontextmanager
async def packed(base: DeltaBase | None, fd: int, size: int) -> AsyncIterator[Packed | None]:
    """Write the delta object of the file open as `fd`, which has `size` bytes; it is gone at the end.

    None where there is no base, no room for it, or nothing to be gained. Raises `LocalError`
    "changed" when the file is shorter than its recipe says, "unreadable".
    """
    if base is None:
        yield None
        return
    with _temporary(base.folder, base.recipe.literal_bytes) as file:
        written = None
        if file is not None:
            written = await until_stopped(partial(_written, base.recipe, fd, file))
        if file is None or written is None or written.size >= size:
            yield None
            return
        offer = DeltaOffer(base_version_id=base.version_id, size=written.size, sha256=written.sha256)
        yield Packed(file, written.size, offer)


@contextmanager
def _temporary(folder: Path, most: int) -> Iterator[BinaryIO | None]:
    """Open an unnamed file; None where there is no room for `most` bytes in it beside what is kept free.

    To close it raises nothing: what a full disk has not taken is tried once more then.
    """
    try:
        _check_room(folder, min(most, MAX_DELTA_BYTES))
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below, where errors are of no matter
    except OSError as error:
        _tell_no_room(error)
        yield None
        return
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


def _check_room(folder: Path, wanted: int) -> None:
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < wanted + _KEPT_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


def _written(recipe: Recipe, fd: int, file: BinaryIO, stop: Stop = never) -> Written | None:
    """Write the delta object; None when there is no room for it, or it would be too long. Blocks."""

    def read(offset: int, length: int) -> bytes:
        if stop():
            return b""
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error

    try:
        written = write(recipe, read, _Bounded(file, MAX_DELTA_BYTES))
        file.flush()
    except ShortReadError as error:
        raise LocalError("The file became shorter", code="changed") from error
    except OSError as error:
        _tell_no_room(error)
        return None
    return written


def _tell_no_room(error: OSError) -> None:
    log.warning("there is no room for a delta", error=str(error))
