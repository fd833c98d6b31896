"""A proxy between devices and S3 that makes the line bad on purpose, and counts what passes.

It runs in a thread of its own and streams both ways in bounded memory. The Host header stays as the
client sent it, because it is signed: the stack's S3 endpoints must be the proxy's address.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.support.line_faults import (
    MIB,
    Asked,
    Fault,
    FlippedDown,
    FlippedUp,
    Latency,
    OtherRange,
    Page,
    Passed,
    Redirect,
    Refusal,
    Reset,
    Script,
    Stalled,
    Truncated,
)

PIECE = 64 * 1024
TRAP = "/somewhere/else"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server"}
_HTML = b"<!DOCTYPE html><html><body>Welcome! Please sign in to use this network.</body></html>"
_FLIP_AT = 0.7
"""Where in a body the byte is that is flipped."""


class _BrokenError(Exception):
    """The line breaks here: the device's connection is to be aborted."""


class FaultyStore:
    """The store behind a bad line. All but `handle` may be called from the test's thread."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._session: aiohttp.ClientSession | None = None
        self._scripts: list[Script] = []
        self._sticky: dict[str, Refusal] = {}
        self._passed: dict[str, Passed] = {}
        self._transports: set[Any] = set()
        self._line = _Line()
        self.trapped = 0
        """Requests that followed a redirect."""
        self.url = ""

    # What a test says -------------------------------------------------------------------------

    def play(self, *scripts: Script) -> None:
        """From now on these decide, the first that has a fault for a request."""
        self._scripts = list(scripts)

    def come_and_go(self, up_bytes: int, away_seconds: float) -> None:
        """The line breaks each time so many bytes have passed, and is away for a while."""
        self._line = _Line(up_bytes, away_seconds)

    def follow(self, other: "FaultyStore") -> None:
        """Be away whenever the other is, as when both lie behind one network."""
        self._line = other._line

    def reset(self) -> None:
        """A good line, and nothing counted."""
        self._scripts, self._sticky, self._passed = [], {}, {}
        self._line, self.trapped = _Line(), 0

    @property
    def outages(self) -> int:
        """How often the line went."""
        return self._line.outages

    def parts(self) -> list[Passed]:
        """What passed of parts that devices sent."""
        return [one for one in self._passed.values() if one.asked.part and one.asked.by_device]

    def reads(self) -> list[Passed]:
        """What passed of ranges that devices read."""
        return [one for one in self._passed.values() if one.asked.method == "GET" and one.asked.by_device]

    def others(self) -> list[Passed]:
        """What passed of everything else, such as what the services asked."""
        known = {id(one) for one in (*self.parts(), *self.reads())}
        return [one for one in self._passed.values() if id(one) not in known]

    # The proxy --------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, well or badly."""
        if request.path == TRAP:
            self.trapped += 1
        asked = asked_of(request)
        passed = self._passed.setdefault(asked.key, Passed(asked))
        passed.requests += 1
        fault = self._fault_for(request, passed)
        if fault is not None:
            passed.faults.append(fault)
        transport = request.transport
        self._transports.add(transport)
        try:
            self._line.check()
            return await self._answer(request, passed, fault)
        except (_BrokenError, aiohttp.ClientError, ConnectionError, TimeoutError):
            _abort(request)
            return web.Response(status=502)
        finally:
            self._transports.discard(transport)

    def _fault_for(self, request: web.Request, passed: Passed) -> Fault | None:
        sticky = self._sticky.get(request.raw_path)
        if sticky is not None:
            return sticky
        found = (script.fault_for(passed.asked) for script in self._scripts)
        fault = next((fault for fault in found if fault is not None), None)
        if isinstance(fault, Refusal) and fault.sticky:
            self._sticky[request.raw_path] = fault
        return fault

    async def _answer(self, request: web.Request, passed: Passed, fault: Fault | None) -> web.StreamResponse:
        match fault:
            case Reset("before"):
                raise _BrokenError
            case Latency(seconds):
                await asyncio.sleep(seconds)
            case Refusal():
                return await _refused(request, fault)
            case Page(status, headers):
                await _swallow(request)
                return web.Response(status=status, body=_HTML, content_type="text/html", headers=headers)
            case Redirect():
                await _swallow(request)
                return web.Response(status=307, headers={"Location": f"{self.url}{TRAP}"})
        return await self._forward(request, passed, fault)

    async def _forward(self, request: web.Request, passed: Passed, fault: Fault | None) -> web.StreamResponse:
        assert self._session is not None
        headers = _passed_on(request.headers)
        if isinstance(fault, OtherRange):
            headers["Range"] = _shifted(headers.get("Range"), fault.by)
        body = self._body_up(request, passed, fault) if request.body_exists else None
        async with self._session.request(
            request.method, URL(self._target + request.raw_path, encoded=True), headers=headers, data=body,
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        ) as answer:  # fmt: skip
            good = answer.status in {200, 204, 206}
            passed.acknowledged += good
            if fault == Reset("after"):
                await answer.read()
                raise _BrokenError
            response = await self._answer_down(request, answer, passed, fault)
            passed.delivered += good
            return response

    async def _body_up(
        self, request: web.Request, passed: Passed, fault: Fault | None
    ) -> AsyncIterator[bytes]:
        """Yield the request's body as the store gets it."""
        size = request.content_length or 0
        half = size // 2 if fault == Reset("middle") and size else None
        flip = int(size * _FLIP_AT) if isinstance(fault, FlippedUp) and size else None
        done = 0
        async for piece in request.content.iter_chunked(PIECE):
            if half is not None and done >= half:
                raise _BrokenError
            self._line.carry(len(piece), self._break_all)
            yield _flipped(piece, flip, done)
            done += len(piece)
            passed.up += len(piece)

    async def _answer_down(
        self, request: web.Request, answer: aiohttp.ClientResponse, passed: Passed, fault: Fault | None
    ) -> web.StreamResponse:
        size = answer.content_length or 0
        if isinstance(fault, Stalled) and not size:
            await _until_gone()
        response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
        await response.prepare(request)
        flip = int(size * _FLIP_AT) if isinstance(fault, FlippedDown) and size else None
        stop = size // 2 if isinstance(fault, (Truncated, Stalled)) or fault == Reset("middle") else None
        done = 0
        async for piece in answer.content.iter_chunked(PIECE):
            if stop is not None and done >= stop:
                await _stopped(request, fault)
            self._line.carry(len(piece), self._break_all)
            await response.write(_flipped(piece, flip, done))
            done += len(piece)
            passed.down += len(piece)
        await response.write_eof()
        return response

    def _break_all(self) -> None:
        for transport in tuple(self._transports):
            if transport is not None:
                transport.abort()

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Run until stopped; `url` is there once `started` is set."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, read_bufsize=MIB
        ) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await stop.wait()
            self._break_all()
            await runner.cleanup()


