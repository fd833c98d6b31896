"""Recipes: how one content is made of ranges of another and of bytes that are new.

A recipe says nothing of where the bytes are. For an upload the new ones are in a delta object; for
a download they are read from the new version itself, at their own offsets (`placed`).
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from libs.contracts.binary import LARGEST, MalformedError, get_varint, put_varint, unzigzag, zigzag
from libs.contracts.chunks import Manifest

MAX_OPS: Final = 2**18
"""Steps of one recipe, some 30 MB while it is worked with. More are not worth it: in a file of 1 TiB
that is a change in every fourth megabyte."""
MAX_RECIPE_BYTES: Final = 16 + 2 * 9 * MAX_OPS
"""Of the binary form: two numbers a step."""
REQUEST_BYTES: Final = 16 * 1024
"""What a request costs, in bytes that could travel in its time: shorter gaps are fetched too."""

_MAGIC: Final = b"LSRC\x01"


@dataclass(frozen=True, slots=True)
class Copy:
    """A range of the base, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that the base does not have."""

    length: int


Op = Copy | Literal


class Placed(NamedTuple):
    """A step, and the offset in the target at which what it gives begins."""

    at: int
    op: Op


class Range(NamedTuple):
    """A range of bytes."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Recipe:
    """The steps that, one after the other, give the target. One from outside is not trusted: `check`."""

    ops: tuple[Op, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of the target."""
        return sum(op.length for op in self.ops)

    @property
    def literal_bytes(self) -> int:
        """The bytes that have to travel."""
        return sum(op.length for op in self.ops if isinstance(op, Literal))

    @property
    def copied_bytes(self) -> int:
        """The bytes that the base has."""
        return sum(op.length for op in self.ops if isinstance(op, Copy))

    def placed(self) -> Iterator[Placed]:
        """Return each step with its place in the target."""
        at = 0
        for op in self.ops:
            yield Placed(at, op)
            at += op.length

    def literal_ranges(self) -> Iterator[Range]:
        """Return the ranges of the target that the base does not have."""
        return (Range(at, op.length) for at, op in self.placed() if isinstance(op, Literal))

    def base_ranges(self) -> Iterator[Range]:
        """Return the ranges of the base in the order in which the target wants them."""
        return (Range(op.offset, op.length) for op in self.ops if isinstance(op, Copy))


class RecipeTooLongError(ValueError):
    """Two contents differ in so many places that the whole is better sent."""


def check(recipe: Recipe, base_size: int, target_size: int, *, max_ops: int = MAX_OPS) -> None:
    """Raise `MalformedError` unless a recipe can be carried out and gives exactly the target's size.

    Ranges of the base may repeat and overlap: contents do. In the target nothing can overlap.
    """
    if len(recipe.ops) > max_ops:
        raise MalformedError("The recipe has too many steps")
    total = 0
    for op in recipe.ops:
        if not 0 < op.length <= target_size - total:
            raise MalformedError("A step is empty or leads beyond the target")
        if isinstance(op, Copy) and not 0 <= op.offset <= base_size - op.length:
            raise MalformedError("A step copies what the base does not have")
        total += op.length
    if total != target_size:
        raise MalformedError("The steps do not make the target")


# Making one -----------------------------------------------------------------------------------


def recipe_of(base: Manifest, target: Manifest, *, max_ops: int = MAX_OPS) -> Recipe:
    """Return how `target` is made of `base`. Raises `RecipeTooLongError`.

    Time grows with the chunks of both, memory by 8 to 16 bytes a chunk of the base. Where a content
    occurs several times in the base, the one is taken that continues the run before.
    """
    index = _Index(base)
    ops = _Joined(max_ops)
    following = 0
    for number, length in enumerate(target.lengths):
        digest = target.digest(number)
        found = following if index.is_at(following, length, digest) else index.find(length, digest)
        if found is None:
            ops.literal(length)
        else:
            ops.copy(index.offsets[found], length)
            following = found + 1
    return ops.recipe()


def chained(outer: Recipe, inner: Recipe, *, max_ops: int = MAX_OPS) -> Recipe:
    """Return how a target is made of what `inner` makes the base of `outer` of.

    Where `inner` has no bytes for what `outer` copies, they are new to the result. `outer` copies
    nothing beyond what `inner` makes: see `check`. Raises `RecipeTooLongError`.
    """
    begins = array("Q", (at for at, _ in inner.placed()))
    ops = _Joined(max_ops)
    for op in outer.ops:
        if isinstance(op, Literal):
            ops.literal(op.length)
            continue
        at, end = op.offset, op.offset + op.length
        number = bisect_right(begins, at) - 1
        while at < end:
            step, skipped = inner.ops[number], at - begins[number]
            length = min(step.length - skipped, end - at)
            if isinstance(step, Copy):
                ops.copy(step.offset + skipped, length)
            else:
                ops.literal(length)
            at += length
            number += 1
    return ops.recipe()


class _Index:
    """Finds chunks of a manifest: a hash table in one array, for a dictionary is ten times as large.

    It uses Python's hash of bytes, which nobody outside can foresee: no content makes it slow.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.offsets = array("Q", bytes(8 * len(manifest)))
        slots = 1 << (2 * len(manifest) + 1).bit_length()
        self._mask = slots - 1
        self._slots = array("I", bytes(4 * slots))
        offset = 0
        for number, length in enumerate(manifest.lengths):
            self.offsets[number] = offset
            offset += length
            self._add(number, length, manifest.digest(number))

    def is_at(self, number: int, length: int, digest: bytes) -> bool:
        """Whether the chunk of this number is this one."""
        manifest = self._manifest
        return (
            number < len(manifest.lengths)
            and manifest.lengths[number] == length
            and manifest.digest(number) == digest
        )

    def find(self, length: int, digest: bytes) -> int | None:
        """Return the number of the first chunk that is this one."""
        found = self._slots[self._slot(length, digest)]
        return found - 1 if found else None

    def _add(self, number: int, length: int, digest: bytes) -> None:
        slot = self._slot(length, digest)
        if not self._slots[slot]:
            self._slots[slot] = number + 1

    def _slot(self, length: int, digest: bytes) -> int:
        """Return the slot that has this chunk, or the free one where it belongs."""
        slot = hash(digest) & self._mask
        while (taken := self._slots[slot]) and not self.is_at(taken - 1, length, digest):
            slot = slot + 1 & self._mask
        return slot


class _Joined:
    """Collects steps, those that continue each other joined."""

    def __init__(self, max_ops: int) -> None:
        self._max_ops = max_ops
        self._ops: list[Op] = []

    def copy(self, offset: int, length: int) -> None:
        last = self._ops[-1] if self._ops else None
        if isinstance(last, Copy) and last.offset + last.length == offset:
            self._ops[-1] = Copy(last.offset, last.length + length)
        else:
            self._append(Copy(offset, length))

    def literal(self, length: int) -> None:
        last = self._ops[-1] if self._ops else None
        if isinstance(last, Literal):
            self._ops[-1] = Literal(last.length + length)
        else:
            self._append(Literal(length))

    def _append(self, op: Op) -> None:
        if len(self._ops) >= self._max_ops:
            raise RecipeTooLongError(f"More than {self._max_ops} steps")
        self._ops.append(op)

    def recipe(self) -> Recipe:
        return Recipe(tuple(self._ops))


def coalesce(ranges: Iterable[Range], gap: int = REQUEST_BYTES) -> Iterator[Range]:
    """Join ascending ranges that less than `gap` bytes lie between: fewer requests, a few bytes more."""
    current: Range | None = None
    for item in ranges:
        if current is not None and item.offset - current.end < gap:
            current = Range(current.offset, max(current.end, item.end) - current.offset)
            continue
        if current is not None:
            yield current
        current = item
    if current is not None:
        yield current


# Its binary form --------------------------------------------------------------------------------


def encode(recipe: Recipe) -> bytes:
    """Return the binary form: for each step its length and kind, for a copy the way to its offset.

    That way is counted from the end of the copy before, so edits in place give small numbers.
    """
    out = bytearray(_MAGIC)
    put_varint(out, len(recipe.ops))
    expected = 0
    for op in recipe.ops:
        is_copy = isinstance(op, Copy)
        put_varint(out, op.length << 1 | is_copy)
        if isinstance(op, Copy):
            put_varint(out, zigzag(op.offset - expected))
            expected = op.offset + op.length
    return bytes(out)


def decode(data: bytes, *, max_ops: int = MAX_OPS) -> Recipe:
    """Read what `encode` wrote. Raises `MalformedError`, nothing else; `check` remains to be asked."""
    if not data.startswith(_MAGIC):
        raise MalformedError("This is no recipe")
    count, at = get_varint(data, len(_MAGIC))
    if count > max_ops or count > len(data):
        raise MalformedError("The recipe has too many steps")
    ops: list[Op] = []
    expected = 0
    for _ in range(count):
        value, at = get_varint(data, at)
        length = value >> 1
        if not value & 1:
            ops.append(Literal(length))
            continue
        way, at = get_varint(data, at)
        offset = expected + unzigzag(way)
        if not 0 <= offset <= LARGEST - length:
            raise MalformedError("A step copies from where nothing is")
        ops.append(Copy(offset, length))
        expected = offset + length
    if at != len(data):
        raise MalformedError("Something follows the recipe")
    return Recipe(tuple(ops))
