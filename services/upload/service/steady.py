"""Long work on the event loop, with turns for others."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

_PIECES_AT_A_TIME: Final = 256
"""Between two turns of others: a recipe can be made of single bytes, and then nothing is waited for."""


async def with_pauses(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces, and let others have their turn now and then."""
    count = 0
    async for piece in pieces:
        yield piece
        count += 1
        if count % _PIECES_AT_A_TIME == 0:
            await asyncio.sleep(0)
