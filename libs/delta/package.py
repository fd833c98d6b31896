"""The delta object: one S3 object with a recipe and, in its order, the bytes that the base lacks.

    magic, version            5 bytes
    length of the next frame  4 bytes, little-endian
    the recipe                one Zstandard frame
    the literals              one Zstandard frame

What is read comes from a client. Every length is checked before anything of it is made: a frame
that grows beyond what was announced, a window that asks for much memory, bytes that are missing or
left over are all a `MalformedError`. Whether the result is right is for its SHA-256 to say.
"""

import struct
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from libs.contracts.binary import MalformedError
from libs.contracts.recipe import MAX_OPS, MAX_RECIPE_BYTES, Range, Recipe, decode, encode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_HEADER: Final = struct.Struct("<4sBI")
_MAGIC: Final = b"LSDL"
_VERSION: Final = 1
_MAX_FRAME: Final = MAX_RECIPE_BYTES + MAX_RECIPE_BYTES // 128 + 1024
"""Of a recipe: Zstandard makes nothing longer than that, even when it finds nothing to save."""
_WINDOW_LOG: Final = 21
_COMPRESSION: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.window_log: _WINDOW_LOG,
}
_DECOMPRESSION: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
_BLOCK: Final = 256 * 1024
"""Of what is read or given out at a time."""

Read = Callable[[int, int], bytes]
"""Returns bytes of the target at an offset: as many as asked for, or fewer, none at its end."""


class Out(Protocol):
    """What a delta object is written to: an open file."""

    def write(self, data: bytes, /) -> object:
        """Take all the bytes."""


class ShortReadError(Exception):
    """The target is shorter than its recipe says: it changed."""


@dataclass(frozen=True, slots=True)
class Written:
    """A delta object that was written: what an upload of it has to announce."""

    size: int
    sha256: str


def largest(size: int) -> int:
    """Return how many bytes a delta object for a content of `size` bytes can have; more hold no delta."""
    return _HEADER.size + _MAX_FRAME + size + size // 128 + 1024


# Writing --------------------------------------------------------------------------------------


def write(recipe: Recipe, read: Read, out: Out) -> Written:
    """Write the delta object of a recipe, the literals read from the target. Blocks; memory is bounded.

    Raises `ShortReadError`, and what `read` and `out` raise.
    """
    target = _Hashing(out)
    frame = zstd.compress(encode(recipe), options=_COMPRESSION)
    target.write(_HEADER.pack(_MAGIC, _VERSION, len(frame)))
    target.write(frame)
    compressor = zstd.ZstdCompressor(options=_COMPRESSION)
    for part in recipe.literal_ranges():
        for piece in _pieces(part, read):
            target.write(compressor.compress(piece))
    target.write(compressor.flush())
    return Written(target.size, target.sha256.hexdigest())


def _pieces(part: Range, read: Read) -> Iterator[bytes]:
    at = part.offset
    while at < part.end:
        piece = read(at, min(_BLOCK, part.end - at))
        if not piece:
            raise ShortReadError(f"Nothing at offset {at}")
        yield piece
        at += len(piece)


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self.size = 0
        self.sha256 = sha256()

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self.sha256.update(data)
        self.size += len(data)


# Reading --------------------------------------------------------------------------------------


class Reader:
    """Takes a delta object in pieces of any size and gives first the recipe, then the literals."""

    def __init__(self, *, max_ops: int = MAX_OPS) -> None:
        self._max_ops = max_ops
        self._head = bytearray()
        """What came before the recipe is whole."""
        self._literals = zstd.ZstdDecompressor(options=_DECOMPRESSION)
        self._missing = 0
        self.recipe: Recipe | None = None
        """There as soon as its last byte has come; it is for the caller to `check` it."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take the next bytes and yield the literals that they hold, at most 256 KiB at a time.

        The iterator must be run to its end before more is fed. Raises `MalformedError`.
        """
        if self.recipe is None:
            self._head += piece
            rest = self._read_recipe()
            if rest is None:
                return
            piece = rest
        yield from self._decompressed(piece)

    def finish(self) -> None:
        """Say that nothing follows. Raises `MalformedError` when the object is not complete."""
        if self.recipe is None or self._missing or not self._literals.eof:
            raise MalformedError("The delta is cut off")

    def _read_recipe(self) -> bytes | None:
        """Read the recipe once it is whole; return what follows it."""
        if len(self._head) < _HEADER.size:
            return None
        magic, version, length = _HEADER.unpack_from(self._head)
        if (magic, version) != (_MAGIC, _VERSION) or length > _MAX_FRAME:
            raise MalformedError("This is no delta")
        end = _HEADER.size + length
        if len(self._head) < end:
            return None
        self.recipe = decode(_unpacked(bytes(self._head[_HEADER.size : end])), max_ops=self._max_ops)
        self._missing = self.recipe.literal_bytes
        rest = bytes(self._head[end:])
        self._head.clear()
        return rest

    def _decompressed(self, piece: bytes) -> Iterator[bytes]:
        frame = self._literals
        if frame.eof and piece:
            raise MalformedError("Something follows the delta")
        while not frame.eof and (piece or not frame.needs_input):
            with _malformed():
                literals = frame.decompress(piece, _BLOCK)
            piece = b""
            if len(literals) > self._missing:
                raise MalformedError("The delta holds more than its recipe takes")
            self._missing -= len(literals)
            if literals:
                yield literals
        if frame.eof and frame.unused_data:
            raise MalformedError("Something follows the delta")


def _unpacked(frame: bytes) -> bytes:
    """Return what a recipe's frame holds, never making more of it than a recipe may be long."""
    decompressor = zstd.ZstdDecompressor(options=_DECOMPRESSION)
    with _malformed():
        data = decompressor.decompress(frame, MAX_RECIPE_BYTES)
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedError("The recipe is cut off, too long, or followed by something")
    return data


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except zstd.ZstdError as error:
        raise MalformedError(f"This is not compressed as it should be: {error}") from error


InThread = Callable[..., Awaitable[bytes | None]]
"""Calls a function with arguments, perhaps in a thread, and returns what it returns."""


async def _here(call: Callable[..., bytes | None], *arguments: object) -> bytes | None:
    return call(*arguments)


class Delta:
    """A delta object that arrives over an asynchronous stream.

    Reading the longest recipe takes half a second: by `in_thread` others go on meanwhile.
    """

    def __init__(
        self, pieces: AsyncIterable[bytes], *, max_ops: int = MAX_OPS, in_thread: InThread = _here
    ) -> None:
        self._pieces = aiter(pieces)
        self._reader = Reader(max_ops=max_ops)
        self._in_thread = in_thread
        self._early: Iterator[bytes] = iter(())

    async def recipe(self) -> Recipe:
        """Read as far as the recipe and return it. Raises `MalformedError`."""
        while self._reader.recipe is None:
            piece = await anext(self._pieces, None)
            if piece is None:
                raise MalformedError("The delta is cut off")
            self._early = self._reader.feed(piece)
            first = await self._in_thread(next, self._early, None)
            if first is not None:
                self._early = _chained(first, self._early)
        return self._reader.recipe

    async def literals(self) -> AsyncIterator[bytes]:
        """Yield the literals, after `recipe`, to their end. Raises `MalformedError`."""
        for literal in self._early:
            yield literal
        async for piece in self._pieces:
            for literal in self._reader.feed(piece):
                yield literal
        self._reader.finish()


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
