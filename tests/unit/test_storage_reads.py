"""Reads of S3 that do not end well. The S3 here is a socket that says what the test wants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from pydantic import SecretStr

from libs.contracts.binary import MalformedError
from libs.contracts.errors import NotFoundError, UnavailableError
from libs.runtime.settings import S3Settings
from libs.storage.s3 import S3ObjectStore, open_store

_ERROR: Final = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%b</Code><Message>No.</Message></Error>'


@asynccontextmanager
async def store_that_answers(answer: bytes) -> AsyncIterator[S3ObjectStore]:
    """A store whose S3 gives this answer to every request and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        secret = SecretStr("secret")
        settings = S3Settings(
            s3_endpoint=f"http://127.0.0.1:{port}", s3_access_key=secret, s3_secret_key=secret
        )
        async with open_store(settings) as store:
            yield store


def answered(status: bytes, body: bytes, length: int | None = None) -> bytes:
    announced = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, announced, body)


async def read(store: S3ObjectStore, *span: int) -> bytes:
    return b"".join([piece async for piece in store.read("t/namespace/key", *span)])


async def test_a_body_that_breaks_off_is_an_outage_and_never_a_short_object() -> None:
    async with store_that_answers(answered(b"200 OK", b"0123456789", 1000)) as store:
        with pytest.raises(UnavailableError):
            await read(store)


async def test_a_chunked_body_that_breaks_off_is_an_outage_too() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n"
    async with store_that_answers(answer) as store:
        with pytest.raises(UnavailableError):
            await read(store)


async def test_a_range_that_begins_beyond_the_end_gives_nothing() -> None:
    refused = answered(b"416 Range Not Satisfiable", _ERROR % b"InvalidRange")
    async with store_that_answers(refused) as store:
        assert await read(store, 2000, 10) == b""


async def test_the_whole_is_not_taken_for_a_range_of_it() -> None:
    async with store_that_answers(answered(b"200 OK", b"0123456789")) as store:
        with pytest.raises(MalformedError):
            await read(store, 2, 3)


async def test_an_object_that_is_not_there_is_said_to_be_missing() -> None:
    async with store_that_answers(answered(b"404 Not Found", _ERROR % b"NoSuchKey")) as store:
        with pytest.raises(NotFoundError):
            await read(store)
