"""A large download on the disk: which ranges are there, and the SHA-256 of the whole."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.disk.native import start_writing
from agent.transfer.blocking import Stop, never
from agent.transfer.journal import Checksum, Journal, Note, new_checksum, sensible
from libs.contracts.api import Download
from libs.contracts.limits import MAX_PARTS, MIB
from libs.contracts.parts import part_count, part_span

RANGE_BYTES: Final = 8 * MIB
"""Files up to this size travel in one request. Larger ones go in ranges: of this size, or the parts in
which the file was sent, where their digests are known."""
_READ: Final = 256 * 1024
"""Bytes that are read back at once: what one processor's cache holds."""


def in_ranges(size: int) -> bool:
    """Whether a download of so many bytes goes in ranges, and so has use for a journal."""
    return size > RANGE_BYTES


@dataclass(frozen=True, slots=True)
class Cut:
    """How a file is cut into ranges, and the digests that the server knows, by number from 1."""

    range_size: int
    known: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Arriving:
    """A range on its way: written at its place and noted as it comes."""

    fd: int
    journal: Journal
    number: int
    offset: int
    length: int
    done: int = 0
    checksum: Checksum = field(default_factory=new_checksum)

    @property
    def position(self) -> int:
        """Return where in the file the next byte goes."""
        return self.offset + self.done

    @property
    def end(self) -> int:
        """Return where in the file the next range begins."""
        return self.offset + self.length

    @property
    def whole(self) -> bool:
        """Whether all bytes are there."""
        return self.done == self.length

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write the next bytes. Blocks."""
        for piece in pieces:
            write_all(self.fd, piece, self.position)
            self.checksum.update(piece)
            self.done += len(piece)
        if pieces:
            self.journal.note(self.number, Note(self.done, self.checksum.digest()))


class Run:
    """Ranges one behind the other, on their way in one request; nothing is there but of the first."""

    def __init__(self, ranges: Sequence[Arriving]) -> None:
        self._ranges = deque(ranges)
        self.end = ranges[-1].end

    @property
    def position(self) -> int:
        """Return where in the file the next byte goes."""
        return self._ranges[0].position if self._ranges else self.end

    @property
    def whole(self) -> bool:
        """Whether all bytes are there."""
        return not self._ranges

    def write(self, pieces: Sequence[bytes]) -> list[Arriving]:
        """Write the next bytes, of this run at most, and return the ranges that are whole by them. Blocks."""
        whole: list[Arriving] = []
        left = deque(memoryview(piece) for piece in pieces)
        while left:
            first = self._ranges[0]
            first.write(_cut_off(left, first.length - first.done))
            if first.whole:
                whole.append(self._ranges.popleft())
        return whole

    def shorten(self) -> list[int]:
        """Let go of all ranges but the first, and return their numbers."""
        others = [self._ranges.pop().number for _ in range(len(self._ranges) - 1)]
        self.end = self._ranges[0].end if self._ranges else self.end
        return others[::-1]


def _cut_off(pieces: deque[memoryview], count: int) -> list[memoryview]:
    """Take up to `count` bytes from the front."""
    taken: list[memoryview] = []
    while pieces and count:
        piece = pieces.popleft()
        if len(piece) > count:
            pieces.appendleft(piece[count:])
            piece = piece[:count]
        taken.append(piece)
        count -= len(piece)
    return taken


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
        return self._recall_whole(number, claim)

    def _recall_whole(self, number: int, claim: Note) -> int:
        """Hash a range that may be there, and what leads at the same time: it is read once."""
        offset, length = self.span(number)
        known = self._cut.known.get(number)
        leads = self._hashed == number - 1
        checksum, part, leading = new_checksum(), hashlib.sha256(), self._hasher.copy()
        for piece in self._pieces(offset, length):
            checksum.update(piece)
            if known:
                part.update(piece)
            if leads:
                leading.update(piece)
        if (part.digest() != known) if known else (checksum.digest() != claim.checksum):
            return 0
        if leads:
            self._hasher, self._hashed = leading, number
        self._journal.note(number, Note(length, checksum.digest()))
        self._there[number] = 1
        return length

    def _recall_begun(self, number: int, note: Note) -> int:
        begun = self.arriving(number)
        for piece in self._pieces(begun.offset, note.done):
            begun.checksum.update(piece)
        if begun.checksum.digest() != note.checksum:
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

    def continues(self, number: int) -> bool:
        """Whether a range may come in one request with the one before it: nothing of it is there."""
        return number not in self._begun

    def accept(self, arriving: Arriving) -> None:
        """Take a range that has arrived whole."""
        self._there[arriving.number] = 1

    def drop_wrong(self, stop: Stop = never) -> int:
        """Drop the ranges that are not what the server knows of them; return how many bytes. Blocks.

        For when the whole is not right. 0: they all are, as far as it is known, so all is to be dropped.
        """
        dropped = 0
        for number, known in self._cut.known.items():
            offset, length = self.span(number)
            if not stop() and self._sha256(offset, length) != known:
                self._journal.strike(number)
                self._there[number] = 0
                dropped += length
        self._hasher, self._hashed = hashlib.sha256(), 0
        return dropped

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
        """Hash the next range, and have the system write it to the disk meanwhile. Blocks."""
        offset, length = self.span(self._hashed + 1)
        start_writing(self._fd, offset, length)
        for piece in self._pieces(offset, length):
            self._hasher.update(piece)
        self._hashed += 1

    def digest(self) -> str:
        """Return the SHA-256 of the file (hex), once all is hashed."""
        return self._hasher.hexdigest()

    def _sha256(self, offset: int, length: int) -> bytes:
        hasher = hashlib.sha256()
        for piece in self._pieces(offset, length):
            hasher.update(piece)
        return hasher.digest()

    def _pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """Read what is there of a span; each piece is good until the next."""
        buffer, end = memoryview(bytearray(_READ)), offset + length
        while offset < end and (count := os.preadv(self._fd, [buffer[: end - offset]], offset)):
            yield buffer[:count]
            offset += count


def cut_of(size: int, noted_range_size: int | None) -> Cut:
    """Return how to cut a file of whose parts the server knows nothing: as the journal has it, if any."""
    return Cut(noted_range_size or max(RANGE_BYTES, -(-size // MAX_PARTS)))


def cut_in_parts(size: int, part_size: int, known: Mapping[int, bytes]) -> Cut | None:
    """Return how to cut a file as it was sent; None when that cannot be."""
    return Cut(part_size, known) if sensible(size, part_size) else None


def write_all(fd: int, piece: bytes | memoryview, offset: int) -> None:
    """Write a piece at its place. Blocks."""
    view = memoryview(piece)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]
