"""The network of the simulation: what the agent's HTTP client and S3 client see of it.

`Session` stands where the agent has an `aiohttp.ClientSession`, so the agent's own transport, its
repeats and its errors are all in the run. What goes wrong is drawn from the seed.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.simulation.engine.machine import Machine
from tests.simulation.engine.server import Answer, Request, Server

SERVER = "http://127.0.0.1:2"
_BROKEN = 0.3
"""Of the faults of a call, how many each kind has."""


@dataclass
class Network:
    """Between the devices and the server. `faults` is the chance that a request meets one."""

    server: Server
    rng: random.Random
    faults: float = 0.0
    delay: float = 0.05
    """Seconds that a request takes at most."""
    down: bool = False
    trace: list[str] = field(default_factory=list)
    on_lost: Callable[[str], None] = lambda _device: None
    """Told of a device that is not told what was done, or what becomes of a commit under way."""

    async def travel(self) -> None:
        await asyncio.sleep(self.rng.random() * self.delay)

    def strikes(self) -> bool:
        return self.rng.random() < self.faults

    async def call(self, request: Request) -> Answer:
        """Carry a request to the server and its answer back."""
        await self.travel()
        if self.down or (self.strikes() and self.rng.random() < _BROKEN):
            self.on_lost(request.device)
            raise _refused()
        if self.strikes() and self.rng.random() < _BROKEN:
            self.on_lost(request.device)
            return Answer(503, b"{}", {"Retry-After": "1"})
        answer = self.server.answer(request)
        self.trace.append(f"{request.device} {request.method} {request.path} {answer.status}")
        if self.strikes() and self.rng.random() < _BROKEN:
            # It comes twice: a proxy sent it again.
            answer = self.server.answer(request)
        await self.travel()
        if self.strikes():
            self.on_lost(request.device)
            raise aiohttp.ServerDisconnectedError
        return answer

    async def put(self, device: str, url: str, content: bytes) -> Answer:
        """Carry bytes to the store."""
        await self.travel()
        if self.strikes():
            fault = self.rng.choice(("refused", "busy", "damaged", "lost"))
            if fault == "refused":
                raise _refused()
            if fault == "busy":
                return Answer(503, b"<Error><Code>SlowDown</Code></Error>")
            if fault == "damaged":
                content = content[:-1] + b"?" if content else b"?"
            else:
                self.server.store.put(url, content, self.server.now())
                raise aiohttp.ServerDisconnectedError
        status, body = self.server.store.put(url, content, self.server.now())
        self.trace.append(f"{device} PUT {len(content)} {status}")
        return Answer(status, body)

    async def get(self, device: str, url: str, start: int) -> Answer:
        """Bring bytes from the store; what is damaged has the right length."""
        await self.travel()
        if self.strikes() and self.rng.random() < _BROKEN:
            raise _refused()
        status, body = self.server.store.get(url, start, self.server.now())
        if status in {200, 206} and body and self.strikes():
            body = bytes([body[0] ^ 1]) + body[1:]
        self.trace.append(f"{device} GET {len(body)} {status}")
        return Answer(status, body)


def _refused() -> Exception:
    return aiohttp.ConnectionTimeoutError("the network is away")


@dataclass
class Session:
    """What the agent uses of `aiohttp.ClientSession`."""

    network: Network
    machine: Machine

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, data: Any = None, params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, **_: Any,
    ) -> AsyncIterator[Any]:  # fmt: skip
        """Make one request, to the server or to the store."""
        self.machine.step("send")
        if url.startswith(SERVER):
            body = bytes(data or b"")
            request = Request(self.machine.name, method, urlsplit(url).path, params or {}, body)
            answer = await self.network.call(request)
        else:
            answer = await self.network.put(self.machine.name, url, await _body(data))
        self.machine.step("answer")
        yield _response(answer)

    @asynccontextmanager
    async def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, **_: Any
    ) -> AsyncIterator[Any]:
        """Read from the store."""
        self.machine.step("send")
        start = int((headers or {}).get("Range", "bytes=0-")[6:-1])
        answer = await self.network.get(self.machine.name, url, start)
        self.machine.step("answer")
        yield _response(answer)


async def _body(data: Any) -> bytes:
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(bytes(piece))

    await data.write(SimpleNamespace(write=write))
    return b"".join(pieces)


def _response(answer: Answer) -> Any:
    async def read(_count: int = -1) -> bytes:
        return answer.body

    async def pieces() -> AsyncIterator[bytes]:
        half = len(answer.body) // 2
        for piece in (answer.body[:half], answer.body[half:]):
            if piece:
                yield piece

    content = SimpleNamespace(read=read, iter_any=pieces)
    return SimpleNamespace(
        status=answer.status, headers=answer.headers, read=read, content=content,
        content_length=len(answer.body),
    )  # fmt: skip
