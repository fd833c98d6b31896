"""One request to S3 by a presigned URL, and what its answer means."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from agent.credentials import is_loopback
from agent.errors import LocalError
from agent.remote.problems import connection_error
from agent.settings import Settings
from agent.transfer.pace import Pace
from agent.transfer.retry import DamagedError, TransientError, UrlRefusedError
from agent.transfer.tally import Tally
from libs.contracts.api import SignedRequest
from libs.contracts.limits import MIB

PIECE: Final = 256 * 1024
"""Bytes held at once while a body is sent. Also the most that a connection brings at once: asyncio and uvloop
read no more from a socket."""
_READ_AHEAD: Final = 256 * 1024
"""Twice as many bytes may wait in memory for each connection; then it is not read on. What waits longer has
left the processor's cache when it is written, which makes that several times slower."""
_CODE: Final = re.compile(rb"<Code>(\w{1,64})</Code>")
_DAMAGED: Final = frozenset(
    {b"BadDigest", b"XAmzContentChecksumMismatch", b"InvalidDigest", b"IncompleteBody"}
)
_BUSY: Final = frozenset({b"RequestTimeout", b"SlowDown", b"OperationAborted"})
_ERROR_BYTES: Final = 64 * 1024


class Body(aiohttp.Payload):
    """A body of known size, read piece by piece each time it is sent.

    An error of the reader is kept in `failure`: aiohttp shows it only as a broken connection.
    """

    def __init__(self, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> None:
        super().__init__(pieces)
        self._size = size
        self._pieces = pieces
        self._pace = Pace(None)
        self._tally: Tally | None = None
        self._in_flight = 0
        self.failure: Exception | None = None

    @contextmanager
    def sending(self, pace: Pace, tally: Tally) -> Iterator[None]:
        """Send no faster than `pace`, and have `tally` know what is under way, while the body runs."""
        self._pace, self._tally = pace, tally
        try:
            yield
        finally:
            self._landed()
            self._tally = None

    def _landed(self) -> None:
        """What was sent has arrived, or came to nothing."""
        if self._tally is not None:
            self._tally.flying(-self._in_flight)
        self._in_flight = 0

    @override
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """A body is never text."""
        raise TypeError

    @override
    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body, from its start each time."""
        self._landed()
        try:
            async for piece in self._pieces():
                await self._write_piece(writer, piece)
        except (LocalError, OSError) as error:
            if not isinstance(error, (ConnectionError, TimeoutError)):
                self.failure = error
            raise

    async def _write_piece(self, writer: AbstractStreamWriter, piece: bytes) -> None:
        """Send a piece no faster than the pace; in smaller ones where the limit is low."""
        step = self._pace.piece
        for start in range(0, len(piece), step):
            part = piece if len(piece) <= step else piece[start : start + step]
            await self._pace.take(len(part))
            await writer.write(part)
            if self._tally is not None:
                self._in_flight += len(part)
                self._tally.flying(len(part))


def body_of(content: bytes) -> Body:
    """Return a body of bytes in memory."""

    async def pieces() -> AsyncIterator[bytes]:
        view = memoryview(content)
        for start in range(0, len(content), PIECE):
            yield view[start : start + PIECE]  # type: ignore[misc]  # a writer takes any buffer

    return Body(len(content), pieces)


class Wire:
    """Requests to S3. Nothing of the account goes along: the URL is all the proof."""

    def __init__(
        self, session: aiohttp.ClientSession, settings: Settings, tally: Tally | None = None
    ) -> None:
        self._session = session
        self._tally = tally or Tally()
        self.up = Pace(settings.limit_up or None)
        self.down = Pace(settings.limit_down or None)
        """What a reader of `get` takes from after each piece: the sender then slows down too."""
        self._stall_seconds = settings.stall_seconds
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout, sock_read=settings.stall_seconds
        )

    async def put(self, signed: SignedRequest, body: Body) -> None:
        """Send a body with exactly the signed headers.

        Raises `TransientError`, `UrlRefusedError`, `DamagedError`, `LocalError`, or what the
        body's reader raised.
        """
        try:
            with body.sending(self.up, self._tally):
                async with self._session.request(
                    signed.method, checked_url(signed.url), data=body, headers=signed.headers,
                    skip_auto_headers=("Content-Type",), allow_redirects=False, timeout=self._timeout,
                ) as response:  # fmt: skip
                    content = await response.content.read(_ERROR_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise body.failure or _broken(error) from error
        if response.status != HTTPStatus.OK:
            raise refusal_of(response.status, content, response.headers)

    @asynccontextmanager
    async def get(self, url: str, first: int = 0, last: int | None = None) -> AsyncIterator["Reading"]:
        """Open a read from byte `first` on, or to byte `last`; status 200 or 206. Raises as `put`.

        Whether the answer is what was asked for is for the caller to check.
        """
        options: dict[str, Any] = {}
        if self.down.rate is not None:
            options["read_bufsize"] = self.down.piece
        elif last is not None:
            options["read_bufsize"] = _READ_AHEAD
        if first or last is not None:
            options["headers"] = {"Range": f"bytes={first}-{'' if last is None else last}"}
        try:
            async with self._session.get(
                checked_url(url), allow_redirects=False, timeout=self._timeout, **options
            ) as response:
                if response.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                    content = await response.content.read(_ERROR_BYTES)
                    raise refusal_of(response.status, content, response.headers)
                _leave_untimed(response)
                yield Reading(response, self.down, self._stall_seconds)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _broken(error) from error


class Reading:
    """An answer whose body is read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse, pace: Pace, stall_seconds: float) -> None:
        self._response = response
        self._pace = pace
        self._stall_seconds = stall_seconds
        self.status = response.status
        self.length = response.content_length
        """Bytes of the body, if that is announced."""
        self.content_range = response.headers.get("Content-Range", "")

    async def piece(self) -> bytes:
        """Return what comes next, 256 KiB at most, no faster than the pace; nothing at the end.

        Raises `TransientError` when the body breaks off, or nothing comes for `stall_seconds`; the time
        for which the pace has it wait does not count.
        """
        try:
            async with asyncio.timeout(self._stall_seconds):
                piece = await self._next()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _broken(error) from error
        await self._pace.take(len(piece))
        return piece

    async def _next(self) -> bytes:
        content = self._response.content
        if self._pace.rate is not None:
            return await content.read(self._pace.piece)
        while True:  # as it was received: putting more together would copy it once more
            piece, _ = await content.readchunk()
            if piece or content.at_eof():  # else it is the end of a chunk of HTTP
                return piece


