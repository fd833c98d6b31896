"""Carrying a recipe out: the target from ranges of the base and from literals, as a stream."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Final

from libs.contracts.binary import MalformedError
from libs.contracts.limits import MIB
from libs.contracts.parts import part_count
from libs.contracts.recipe import Copy, Range, Recipe

WINDOW_GAP: Final = MIB
"""Between two ranges of the base that are read in one request: what a store gives while it takes
another request."""

Fetched = Callable[[Range], AsyncGenerator[bytes, None]]
"""Gives a range of the base, in pieces of any size; closed when no more of it is wanted."""


async def rebuilt(
    recipe: Recipe, fetched: Fetched, literals: AsyncIterator[bytes], *, gap: int = WINDOW_GAP
) -> AsyncGenerator[bytes, None]:
    """Yield the target of a checked recipe: ranges of the base by `fetched`, the rest from `literals`.

    Raises `MalformedError` when either gives another number of bytes than the recipe says. The
    literals are run to their end, so that what is wrong with the object's end is found.
    """
    base, source = _Base(recipe, fetched, gap), _Exact(literals)
    try:
        for op in recipe.ops:
            taken = base.take(op) if isinstance(op, Copy) else source.take(op.length)
            async for piece in taken:
                yield piece
        await base.end()
        await source.end()
    finally:
        await base.close()


def windows(recipe: Recipe, gap: int = WINDOW_GAP) -> Iterator[Range]:
    """Return what is read of the base, in order: copies that go on with less than `gap` bytes between.

    Edits here and there make many copies that lie one behind the other: they are a few requests.
    """
    current: Range | None = None
    for part in recipe.base_ranges():
        if current is not None and 0 <= part.offset - current.end < gap:
            current = Range(current.offset, part.end - current.offset)
            continue
        if current is not None:
            yield current
        current = part
    if current is not None:
        yield current


def copied_parts(recipe: Recipe, part_size: int) -> list[Range | None]:
    """Return for each part of the target, in order, the range of the base that it is; None: of no single one.

    All parts have `part_size` bytes, the last has what is left. Only what one step copies counts.
    """
    size = recipe.size
    found: list[Range | None] = [None] * part_count(size, part_size)
    for at, op in recipe.placed():
        end = at + op.length
        if isinstance(op, Copy):
            after = len(found) if end == size else end // part_size
            for index in range(-(-at // part_size), after):
                start = index * part_size
                found[index] = Range(op.offset + start - at, min(part_size, size - start))
    return found


class _Base:
    """Takes the copies of a recipe, in order, from its windows."""

    def __init__(self, recipe: Recipe, fetched: Fetched, gap: int) -> None:
        self._windows = windows(recipe, gap)
        self._fetched = fetched
        self._pieces: AsyncGenerator[bytes, None] | None = None
        self._window: _Exact | None = None
        self._at = 0
        self._end = 0

    async def take(self, copy: Copy) -> AsyncIterator[bytes]:
        window = self._window
        if window is None or self._at == self._end:
            window = await self._next()
        async for _ in window.take(copy.offset - self._at):
            pass
        async for piece in window.take(copy.length):
            yield piece
        self._at = copy.offset + copy.length

    async def _next(self) -> "_Exact":
        await self.end()
        part = next(self._windows)
        self._at, self._end = part.offset, part.end
        self._pieces = self._fetched(part)
        self._window = _Exact(self._pieces)
        return self._window

    async def end(self) -> None:
        if self._window is not None:
            await self._window.end()

    async def close(self) -> None:
        if self._pieces is not None:
            await self._pieces.aclose()


class _Exact:
    """Takes exact lengths from a stream of pieces."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    async def take(self, length: int) -> AsyncIterator[bytes]:
        while length:
            if not self._rest:
                self._rest = await self._next()
            taken, self._rest = self._rest[:length], self._rest[length:]
            length -= len(taken)
            if taken:
                yield taken

    async def _next(self) -> bytes:
        piece = await anext(self._pieces, None)
        if piece is None:
            raise MalformedError("There are fewer bytes than the recipe takes")
        return piece

    async def end(self) -> None:
        if self._rest or await anext(self._pieces, None) is not None:
            raise MalformedError("There are more bytes than the recipe takes")
