"""The network of the simulation: what the agent's HTTP client and S3 client see of it.

`Session` stands where the agent has an `aiohttp.ClientSession`, so the agent's own transport, its
repeats and its errors are all in the run. What goes wrong is drawn from the seed.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.simulation.engine.machine import Machine
from tests.simulation.engine.server import Answer, Request, Server

SERVER = "http://127.0.0.1:2"
Span = tuple[int, int | None]
"""First byte and last one of a range; None: to the end."""
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

    async def get(self, device: str, url: str, span: Span | None) -> "Read":
        """Bring bytes from the store, or something else."""
        await self.travel()
        if self.strikes() and self.rng.random() < _BROKEN:
            raise _refused()
        status, body, headers = self.server.store.get(url, span, self.server.now())
        read = Read(Answer(status, body, headers), len(body))
        if status in {200, 206} and body and self.strikes():
            read = self._spoilt(read, url)
        self.trace.append(f"{device} GET {len(body)} {status}")
        return read

    def _spoilt(self, read: "Read", url: str) -> "Read":
        """Return a read as it may come over a bad line, by a bad store, or from a hotel's network."""
        answer = read.answer
        match self.rng.choice(("damaged", "damaged", "damaged", "broken", "short", "page", "whole")):
            case "damaged":  # it has the right length
                body = bytes([answer.body[0] ^ 1]) + answer.body[1:]
                return Read(replace(answer, body=body), read.length)
            case "broken":
                return Read(replace(answer, body=answer.body[: len(answer.body) // 2]), read.length)
            case "short":
                body = answer.body[:-1]
                return Read(replace(answer, body=body), len(body))
            case "page":
                page = b"<html>Sign in</html>"
                return Read(Answer(200, page), len(page))
            case _:
                status, body, headers = self.server.store.get(url, None, self.server.now())
                return Read(Answer(status, body, headers), len(body))


@dataclass(frozen=True, slots=True)
class Read:
    """An answer with a body of an announced `length`; it breaks off when there is less of it."""

    answer: Answer
    length: int


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
        read = await self.network.get(self.machine.name, url, _span((headers or {}).get("Range")))
        self.machine.step("answer")
        yield _response(read.answer, read.length)


def _span(header: str | None) -> Span | None:
    """Return first byte and last one, if named, of a `Range` header."""
    if header is None:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first), int(last) if last else None


async def _body(data: Any) -> bytes:
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(bytes(piece))

    await data.write(SimpleNamespace(write=write))
    return b"".join(pieces)


def _response(answer: Answer, length: int | None = None) -> Any:
    """Return what the agent sees of an answer. A body comes in two pieces, and breaks off where it ends."""
    left = bytearray(answer.body)
    announced = len(answer.body) if length is None else length
    most = len(left) // 2 + 1 if answer.status in {200, 206} else len(left)

    async def read(count: int = -1) -> bytes:
        if not left and announced > len(answer.body):
            raise aiohttp.ClientPayloadError("the body ended early")
        size = len(left) if count < 0 else min(count, most)
        piece = bytes(left[:size])
        del left[:size]
        return piece

    async def readchunk() -> tuple[bytes, bool]:
        return await read(most), False

    content = SimpleNamespace(read=read, readchunk=readchunk, at_eof=lambda: not left)
    return SimpleNamespace(
        status=answer.status, headers=answer.headers, read=read, content=content,
        content_length=announced, connection=None,
    )  # fmt: skip
