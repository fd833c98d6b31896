"""A limit that makes a transfer take far longer than a stall may: it is slow, and nothing is silent."""

import asyncio
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from agent.settings import Settings
from agent.transfer.wire import Wire, body_of, s3_session
from libs.contracts.api import SignedRequest
from tests.support.agent_api import AT
from tests.support.scripted import ScriptedServer, says, scripted

MIB = 1024 * 1024
CONTENT = os.urandom(MIB + MIB // 2)
SIDE_BY_SIDE = 4
SLOW = Settings(stall_seconds=0.25, limit_up=2.0 * MIB, limit_down=2.0 * MIB)
"""At this limit four connections get a piece every half a second each: a stall may take half of that."""


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with s3_session(SLOW) as opened:
        yield opened


@pytest.mark.parametrize("last", [None, len(CONTENT) - 1])
async def test_a_slow_read_is_no_stall(
    server: ScriptedServer, session: aiohttp.ClientSession, last: int | None
) -> None:
    async def whole(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT)

    server.on("GET", "/s3/o", *[whole] * SIDE_BY_SIDE)
    wire = Wire(session, SLOW)

    async def read() -> bytes:
        arrived = bytearray()
        async with wire.get(server.url + "/s3/o", 0, last) as reading:
            while piece := await reading.piece():
                arrived += piece
        return bytes(arrived)

    assert await asyncio.gather(*(read() for _ in range(SIDE_BY_SIDE))) == [CONTENT] * SIDE_BY_SIDE
    assert len(server.seen) == SIDE_BY_SIDE


async def test_a_slow_body_is_no_stall(server: ScriptedServer, session: aiohttp.ClientSession) -> None:
    server.on("PUT", "/s3/o", *[says({})] * SIDE_BY_SIDE)
    headers = {"Content-Length": str(len(CONTENT))}
    signed = SignedRequest.model_validate(
        {"method": "PUT", "url": server.url + "/s3/o", "headers": headers, "expires_at": AT}
    )
    wire = Wire(session, SLOW)
    await asyncio.gather(*(wire.put(signed, body_of(CONTENT)) for _ in range(SIDE_BY_SIDE)))
    assert [seen.body for seen in server.seen] == [CONTENT] * SIDE_BY_SIDE
