"""Handing requests on to the services behind: a request in, an answer out, nothing interpreted."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from libs.contracts.errors import UnavailableError
from services.gateway.settings import Settings

_REQUEST_HEADERS: Final = ("Authorization", "Content-Type", "Accept", "Last-Event-ID")
_REPLY_HEADERS: Final = (
    "Content-Type", "Location", "Retry-After", "Cache-Control", "Content-Disposition", "ETag",
    "WWW-Authenticate", "Allow", "X-Accel-Buffering",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it goes on: `target` is path and query as they came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it goes back."""

    status: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def open_forwarder(settings: Settings) -> AsyncIterator["Forwarder"]:
    """Open the forwarder for the lifetime of the context."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield Forwarder(session, settings)


class Forwarder:
    """Knows where each service is."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._bases: dict[str, str] = {
            "upload": settings.upload_url.rstrip("/"),
            "download": settings.download_url.rstrip("/"),
            "metadata": settings.metadata_url.rstrip("/"),
            "notification": settings.notification_url.rstrip("/"),
        }

    async def send(self, service: str, request: Outgoing) -> Answer:
        """Return the service's answer, redirects included. Raises `UnavailableError`."""
        timeout = self._timeout(total=self._settings.forward_timeout)
        async with self._asked(service, request, timeout) as reply:
            try:
                body = await reply.read()
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise _away(service) from error
        return Answer(reply.status, _kept(reply), body)

    @asynccontextmanager
    async def stream(self, service: str, request: Outgoing) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for a stream, which lasts as long as both sides want. Raises `UnavailableError`."""
        async with self._asked(service, request, self._timeout(total=None)) as reply:
            yield reply

    @asynccontextmanager
    async def _asked(
        self, service: str, request: Outgoing, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(self._bases[service] + request.target, encoded=True)
        try:
            reply = await self._session.request(
                request.method,
                url,
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
                timeout=timeout,
            )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _away(service) from error
        async with reply:
            yield reply

    def _timeout(self, *, total: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=total, sock_connect=self._settings.forward_connect_timeout)


def kept_request_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that go on with a request."""
    return {name: headers[name] for name in _REQUEST_HEADERS if name in headers}


def _kept(reply: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: reply.headers[name] for name in _REPLY_HEADERS if name in reply.headers}


def stream_headers(reply: aiohttp.ClientResponse) -> dict[str, str]:
    """Return the headers that go back before a stream."""
    return _kept(reply)


def _away(service: str) -> UnavailableError:
    return UnavailableError(f"The {service} service does not answer", retry_after=2)
