"""Hash and manifest of a content in one reading."""

from hashlib import sha256

from libs.contracts.chunks import Manifest, average_for
from libs.delta.chunker import Chunker, Piece


class ContentReader:
    """Takes a content of a known size in pieces; gives its SHA-256 and, of a large one, its manifest.

    Used like a hash of hashlib. It blocks for as long as it computes, with the interpreter let go.
    """

    def __init__(self, size: int) -> None:
        average = average_for(size)
        self._chunker = None if average is None else Chunker(average)
        self._sha256 = sha256()

    def update(self, piece: Piece) -> None:
        """Take the next bytes; the caller may use their buffer again."""
        self._sha256.update(piece)
        if self._chunker is not None:
            self._chunker.update(piece)

    def hexdigest(self) -> str:
        """Return the SHA-256 of what came so far."""
        return self._sha256.hexdigest()

    def manifest(self) -> Manifest | None:
        """Return the manifest of all that came; None for a small content, or another size than announced.

        Nothing may come after.
        """
        if self._chunker is None:
            return None
        manifest = self._chunker.finish()
        return manifest if average_for(manifest.size) == manifest.average else None
