"""Long streams of the upload service."""

import asyncio
from collections.abc import AsyncGenerator

from services.upload.service.steady import with_pauses


async def _pieces(count: int) -> AsyncGenerator[bytes, None]:
    for _ in range(count):
        yield b"x"


async def test_others_have_their_turn_while_pieces_come_without_any_waiting() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    given = b"".join([piece async for piece in with_pauses(_pieces(4096))])
    task.cancel()
    assert len(given) == 4096
    assert turns >= 16
