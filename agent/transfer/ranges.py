"""A large download on the disk: which ranges are there, what they hash to, and the journal of that.

The journal lies beside the temporary file and is never believed: each of its notes names a digest,
and bytes count only when they have it. So it needs no flush, and a note that was torn, or that
outlived the bytes in a power loss, is as good as none.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from libs.contracts.api import Download
from libs.contracts.limits import MAX_PARTS, MIB
from libs.contracts.parts import part_count, part_span

RANGE_BYTES: Final = 8 * MIB
"""Files up to this size travel in one request. Larger ones go in ranges: of this size, or the parts in
which the file was sent, where their digests are known."""
_MOST_RANGES: Final = 10_000
"""S3 has no more parts of one object."""
_MAGIC: Final = b"lockstep ranges1"
_FACTS: Final = struct.Struct(">16sQQ32s")
_HEADER: Final = _FACTS.size + hashlib.sha256().digest_size
_NOTE: Final = struct.Struct(">Q32s")


def in_ranges(size: int) -> bool:
    """Whether a download of so many bytes goes in ranges, and so has use for a journal."""
    return size > RANGE_BYTES


@dataclass(frozen=True, slots=True)
class Cut:
    """How a file is cut into ranges, and the digests that the server knows, by number from 1."""

    range_size: int
    known: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """The first `done` bytes of a range have this SHA-256."""

    done: int
    digest: bytes


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
        ours = facts == self._facts(range_size) and _sensible(self._item.size, range_size)
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
        done, digest = _NOTE.unpack(note)
        return Note(done, digest) if done else None

    def note(self, number: int, note: Note) -> None:
        """Note what is there of a range."""
        if self._fd is not None:
            place = _HEADER + (number - 1) * _NOTE.size
            os.pwrite(self._fd, _NOTE.pack(note.done, note.digest), place)


@dataclass(slots=True)
class Arriving:
    """A range on its way: written at its place, hashed and noted as it comes."""

    fd: int
    journal: Journal
    number: int
    offset: int
    length: int
    done: int = 0
    hasher: Any = field(default_factory=hashlib.sha256)

    @property
    def whole(self) -> bool:
        """Whether all bytes are there."""
        return self.done == self.length

    def write(self, pieces: list[bytes]) -> None:
        """Write the next bytes. Blocks."""
        for piece in pieces:
            write_all(self.fd, piece, self.offset + self.done)
            self.hasher.update(piece)
            self.done += len(piece)
        if pieces:
            self.journal.note(self.number, Note(self.done, self.hasher.digest()))

    def restart(self) -> None:
        """Drop what came."""
        self.done, self.hasher = 0, hashlib.sha256()


class Partial:
    """A temporary file that is filled in any order, and the SHA-256 of it as far as it has no gap.

    It is never given its final size beforehand, so what is missing at the end shows. Methods that
    end in "Blocks" are for a thread; two of them may run at once when they are about different ranges.
    """

    def __init__(self, fd: int, journal: Journal, item: Download, cut: Cut) -> None:
        self.item = item
        self.count = part_count(item.size, cut.range_size)
        self._fd = fd
        self._journal = journal
        self._cut = cut
        self._there = bytearray(self.count + 1)
        self._begun: dict[int, Arriving] = {}
        self._held = 0
        self._hasher = hashlib.sha256()
        self._hashed = 0

    def open(self, noted_range_size: int | None) -> None:
        """Begin with a journal that was read: drop it, or what lies beyond the file's end. Blocks."""
        if noted_range_size != self._cut.range_size:
            self._journal.begin(self._cut.range_size)
        self._held = os.fstat(self._fd).st_size
        if self._held > self.item.size:
            os.ftruncate(self._fd, self.item.size)

    def span(self, number: int) -> tuple[int, int]:
        """Return offset and length of a range."""
        return part_span(self.item.size, self._cut.range_size, number)

    # What an earlier run left ------------------------------------------------------------------

    def recallable(self) -> Iterator[int]:
        """Walk the numbers of ranges of which something may be there, in order."""
        return (number for number in range(1, self.count + 1) if self._claim(number) is not None)

    def _claim(self, number: int) -> Note | None:
        """Return what is to be checked of a range: what is noted, or all, where the digest is known."""
        offset, length = self.span(number)
        known = self._cut.known.get(number)
        claim = self._journal.noted(number) or (known and Note(length, known))
        if not claim or claim.done > length or offset + claim.done > self._held:
            return None
        return claim

    def recall(self, number: int) -> int:
        """Return how many bytes of a range are there, from its beginning. Blocks."""
        claim = self._claim(number)
        if claim is None:
            return 0
        if claim.done < self.span(number)[1]:
            return self._recall_begun(number, claim)
        return self._recall_whole(number, self._cut.known.get(number, claim.digest))

    def _recall_whole(self, number: int, expected: bytes) -> int:
        """Hash a range that may be there, and what leads at the same time: it is read once."""
        offset, length = self.span(number)
        leads = self._hashed == number - 1
        hasher, leading = hashlib.sha256(), self._hasher.copy()
        for piece in self._pieces(offset, length):
            hasher.update(piece)
            if leads:
                leading.update(piece)
        if hasher.digest() != expected:
            return 0
        if leads:
            self._hasher, self._hashed = leading, number
        self._journal.note(number, Note(length, expected))
        self._there[number] = 1
        return length

    def _recall_begun(self, number: int, note: Note) -> int:
        begun = self.arriving(number)
        for piece in self._pieces(begun.offset, note.done):
            begun.hasher.update(piece)
        if begun.hasher.digest() != note.digest:
            return 0
        begun.done = note.done
        self._begun[number] = begun
        return note.done

    # What arrives ------------------------------------------------------------------------------

    def missing(self) -> Iterator[int]:
        """Walk the numbers of ranges that are not there, in order."""
        return (number for number in range(1, self.count + 1) if not self._there[number])

    def arriving(self, number: int) -> Arriving:
        """Return a range to be filled, with what is there of it."""
        begun = self._begun.pop(number, None)
        return begun or Arriving(self._fd, self._journal, number, *self.span(number))

    def accept(self, arriving: Arriving) -> bool:
        """Take a range that has arrived whole; say no when the server knows another digest for it."""
        digest = arriving.hasher.digest()
        if self._cut.known.get(arriving.number, digest) != digest:
            return False
        self._there[arriving.number] = 1
        return True

    def drop(self) -> None:
        """Drop everything. Blocks."""
        self._journal.begin(self._cut.range_size)
        os.ftruncate(self._fd, 0)
        self._there = bytearray(self.count + 1)
        self._begun.clear()
        self._hasher, self._hashed = hashlib.sha256(), 0

    # The SHA-256 of the whole ------------------------------------------------------------------

    @property
    def hashed(self) -> bool:
        """Whether all of the file is hashed."""
        return self._hashed == self.count

    @property
    def leads(self) -> bool:
        """Whether the next range to be hashed is there."""
        return not self.hashed and bool(self._there[self._hashed + 1])

    def hash_next(self) -> None:
        """Hash the next range. Blocks."""
        offset, length = self.span(self._hashed + 1)
        for piece in self._pieces(offset, length):
            self._hasher.update(piece)
        self._hashed += 1

    def digest(self) -> str:
        """Return the SHA-256 of the file (hex), once all is hashed."""
        return self._hasher.hexdigest()

    def _pieces(self, offset: int, length: int) -> Iterator[bytes]:
        end = offset + length
        while offset < end and (piece := os.pread(self._fd, min(MIB, end - offset), offset)):
            yield piece
            offset += len(piece)


def cut_of(size: int, noted_range_size: int | None) -> Cut:
    """Return how to cut a file of whose parts the server knows nothing: as the journal has it, if any."""
    return Cut(noted_range_size or max(RANGE_BYTES, -(-size // MAX_PARTS)))


def cut_in_parts(size: int, part_size: int, known: Mapping[int, bytes]) -> Cut | None:
    """Return how to cut a file as it was sent; None when that cannot be."""
    return Cut(part_size, known) if _sensible(size, part_size) else None


def _sensible(size: int, range_size: int) -> bool:
    return range_size > 0 and part_count(size, range_size) <= _MOST_RANGES


def write_all(fd: int, piece: bytes | memoryview, offset: int) -> None:
    """Write a piece at its place. Blocks."""
    view = memoryview(piece)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]
