"""A proxy in front of S3 that does as a test says: refuses, loses answers, waits, or is too lenient.

It runs in the test's own loop and keeps whole bodies. The Host header stays as the client sent it,
because it is signed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server", "content-length"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to S3."""

    method: str
    path: str
    query: dict[str, str]
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def completes(self) -> bool:
        """Whether it joins the parts of a multipart upload."""
        return self.method == "POST" and "uploadId" in self.query


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of S3."""

    status: int
    body: bytes = b""
    headers: CIMultiDict[str] | None = None


Before = Callable[[Asked], Awaitable[Answered | None]]
After = Callable[[Asked, Answered], Awaitable[Answered | None]]
LOST = Answered(0)
"""No answer at all: the connection is cut."""


async def _pass_on(_asked: Asked) -> Answered | None:
    return None


async def _keep(_asked: Asked, answered: Answered) -> Answered | None:
    return answered


class S3Proxy:
    """The proxy; set `before` and `after` to interfere."""

    def __init__(self, target: str, session: aiohttp.ClientSession) -> None:
        self._target = target
        self._session = session
        self.before: Before = _pass_on
        """May answer in S3's stead."""
        self.after: After = _keep
        """May change S3's answer."""
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = Asked(request.method, request.path, dict(request.query), request.headers, body)
        answered = await self.before(asked)
        if answered is None:
            answered = await self.after(asked, await self._forward(request, body))
        if answered is None or answered is LOST:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=answered.status, body=answered.body or None, headers=answered.headers)

    async def _forward(self, request: web.Request, body: bytes) -> Answered:
        url = URL(self._target + request.raw_path, encoded=True)
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
        )
        async with self._session.request(
            request.method, url, headers=headers, data=BytesIO(body) if body else body, allow_redirects=False,
            skip_auto_headers=("Content-Type", "Accept", "Accept-Encoding", "User-Agent"),
        ) as answer:  # fmt: skip
            dropped = _HOP_BY_HOP - {"content-length"} if request.method == "HEAD" else _HOP_BY_HOP
            kept = CIMultiDict((n, v) for n, v in answer.headers.items() if n.lower() not in dropped)
            return Answered(answer.status, await answer.read(), kept)


@asynccontextmanager
async def s3_proxy(target: str) -> AsyncIterator[S3Proxy]:
    """Run a proxy in front of `target` while the context lasts."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        proxy = S3Proxy(target, session)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield proxy
        finally:
            await runner.cleanup()
