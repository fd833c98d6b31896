"""Cutting a stream into content-defined chunks: FastCDC-2020 by pyfastcdc, digests by BLAKE3."""

import warnings
from array import array
from functools import cache
from typing import Final

from blake3 import blake3
from pyfastcdc import FastCDC

from libs.contracts.chunks import DIGEST_BYTES, Manifest, longest, shortest
from libs.contracts.limits import MIB

IS_COMPILED: Final = ".py." not in f".{FastCDC.__module__}."
"""Whether pyfastcdc's extension was found. Without it the cuts are the same at a hundredth of the
speed: nobody should wait for that who was not told."""

Piece = bytes | bytearray | memoryview


class Chunker:
    """Makes the manifest of a stream. Blocks for as long as it computes; for one thread at a time.

    The cuts do not depend on how the stream comes in pieces. At most some `MIB` and two of the
    longest chunks are held.
    """

    def __init__(self, average: int) -> None:
        _warn_when_slow()
        self.average = average
        self._longest = longest(average)
        self._cdc = FastCDC(average, min_size=shortest(average), max_size=self._longest)
        self._enough = MIB + self._longest
        self._waiting = bytearray()
        self._lengths = array("I")
        self._digests = bytearray()
        self._size = 0

    def update(self, piece: Piece) -> None:
        """Take the next bytes; the caller may use their buffer again."""
        view = memoryview(piece)
        for at in range(0, len(view), MIB):
            self._waiting += view[at : at + MIB]
            if len(self._waiting) >= self._enough:
                self._cut(self._longest)

    def finish(self) -> Manifest:
        """Return the manifest of all that came. Nothing may come after."""
        self._cut(0)
        return Manifest(self.average, self._size, self._lengths, bytes(self._digests))

    def _cut(self, ahead: int) -> None:
        """Cut what waits, as far as `ahead` bytes follow: where a chunk ends depends on no more."""
        view = memoryview(self._waiting)
        last_start = len(view) - ahead
        done = 0
        for chunk in self._cdc.cut_buf(view):
            if done > last_start:
                break
            length = chunk.length
            self._lengths.append(length)
            self._digests += blake3(view[done : done + length]).digest(DIGEST_BYTES)
            done += length
        self._size += done
        self._waiting = bytearray(view[done:])


@cache
def _warn_when_slow() -> None:
    if not IS_COMPILED:
        warnings.warn("pyfastcdc runs without its extension: very slow", RuntimeWarning, stacklevel=3)
