"""A version put together from another one that is on the disk, and the ranges that it lacks."""

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.disk.native import start_writing
from agent.errors import LocalError
from agent.transfer.blocking import Stop, never
from agent.transfer.journal import Journal
from agent.transfer.ranges import RANGE_BYTES, Arriving, write_all
from libs.contracts import recipe as recipes
from libs.contracts.api import Download, DownloadDelta
from libs.contracts.binary import MalformedError
from libs.contracts.limits import MIB
from libs.contracts.recipe import Copy, Range, Recipe, coalesce

_BLOCK: Final = MIB
_WRITING: Final = 32 * MIB
"""So many bytes are copied until the system is told to begin writing them to the disk."""


def recipe_of(delta: DownloadDelta, base_size: int) -> Recipe:
    """Return the recipe in the server's answer. Raises `MalformedError`."""
    try:
        recipe = recipes.decode(base64.b64decode(delta.recipe, validate=True))
    except binascii.Error as error:
        raise MalformedError("The recipe is not what it should be") from error
    recipes.check(recipe, base_size, delta.size)
    return recipe


def copy_ranges(recipe: Recipe, base_fd: int, fd: int, stop: Stop = never) -> None:
    """Write the ranges that the base has to their places. Raises `LocalError` "unreadable". Blocks.

    A base that became shorter leaves gaps, and so does `stop`: the hash of the whole will tell.
    """
    for at, op in recipe.placed():
        if isinstance(op, Copy):
            _copy((base_fd, op.offset), (fd, at), op.length, stop)


def _copy(source: tuple[int, int], target: tuple[int, int], length: int, stop: Stop) -> None:
    (base_fd, offset), (fd, at) = source, target
    done = written = 0
    while done < length and not stop():
        block = _read(base_fd, min(_BLOCK, length - done), offset + done)
        if not block:
            break
        write_all(fd, block, at + done)
        done += len(block)
        if done - written >= _WRITING:
            start_writing(fd, at + written, done - written)
            written = done


def _read(base_fd: int, length: int, offset: int) -> bytes:
    """Tell a base that cannot be read from a file that cannot be written: the whole can still be fetched."""
    try:
        return os.pread(base_fd, length, offset)
    except OSError as error:
        raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error


@dataclass(slots=True)
class Spots:
    """The ranges of a version that another lacks, to be fetched like those of a partial download.

    Nothing is noted of them: they are few. Whether the whole is right is for its reader to say.
    """

    fd: int
    item: Download
    ranges: list[Range]

    @staticmethod
    def of(fd: int, item: Download, recipe: Recipe) -> "Spots":
        """Return what a recipe leaves to be fetched."""
        joined = coalesce(recipe.literal_ranges())
        return Spots(fd, item, [piece for part in joined for piece in _pieces(part)])

    hashed: bool = True
    """Nobody hashes while they arrive: what lies between them is there already."""
    leads: bool = False

    @property
    def size(self) -> int:
        """Return how many bytes are fetched: some that the base has too lie between two ranges."""
        return sum(part.length for part in self.ranges)

    def hash_next(self) -> None:
        """There is nothing to be hashed."""

    def missing(self) -> Iterator[int]:
        """Walk the numbers of the ranges, from 1."""
        return iter(range(1, len(self.ranges) + 1))

    def arriving(self, number: int) -> Arriving:
        """Return a range to be filled."""
        part = self.ranges[number - 1]
        return Arriving(self.fd, Journal(None, self.item), number, part.offset, part.length)

    def continues(self, number: int) -> bool:
        """Whether a range begins where the one before it ends."""
        return self.ranges[number - 2].end == self.ranges[number - 1].offset

    def accept(self, _arriving: Arriving) -> None:
        """Take a range that has arrived whole."""

    def digest(self) -> str:
        """Of the whole nothing is known."""
        return ""


def _pieces(part: Range) -> Iterator[Range]:
    for offset in range(part.offset, part.end, RANGE_BYTES):
        yield Range(offset, min(RANGE_BYTES, part.end - offset))
