"""A real HTTP server on a free port whose answers a test scripts, to show a client at its edges."""

import asyncio
import json
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from libs.contracts.errors import CODES

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived as a whole."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ScriptedServer:
    """Answers of a path come in the order given; the last one is repeated."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    _answers: dict[tuple[str, str], list[Answer]] = field(default_factory=lambda: defaultdict(list))

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """Append answers of one method and path."""
        self._answers[method, path] += answers

    def calls(self, path: str, method: str | None = None) -> list[Seen]:
        """Requests of a path, in order."""
        return [seen for seen in self.seen if seen.path == path and method in {None, seen.method}]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            body = b""
        path = request.path
        self.seen.append(Seen(request.method, path, dict(request.query), request.headers.copy(), body))
        answers = self._answers[request.method, path]
        if not answers:
            return web.Response(status=500, text=f"unscripted: {request.method} {path}")
        answer = answers[0] if len(answers) == 1 else answers.pop(0)
        return await answer(request)


def says(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with JSON (a mapping or list), or with bytes as they are."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        if isinstance(body, bytes):
            return web.Response(body=body, status=status, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return answer


def problem(code: str, *, headers: Mapping[str, str] | None = None, **extra: Any) -> Answer:
    """Answer with the problem document of a code."""
    info = CODES[code]
    document = {
        "type": f"urn:{code}",
        "title": info.title,
        "status": info.status,
        "code": code,
        "detail": "so",
    }
    return says({**document, **extra}, info.status, headers)


async def resets(request: web.Request) -> web.StreamResponse:
    """Break the connection instead of answering."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def stalls(_request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    return web.Response()


def s3_error(status: int, code: str) -> Answer:
    """Answer as S3 refuses."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code></Error>'
    return says(body.encode(), status, {"Content-Type": "application/xml"})


@asynccontextmanager
async def scripted(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Run the server while the context lasts."""
    server = ScriptedServer()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield server
    finally:
        await runner.cleanup()
