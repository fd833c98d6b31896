"""Carrying a recipe out: the target from ranges of the base and from literals, as a stream."""

from collections.abc import AsyncIterator, Callable

from libs.contracts.binary import MalformedError
from libs.contracts.recipe import Copy, Range, Recipe


async def rebuilt(
    recipe: Recipe, copied: Callable[[Range], AsyncIterator[bytes]], literals: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Yield the target of a checked recipe: ranges of the base by `copied`, the rest from `literals`.

    Raises `MalformedError` when either gives another number of bytes than the recipe says. The
    literals are run to their end, so that what is wrong with the object's end is found.
    """
    source = _Exact(literals)
    for op in recipe.ops:
        if isinstance(op, Copy):
            base = _Exact(copied(Range(op.offset, op.length)))
            async for piece in base.take(op.length):
                yield piece
            await base.end()
        else:
            async for piece in source.take(op.length):
                yield piece
    await source.end()


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
