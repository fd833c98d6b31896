"""What is there of a large download, noted beside it so that the next run can go on.

The journal is never believed: each of its notes names a checksum, and bytes count only when they have it.
So it needs no flush, and a note that was torn, or that outlived the bytes in a power loss, is as good as
none. The checksum is BLAKE3, which costs a fraction of SHA-256: it tells that what was written is still
there. That it is the content is for the SHA-256 of the whole to say.
"""

import hashlib
import os
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from blake3 import blake3

from libs.contracts.api import Download
from libs.contracts.parts import part_count

_MOST_RANGES: Final = 10_000
"""S3 has no more parts of one object."""
_MAGIC: Final = b"lockstep ranges2"
_FACTS: Final = struct.Struct(">16sQQ32s")
_HEADER: Final = _FACTS.size + hashlib.sha256().digest_size
_NOTE: Final = struct.Struct(">Q32s")


class Checksum(Protocol):
    """Of bytes that come one after the other."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take in the next bytes."""

    def digest(self) -> bytes:
        """Return the 32 bytes that stand for all so far."""


def new_checksum() -> Checksum:
    """Return the checksum of nothing, as notes have it."""
    return blake3()


@dataclass(frozen=True, slots=True)
class Note:
    """The first `done` bytes of a range have this checksum."""

    done: int
    checksum: bytes


class Journal:
    """Notes on the ranges of one content. Without a file (`fd` None) nothing is kept. All methods block."""

    def __init__(self, fd: int | None, item: Download) -> None:
        self._fd = fd
        self._item = item
        self._notes = b""

    def read(self) -> int | None:
        """Read what is there and return its range size; None when it is no journal of this content."""
        if self._fd is None:
            return None
        try:
            header = os.pread(self._fd, _HEADER, 0)
            range_size = self._range_size(header)
            if range_size is not None:
                count = part_count(self._item.size, range_size)
                self._notes = os.pread(self._fd, count * _NOTE.size, _HEADER)
        except OSError:
            return None
        return range_size

    def _range_size(self, header: bytes) -> int | None:
        facts, digest = header[: _FACTS.size], header[_FACTS.size :]
        if hashlib.sha256(facts).digest() != digest:
            return None
        range_size: int = _FACTS.unpack(facts)[2]
        ours = facts == self._facts(range_size) and sensible(self._item.size, range_size)
        return range_size if ours else None

    def _facts(self, range_size: int) -> bytes:
        return _FACTS.pack(_MAGIC, self._item.size, range_size, bytes.fromhex(self._item.content_hash))

    def begin(self, range_size: int) -> None:
        """Forget everything and begin anew."""
        self._notes = b""
        if self._fd is not None:
            facts = self._facts(range_size)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, facts + hashlib.sha256(facts).digest(), 0)

    def noted(self, number: int) -> Note | None:
        """Return what `read` found on a range."""
        note = self._notes[(number - 1) * _NOTE.size : number * _NOTE.size]
        if len(note) < _NOTE.size:
            return None
        done, checksum = _NOTE.unpack(note)
        return Note(done, checksum) if done else None

    def note(self, number: int, note: Note) -> None:
        """Note what is there of a range."""
        if self._fd is not None:
            place = _HEADER + (number - 1) * _NOTE.size
            os.pwrite(self._fd, _NOTE.pack(note.done, note.checksum), place)

    def strike(self, number: int) -> None:
        """Take back what is noted of a range."""
        self.note(number, Note(0, bytes(32)))


def sensible(size: int, range_size: int) -> bool:
    """Whether a file can be cut into ranges of this size."""
    return range_size > 0 and part_count(size, range_size) <= _MOST_RANGES
