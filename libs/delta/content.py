"""Hash and manifest of a content in one reading."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from typing import Final

from libs.contracts.chunks import Manifest, average_for
from libs.delta.chunker import Chunker, Piece

_BESIDE: Final = 256 * 1024
"""From how many bytes on another thread is worth its while."""


@cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="sha256")


class ContentReader:
    """Takes a content of a known size in pieces; gives its SHA-256 and, of a large one, its manifest.

    Used like a hash of hashlib. It blocks for as long as it computes, with the interpreter let go. Large
    pieces are hashed in a second thread while this one finds their chunks: half the time where a core
    is free, and no more work where none is. Without `chunks` it is the hash alone.
    """

    def __init__(self, size: int, *, chunks: bool = True) -> None:
        average = average_for(size) if chunks else None
        self._chunker = None if average is None else Chunker(average)
        self._sha256 = sha256()

    def update(self, piece: Piece) -> None:
        """Take the next bytes; the caller may use their buffer again."""
        if self._chunker is None:
            self._sha256.update(piece)
            return
        hashed = self._hashed_beside(piece) if memoryview(piece).nbytes >= _BESIDE else None
        try:
            self._chunker.update(piece)
        finally:
            if hashed is None:
                self._sha256.update(piece)
            else:
                hashed.result()

    def _hashed_beside(self, piece: Piece) -> Future[None] | None:
        """Begin to hash in another thread; None when this process is ending, and starts no more threads."""
        try:
            return _helpers().submit(self._sha256.update, piece)
        except RuntimeError:
            return None

    def hexdigest(self) -> str:
        """Return the SHA-256 of what came so far."""
        return self._sha256.hexdigest()

    def manifest(self) -> Manifest | None:
        """Return the manifest of all that came; None for a small content, another size, or without chunks.

        Nothing may come after.
        """
        if self._chunker is None:
            return None
        manifest = self._chunker.finish()
        return manifest if average_for(manifest.size) == manifest.average else None
