"""A large file of few real blocks whose content can be made again as a stream."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

MIB: Final = 1024 * 1024
BLOCK: Final = 4096
_REST: Final = bytes(MIB - BLOCK)


@dataclass(frozen=True, slots=True)
class Source:
    """Each MiB begins with a block of its own, by seed and offset; the rest is zeros.

    So no two parts are equal, and a file of 50 GiB takes 200 MiB of the disk where holes are kept.
    """

    seed: int
    size: int

    @property
    def real_bytes(self) -> int:
        """What the file takes of the disk."""
        return -(-self.size // MIB) * BLOCK

    def block(self, offset: int) -> bytes:
        """The bytes at an offset that is a whole number of MiB."""
        return Random(f"{self.seed}:{offset}").randbytes(BLOCK)[: self.size - offset]

    def write(self, path: Path) -> None:
        """Write the file, with holes."""
        with path.open("wb") as file:
            file.truncate(self.size)
            for offset in range(0, self.size, MIB):
                os.pwrite(file.fileno(), self.block(offset), offset)

    def stream(self) -> Iterator[bytes | memoryview]:
        """Yield the content, nothing of it twice in memory."""
        rest = memoryview(_REST)
        for offset in range(0, self.size, MIB):
            block = self.block(offset)
            yield block
            yield rest[: max(0, min(MIB, self.size - offset) - len(block))]

    def sha256(self) -> str:
        """Hash the content as it should be."""
        digest = hashlib.sha256()
        for piece in self.stream():
            digest.update(piece)
        return digest.hexdigest()
