"""Calls of the public API as tests make them."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp
from aiohttp import web

from libs.contracts.api import Tokens
from services.gateway.app import build_app
from services.gateway.settings import Settings
from tests.support.waiting import eventually

PASSWORD = "correct horse battery"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> str:
        """The code of a problem document, which it must be."""
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.body["status"] == self.status
        return str(self.body["code"])


@dataclass
class Api:
    """A client of one gateway, with or without a token."""

    session: aiohttp.ClientSession
    url: str
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Make a call; a body that is bytes goes as it is."""
        data = (
            None if body is None else BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        )
        sent = {**self._headers(), "Content-Type": "application/json", **headers}
        request = self.session.request(
            method, self.url + path, data=data, headers=sent, allow_redirects=False
        )
        async with request as reply:
            raw = await reply.read()
            parsed = json.loads(raw) if "json" in reply.headers.get("Content-Type", "") else raw
            return Reply(reply.status, parsed, reply.headers)

    def _headers(self) -> dict[str, str]:
        return {**self.headers, **({"Authorization": f"Bearer {self.token}"} if self.token else {})}

    def of(self, tokens: Tokens) -> "Api":
        """The same client with a device's token."""
        return Api(self.session, self.url, tokens.access_token)

    async def register(self, email: str | None = None, device: str = "laptop") -> Tokens:
        """Create an account."""
        body = {"email": email or new_email(), "password": PASSWORD, "device_name": device}
        reply = await self.call("POST", "/v1/auth/register", body)
        assert reply.status == 201, reply.body
        return Tokens.model_validate(reply.body)

    async def login(self, email: str, device: str = "laptop") -> Tokens:
        """Link a device."""
        body = {"email": email, "password": PASSWORD, "device_name": device}
        reply = await self.call("POST", "/v1/auth/login", body)
        assert reply.status == 200, reply.body
        return Tokens.model_validate(reply.body)

    async def refresh(self, token: str) -> Reply:
        return await self.call("POST", "/v1/auth/refresh", {"refresh_token": token})

    async def make_folder(self, parent_id: str, name: str) -> dict[str, Any]:
        """Make a folder and return its row."""
        reply = await self.call("POST", "/v1/folders", {"parent_id": parent_id, "name": name})
        assert reply.status == 201, reply.body
        row: dict[str, Any] = reply.body
        return row

    async def upload(self, parent_id: str, name: str, content: bytes) -> dict[str, Any]:
        """Upload and commit a new file; return its row."""
        session = await self.begin(content)
        target = {"parent_id": parent_id, "name": name}
        done = await self._done("POST", f"/v1/uploads/{session['id']}/complete", target)
        (result,) = done["results"]
        assert result["code"] is None, result
        row: dict[str, Any] = result["row"]
        return row

    async def begin(self, content: bytes) -> dict[str, Any]:
        """Bring bytes to S3, in one PUT or in parts as the service says; return the open session."""
        asked = {"content_hash": hashlib.sha256(content).hexdigest(), "size": len(content)}
        session = await self._done("POST", "/v1/uploads", asked)
        (entry,) = session["entries"]
        if entry["mode"] == "put":
            await self.put(entry["put"], content)
        elif entry["mode"] == "multipart":
            await self._put_parts(session, content)
        return session

    async def _put_parts(self, session: dict[str, Any], content: bytes) -> None:
        size = session["part_size"]
        parts = {n + 1: content[n * size : (n + 1) * size] for n in range(session["parts_total"])}
        digests = {number: hashlib.sha256(part).hexdigest() for number, part in parts.items()}
        urls = await self._done("POST", f"/v1/uploads/{session['id']}/urls", {"parts": digests})
        for number, part in parts.items():
            await self.put(urls["items"][str(number)], part)
        await self._done("POST", f"/v1/uploads/{session['id']}/parts", {"parts": digests})

    async def put(self, signed: dict[str, Any], content: bytes) -> None:
        """Make a presigned request."""
        request = self.session.request(
            signed["method"], signed["url"], data=BytesIO(content), headers=signed["headers"]
        )
        async with request as reply:
            assert reply.status == 200, await reply.text()

    async def _done(self, method: str, path: str, body: Any) -> dict[str, Any]:
        reply = await self.call(method, path, body)
        assert 200 <= reply.status < 300, reply.body
        answer: dict[str, Any] = reply.body
        return answer

    @asynccontextmanager
    async def events(self, **headers: str) -> AsyncIterator["Stream"]:
        """Open the push channel."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(
            f"{self.url}/v1/events", headers={**self._headers(), **headers}, timeout=timeout
        ) as reply:
            assert reply.status == 200, await reply.read()
            yield Stream(reply)


@dataclass(frozen=True, slots=True)
class Pushed:
    """One server-sent event."""

    event: str
    data: Any
    id: str | None = None


class Stream:
    """A push channel as a client reads it."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self.reply = reply

    async def next(self, event: str | None = None, seconds: float = 20) -> Pushed:
        """Return the next event (of that name); raise `EOFError` at the end of the stream."""
        async with asyncio.timeout(seconds):
            while True:
                pushed = await self._block()
                if pushed is not None and event in {None, pushed.event}:
                    return pushed

    async def _block(self) -> Pushed | None:
        fields: dict[str, str] = {}
        while (line := (await self.reply.content.readline()).decode()) not in {"\n", ""}:
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value
        if line == "":
            raise EOFError
        if "event" not in fields:
            return None
        return Pushed(fields["event"], json.loads(fields["data"]), fields.get("id"))


def new_email() -> str:
    return f"{secrets.token_hex(6)}@example.org"


@asynccontextmanager
async def open_api(url: str) -> AsyncIterator[Api]:
    """A client of the gateway at `url`."""
    async with aiohttp.ClientSession() as session:
        yield Api(session, url)


@asynccontextmanager
async def gateway(env: Mapping[str, str], **overrides: Any) -> AsyncIterator[Api]:
    """A further gateway, in this process, beside the stack that `env` belongs to."""
    given = {name.removeprefix("LOCKSTEP_").lower(): value for name, value in env.items()}
    runner = web.AppRunner(build_app(Settings.model_validate({**given, "port": 0, **overrides})))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with open_api(f"http://127.0.0.1:{port}") as api:
            await _until_ready(api)
            yield api
    finally:
        await runner.cleanup()


async def _until_ready(api: Api) -> None:
    async def ready() -> bool:
        return (await api.call("GET", "/readyz")).status == 200

    await eventually(ready, 60)