def _leave_untimed(response: aiohttp.ClientResponse) -> None:
    """Have aiohttp not time the body by itself.

    Its timer may run on when all of the body is here and only waits to be read, so that a limit would
    look like a stall.
    """
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = None


def refusal_of(status: int, content: bytes, headers: Mapping[str, str]) -> Exception:
    """Return what an answer of S3 that is no success means."""
    match = _CODE.search(content)
    code = match.group(1) if match else b""
    detail = f"{status} {code.decode()}".strip()
    if code in _DAMAGED:
        return DamagedError(detail)
    busy = status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS} or code in _BUSY
    if busy or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TransientError(detail, _seconds(headers.get("Retry-After")))
    return UrlRefusedError(detail)


def checked_url(url: str) -> str:
    """Return the URL or raise `LocalError` "insecure_server": bytes never travel in the clear."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return url
    raise LocalError("The store's address is plain http:// to another machine", code="insecure_server")


def _broken(error: Exception) -> Exception:
    known = connection_error(error)
    return known if isinstance(known, LocalError) else TransientError(known.detail)


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0


def s3_session(settings: Settings) -> aiohttp.ClientSession:
    """Return a session for S3, with a connection for every transfer that may run."""
    connector = aiohttp.TCPConnector(limit=2 * (settings.small_parallel + settings.part_parallel))
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, read_bufsize=MIB
    )
