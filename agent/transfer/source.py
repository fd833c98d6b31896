"""A large file as it is read to be sent: the whole, its parts, and what is remembered of them."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.errors import LocalError
from agent.transfer.wire import PIECE, Body
from libs.contracts.limits import MIB
from libs.contracts.recipe import Recipe


def _unchanged() -> bool:
    return True


def _nothing() -> None:
    return None


class PartNotes(Protocol):
    """What is remembered of one content's parts from one run to the next."""

    def known(self, part_size: int) -> Mapping[int, str]:
        """Return digests (SHA-256, hex) by part number, noted with the same part size."""

    def note(self, upload_id: str, part_size: int, digests: Mapping[int, str]) -> None:
        """Keep the digests of parts that are in S3."""

    def forget(self) -> None:
        """Drop what is noted: it is of no more use, or was wrong."""


class NoNotes:
    """Remembers nothing: parts that S3 holds are read and compared."""

    def known(self, part_size: int) -> Mapping[int, str]:
        """See `PartNotes`."""
        del part_size
        return {}

    def note(self, upload_id: str, part_size: int, digests: Mapping[int, str]) -> None:
        """See `PartNotes`."""

    def forget(self) -> None:
        """See `PartNotes`."""


def no_notes(_content_hash: str) -> PartNotes:
    """Remember nothing of any content's parts."""
    return NoNotes()


@dataclass(frozen=True, slots=True)
class DeltaBase:
    """How a file is made of a version that the server has.

    `folder` is where a small delta object is written before it is sent; large ones lie in the home's
    spool. `refused` is called when the server finds that it does not give the content.
    """

    version_id: str
    recipe: Recipe
    folder: Path
    refused: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class LargeSource:
    """A file to send, read through `fd` by position (so the offset is not used).

    `unchanged` is asked after the last byte was sent: whether the file still is what was
    announced. `notes` remembers parts across runs. `throughput` is what this device has sent per
    second lately, in bytes: the server chooses the size of parts by it.
    """

    path: str
    size: int
    content_hash: str
    fd: int
    unchanged: Callable[[], bool] = _unchanged
    notes: PartNotes = field(default_factory=NoNotes)
    throughput: int | None = None
    delta: DeltaBase | None = None
    """How the file is made of a version that the server has, where that is less to send."""
    notes_of: Callable[[str], PartNotes] = no_notes
    """Return what is remembered of the parts of an object with this SHA-256: of a delta object."""


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    offset: int
    length: int
    digest: str
    noted: bool = False
    """Whether the digest is one of an earlier run, and the part was not read in this one."""


def measure(source: LargeSource, number: int, offset: int, length: int) -> Part:
    """Hash a part. Raises `LocalError` "changed" when the file is shorter, "unreadable". Blocks."""
    digest = hashlib.sha256()
    position, end = offset, offset + length
    while position < end:
        piece = read_piece(source.fd, position, min(MIB, end - position))
        digest.update(piece)
        position += len(piece)
    return Part(number, offset, length, digest.hexdigest())


def proven_digests(source: LargeSource, claimed: Sequence[Part]) -> list[str] | None:
    """Return what parts, in any order, hash to in one reading of the whole; None when that is not the file.

    Raises as `measure`. Blocks.
    """
    whole = hashlib.sha256()
    parts = {part.number: hashlib.sha256() for part in claimed}
    position = 0
    while position < source.size:
        piece = memoryview(read_piece(source.fd, position, min(MIB, source.size - position)))
        whole.update(piece)
        for part in claimed:
            first, end = part.offset - position, part.offset + part.length - position
            parts[part.number].update(piece[max(0, first) : max(0, end)])
        position += len(piece)
    right = whole.hexdigest() == source.content_hash
    return [parts[part.number].hexdigest() for part in claimed] if right else None


def read_piece(fd: int, offset: int, length: int) -> bytes:
    """Read at least one byte at `offset`; `LocalError` "changed" at the end, "unreadable"."""
    try:
        piece = os.pread(fd, length, offset)
    except OSError as error:
        raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error
    if not piece:
        raise LocalError("The file became shorter", code="changed")
    return piece


def part_body(source: LargeSource, part: Part) -> Body:
    """Return the bytes of a part as a request's body, read while it is sent."""

    async def pieces() -> AsyncIterator[bytes]:
        position, end = part.offset, part.offset + part.length
        while position < end:
            piece = await asyncio.to_thread(read_piece, source.fd, position, min(PIECE, end - position))
            yield piece
            position += len(piece)

    return Body(part.length, pieces)
