"""Sending a difference instead of a file: the delta object, written to an unnamed temporary file."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.errors import LocalError
from libs.contracts.api import DeltaOffer
from libs.contracts.limits import MAX_DELTA_BYTES
from libs.contracts.recipe import Recipe
from libs.delta.package import ShortReadError, Written, write
from libs.runtime.logs import get_logger

log = get_logger("delta")


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
    with tempfile.TemporaryFile(dir=base.folder) as file:
        written = await asyncio.to_thread(_written, base.recipe, fd, file)
        if written is None or written.size >= min(size, MAX_DELTA_BYTES):
            yield None
            return
        offer = DeltaOffer(base_version_id=base.version_id, size=written.size, sha256=written.sha256)
        yield Packed(file, written.size, offer)


def _written(recipe: Recipe, fd: int, file: BinaryIO) -> Written | None:
    """Write the delta object; None when there is no room for it. Blocks."""

    def read(offset: int, length: int) -> bytes:
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error

    try:
        written = write(recipe, read, file)
        file.flush()
    except ShortReadError as error:
        raise LocalError("The file became shorter", code="changed") from error
    except OSError as error:
        log.warning("there is no room for a delta", error=str(error))
        return None
    return written
