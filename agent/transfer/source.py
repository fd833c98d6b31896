"""A large file as it is read to be sent: the whole, its parts, and what is remembered of them."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from agent.errors import LocalError
from agent.transfer.delta import DeltaBase
from agent.transfer.wire import PIECE, Body
from libs.contracts.limits import MIB

_MUCH: Final = 64 * MIB
"""Bytes of one request that are a loss when it breaks off: no part of a file is larger by choice."""
_MOST_LOSSES: Final = 3
"""How often a delta may break off after much of it was sent: then the whole goes, which is continued."""


def _unchanged() -> bool:
    return True


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


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    offset: int
    length: int
    digest: str
    noted: bool = False
    """Whether the digest is one of an earlier run, and the part was not read in this one."""


class FragileError(Exception):
    """The line does not last for one long request."""


@dataclass(slots=True)
class Losses:
    """What was sent of one long request, and how often that was for nothing."""

    passed: int = 0
    count: int = 0

    def broke(self) -> None:
        """Take note that the request broke off. Raises `FragileError`."""
        self.count += self.passed >= _MUCH
        self.passed = 0
        if self.count >= _MOST_LOSSES:
            raise FragileError


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


def part_body(source: LargeSource, part: Part, losses: Losses) -> Body:
    async def pieces() -> AsyncIterator[bytes]:
        losses.passed = 0
        position, end = part.offset, part.offset + part.length
        while position < end:
            piece = await asyncio.to_thread(read_piece, source.fd, position, min(PIECE, end - position))
            yield piece
            position += len(piece)
            losses.passed += len(piece)

    return Body(part.length, pieces)
