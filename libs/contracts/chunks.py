"""Manifests: which chunks a content consists of. Each side makes its own; they do not travel.

Content-defined chunking cuts where the bytes say so, so that an insertion moves no cut but those
beside it. Who knows the chunks of two contents knows what they have in common without having
either (see `recipe`).
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from libs.contracts.binary import LARGEST, MalformedError
from libs.contracts.limits import GIB, MIB

SMALLEST_CHUNKED: Final = 256 * 1024
"""Smaller files travel whole: a delta of one would cost more requests than it saves bytes."""
DIGEST_BYTES: Final = 16
"""Of BLAKE3, whose output may be cut. Whatever is put together by digests is verified by the SHA-256
of the whole, so two chunks with one digest would cost a full transfer, never a wrong file."""

_CLASSES: Final = ((640 * MIB, 4 * 1024), (10 * GIB, 16 * 1024), (40 * GIB, 64 * 1024))
"""Sizes up to which an average is used. Files often have round sizes, and one that passes a border
travels whole once: so the borders lie a quarter above 512 MiB, 8 GiB and 32 GiB."""
_LARGEST_AVERAGE: Final = 256 * 1024
AVERAGES: Final = frozenset({average for _, average in _CLASSES} | {_LARGEST_AVERAGE})

_HEADER: Final = struct.Struct("<4sBIQI")
"""Magic, version, average, size, number of chunks."""
_MAGIC: Final = b"LSMF"
_VERSION: Final = 1
_BLOCK: Final = MIB


def average_for(size: int) -> int | None:
    """Return the chunk size aimed at for a file of `size` bytes; None when it has no manifest.

    Small files have small chunks, because an edit costs about two: rsync's blocks are the square root
    of the size, up to 128 KiB, and a database has thousands of edits. A manifest has at most some
    650,000 chunks in files up to 40 GiB. Contents of different averages have no chunks in common.
    """
    if size < SMALLEST_CHUNKED:
        return None
    return next((average for up_to, average in _CLASSES if size <= up_to), _LARGEST_AVERAGE)


def shortest(average: int) -> int:
    """Return the least length of a chunk that is not the last."""
    return average // 4


def longest(average: int) -> int:
    """Return the greatest length of a chunk."""
    return average * 4


class Chunk(NamedTuple):
    """A run of bytes: how long it is, and the beginning of its BLAKE3."""

    length: int
    digest: bytes


def _lengths() -> "array[int]":
    return array("I")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The chunks of one content, in order. Kept as two columns: 20 bytes a chunk, not 200.

    Who makes one answers for `size` being the sum of `lengths`; `decode` checks it.
    """

    average: int
    size: int
    lengths: "array[int]" = field(default_factory=_lengths)
    """Unsigned 32-bit integers."""
    digests: bytes = b""
    """`DIGEST_BYTES` a chunk."""

    @staticmethod
    def of(average: int, chunks: Iterable[Chunk]) -> "Manifest":
        """Return the manifest of these chunks."""
        lengths, digests = _lengths(), bytearray()
        for chunk in chunks:
            lengths.append(chunk.length)
            digests += chunk.digest
        return Manifest(average, sum(lengths), lengths, bytes(digests))

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Chunk]:
        return (Chunk(length, self.digest(index)) for index, length in enumerate(self.lengths))

    def digest(self, index: int) -> bytes:
        """Return a chunk's digest."""
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def encode(self) -> Iterator[bytes]:
        """Return the binary form in pieces: a header, all lengths, all digests, little-endian.

        Columns, because a machine reads and writes them at the speed of its memory.
        """
        yield _HEADER.pack(_MAGIC, _VERSION, self.average, self.size, len(self))
        for column in (_swapped(self.lengths).tobytes(), self.digests):
            for at in range(0, len(column), _BLOCK):
                yield column[at : at + _BLOCK]


def decode(pieces: Iterable[bytes]) -> Manifest:
    """Read what `encode` wrote, from pieces of any size. Raises `MalformedError`, nothing else.

    Not more is taken in than the header announces, which is checked first.
    """
    reader = _Pieces(pieces)
    magic, version, average, size, count = _HEADER.unpack(reader.take(_HEADER.size))
    if (magic, version) != (_MAGIC, _VERSION) or average not in AVERAGES or size >= LARGEST:
        raise MalformedError("This is no manifest")
    if not _is_plausible(count, average, size):
        raise MalformedError("The number of chunks does not fit the size")
    lengths = _lengths()
    lengths.frombytes(reader.take(count * lengths.itemsize))
    lengths = _swapped(lengths)
    digests = reader.take(count * DIGEST_BYTES)
    reader.end()
    manifest = Manifest(average, size, lengths, digests)
    _check_lengths(manifest)
    return manifest


def _is_plausible(count: int, average: int, size: int) -> bool:
    """Whether so many chunks, each but the last between shortest and longest, can make the size."""
    return count * longest(average) >= size and (count - 1) * shortest(average) < max(size, 1)


def _check_lengths(manifest: Manifest) -> None:
    lengths = manifest.lengths
    if sum(lengths) != manifest.size:
        raise MalformedError("The chunks do not make the size")
    if not lengths:
        return
    whole = lengths[:-1] or lengths
    at_least = shortest(manifest.average) if len(lengths) > 1 else 1
    if min(whole) < at_least or lengths[-1] < 1 or max(lengths) > longest(manifest.average):
        raise MalformedError("A chunk is shorter or longer than chunks are")


def _swapped(column: "array[int]") -> "array[int]":
    """Return a column between the machine's byte order and little-endian."""
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column


class _Pieces:
    """Takes exact lengths from pieces of any size."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; memory grows with what arrives, not with what is asked for."""
        taken = bytearray()
        while len(taken) < count:
            piece = self._rest or next(self._pieces, None)
            if piece is None:
                raise MalformedError("The manifest is cut off")
            missing = count - len(taken)
            taken += piece[:missing]
            self._rest = piece[missing:]
        return bytes(taken)

    def end(self) -> None:
        """Raise unless nothing is left."""
        if self._rest or any(self._pieces):
            raise MalformedError("Something follows the manifest")