class _Line:
    """Carries bytes; breaks after `up_bytes` of them and is away for `away_seconds`."""

    def __init__(self, up_bytes: int | None = None, away_seconds: float = 0.0) -> None:
        self._up_bytes = up_bytes
        self._away_seconds = away_seconds
        self._carried = 0
        self._back_at = 0.0
        self.outages = 0

    def check(self) -> None:
        """Raise `_BrokenError` while it is away."""
        if time.monotonic() < self._back_at:
            raise _BrokenError

    def carry(self, count: int, break_all: Callable[[], None]) -> None:
        """Take note of bytes; raise `_BrokenError` when they are the last for now."""
        if self._up_bytes is None:
            return
        self.check()
        self._carried += count
        if self._carried >= self._up_bytes:
            self._carried, self._back_at = 0, time.monotonic() + self._away_seconds
            self.outages += 1
            break_all()
            raise _BrokenError


@contextmanager
def faulty_store(target: str) -> Iterator[FaultyStore]:
    """Run the proxy in front of `target` (a base URL) while the context lasts."""
    store = FaultyStore(target)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=_run, args=(loop, store.serve(started, stop)), name="faulty-store")
    thread.start()
    try:
        if not started.wait(20):
            raise TimeoutError("the proxy did not start")
        yield store
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def _run(loop: asyncio.AbstractEventLoop, main: Any) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)


def asked_of(request: web.Request) -> Asked:
    """What a request asks for."""
    number = request.query.get("partNumber")
    return Asked(
        request.method,
        request.path,
        int(number) if number else None,
        request.headers.get("Range"),
        "X-Amz-Signature" in request.query,
        dict(request.query),
    )


def _passed_on(headers: Any) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


async def _refused(request: web.Request, fault: Refusal) -> web.Response:
    if not fault.early:
        await _swallow(request)
    if fault.sticky:
        await _until_another_second(request.query.get("X-Amz-Date"))
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>"
    )
    answer = web.Response(
        status=fault.status, text=text, content_type="application/xml", headers=fault.headers
    )
    if fault.early:
        answer.force_close()
    return answer


async def _until_another_second(signed_at: str | None) -> None:
    """Return when a URL that is signed now has another time in it: no URL expires within a second."""
    if signed_at is not None:
        signed = datetime.strptime(signed_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        await asyncio.sleep(max(0.0, signed.timestamp() + 1.05 - datetime.now(UTC).timestamp()))


async def _swallow(request: web.Request) -> None:
    async for _ in request.content.iter_chunked(PIECE):
        pass


async def _stopped(request: web.Request, fault: Fault | None) -> None:
    """Stop in the middle of an answer: closed in the regular way, silent, or broken."""
    if isinstance(fault, Truncated) and request.transport is not None:
        request.transport.close()
    if not isinstance(fault, Reset):
        await _until_gone()
    raise _BrokenError


async def _until_gone() -> None:
    """Wait until the device has given up: the handler is cancelled then."""
    await asyncio.Event().wait()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        with suppress(RuntimeError):
            request.transport.abort()


def _flipped(piece: bytes, at: int | None, start: int) -> bytes:
    """The piece, that begins at `start`, with the byte at `at` inverted when it is inside."""
    if at is None or not start <= at < start + len(piece):
        return piece
    changed = bytearray(piece)
    changed[at - start] ^= 0xFF
    return bytes(changed)


def _shifted(text: str | None, by: int) -> str:
    """The value of a Range header for bytes that lie elsewhere."""
    first, _, last = (text or "bytes=0-").removeprefix("bytes=").partition("-")
    start = max(0, int(first) + by) if int(first) else abs(by)
    end = start + int(last) - int(first) if last else ""
    return f"bytes={start}-{end}"
