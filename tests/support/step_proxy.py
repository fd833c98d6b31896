"""A proxy before the gateway and before S3 that knows the steps of a flow and stops at one of them.

Both sides are one line: the steps of both are counted together, so that a test can record what a run asks
for, and then stop a later run at each of these steps: before the request is handed on, in the middle of its
body, or after it was carried out and before its answer. The request waits there until its client is gone
or the test lets it go on. Bodies are held in memory; a push channel is streamed and is no step.

The Host header stays as the client sent it, because it is signed for S3.
"""

import asyncio
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final, Literal

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

When = Literal["before", "middle", "after"]
_MOST_IN_MEMORY: Final = 128 * 1024 * 1024
_HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server"}
_ID: Final = re.compile(r"/[0-9A-Za-z_-]{16,}(?=/|$)")
_PUSH: Final = "GET /v1/events"
_NOT_AGENTS: Final = "GET /healthz"


@dataclass(frozen=True, slots=True)
class Step:
    """The `nth` request (from 1) of a kind, as `PUT part 2` or `POST /v1/uploads/{id}/complete`."""

    name: str
    nth: int = 1

    @property
    def payload(self) -> bool:
        """Whether it carries content, up or down."""
        return self.name.startswith(("PUT part", "PUT object", "GET range", "GET object"))

    def __str__(self) -> str:
        return self.name if self.nth == 1 else f"{self.name} ({self.nth})"


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run is to be stopped."""

    step: Step
    when: When

    def __str__(self) -> str:
        return f"{self.when} {self.step}"


@dataclass(slots=True)
class Carried:
    """What S3 has carried out since the last count began."""

    up: dict[str, int] = field(default_factory=dict)
    """Bytes of each body that S3 has acknowledged, by their SHA-256."""
    again: list[str] = field(default_factory=list)
    """What was acknowledged although it had been before."""
    down: list[int] = field(default_factory=list)
    """Bytes of each answer of S3 that was handed on as a whole, in this order."""


class StepProxy:
    """All but the handlers may be called from the test's thread."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = list(targets)
        """Base URLs; one that is not known yet can be filled in later."""
        self.urls: list[str] = []
        self.steps: list[Step] = []
        self.carried = Carried()
        self.reached = threading.Event()
        """A request waits at each place where there was to be a stop."""
        self._counts: Counter[str] = Counter()
        self._stops: dict[Step, When] = {}
        self._awaited = 0
        self._go_on: asyncio.Event | None = None
        self._active = 0
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # What a test says -------------------------------------------------------------------------

    def begin(self, *stops: Stop) -> None:
        """Count from here, and stop there, in whatever order."""
        self._call(lambda: self._begin(stops))

    def go_on(self) -> None:
        """Let what waits, and all later requests, through."""
        self._call(self._let_through)

    @property
    def idle(self) -> bool:
        """Whether no request is under way (a push channel does not count)."""
        return self._active == 0

    def _begin(self, stops: Sequence[Stop]) -> None:
        self._let_through()
        self.steps, self.carried, self._counts = [], Carried(), Counter()
        self._stops = {stop.step: stop.when for stop in stops}
        self._awaited, self._go_on = len(stops), asyncio.Event()
        self.reached.clear()

    def _let_through(self) -> None:
        self._stops = {}
        if self._go_on is not None:
            self._go_on.set()

    def _call(self, what: Callable[[], None]) -> None:
        assert self._loop is not None
        done = threading.Event()

        def run() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(20), "the proxy does not answer"

    # The proxy --------------------------------------------------------------------------------

    def handler(self, index: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return what answers the requests that are meant for a target."""

        async def handle(request: web.Request) -> web.StreamResponse:
            name, target = step_name(request), self.targets[index]
            try:
                if name in {_PUSH, _NOT_AGENTS}:
                    return await self._stream(request, target)
                return await self._take(request, target, name)
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                return _abort(request)

        return handle

    async def _take(self, request: web.Request, target: str, name: str) -> web.StreamResponse:
        self._counts[name] += 1
        step = Step(name, self._counts[name])
        self.steps.append(step)
        self._active += 1
        try:
            return await self._carry_on(request, target, step)
        finally:
            self._active -= 1

    async def _carry_on(self, request: web.Request, target: str, step: Step) -> web.StreamResponse:
        when = self._stops.get(step)
        body = await request.read()
        if when == "before":
            await self._wait()
        if when == "middle" and body:
            return await self._half_sent(request, target, body)
        status, headers, content = await self._carry_out(request, target, body)
        if when == "after":
            await self._wait()
        return await self._answer(request, (status, headers, content), halt=when == "middle")

    async def _wait(self) -> None:
        """Wait to be let through; cancelled when the client is gone first."""
        assert self._go_on is not None
        self._awaited -= 1
        if self._awaited == 0:
            self.reached.set()
        await self._go_on.wait()

    async def _half_sent(self, request: web.Request, target: str, body: bytes) -> web.StreamResponse:
        """Hand on half of the body; what is let through after that is a broken connection."""

        async def halves() -> Any:
            yield body[: len(body) // 2]
            await self._wait()
            raise ConnectionError

        async with self._asked(request, target, halves()):
            return _abort(request)

    async def _carry_out(
        self, request: web.Request, target: str, body: bytes
    ) -> tuple[int, CIMultiDict[str], bytes]:
        async with self._asked(request, target, BytesIO(body) if body else None) as answer:
            content = await answer.read()
        if request.method == "PUT" and answer.status == 200:
            key = hashlib.sha256(body).hexdigest()
            if key in self.carried.up:
                self.carried.again.append(key)
            self.carried.up[key] = len(body)
        return answer.status, _passed_on(answer.headers), content

    async def _answer(
        self, request: web.Request, answer: tuple[int, CIMultiDict[str], bytes], *, halt: bool
    ) -> web.StreamResponse:
        status, headers, content = answer
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        if halt:
            await response.write(content[: len(content) // 2])
            await self._wait()
            return _abort(request)
        if content and request.method != "HEAD":
            await response.write(content)
        await response.write_eof()
        if step_name(request).startswith(("GET range", "GET object")) and status in {200, 206}:
            self.carried.down.append(len(content))
        return response

    async def _stream(self, request: web.Request, target: str) -> web.StreamResponse:
        async with self._asked(request, target, None) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            await response.prepare(request)
            with suppress(aiohttp.ClientError):
                async for piece in answer.content.iter_any():
                    await response.write(piece)
        return _abort(request)

    def _asked(self, request: web.Request, target: str, body: Any) -> Any:
        assert self._session is not None
        return self._session.request(
            request.method, URL(target + request.raw_path, encoded=True),
            headers=_passed_on(request.headers), data=body, allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )  # fmt: skip

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Run one port for each target until stopped; `urls` are there once `started` is set."""
        self._loop = asyncio.get_running_loop()
        runners = []
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        ) as self._session:
            for index in range(len(self.targets)):
                app = web.Application(client_max_size=_MOST_IN_MEMORY)
                app.router.add_route("*", "/{path:.*}", self.handler(index))
                runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                self.urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
                runners.append(runner)
            started.set()
            await stop.wait()
            for runner in runners:
                await runner.cleanup()


@contextmanager
def step_proxy(*targets: str) -> Iterator[StepProxy]:
    """Run the proxy while the context lasts; its `urls` are in the order of the targets."""
    proxy = StepProxy(targets)
    started, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(proxy.serve(started, stop))

    thread = threading.Thread(target=run, name="step-proxy")
    thread.start()
    try:
        if not started.wait(20):
            raise TimeoutError("the proxy did not start")
        yield proxy
    finally:
        loop.call_soon_threadsafe(proxy._let_through)
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def step_name(request: web.Request) -> str:
    """Return what kind of step a request is: the same for the same step of another file."""
    if "X-Amz-Signature" in request.query:
        if request.method == "PUT":
            number = request.query.get("partNumber")
            return f"PUT part {number}" if number else "PUT object"
        return "GET range" if "Range" in request.headers else f"{request.method} object"
    if "uploadId" in request.query and request.method == "POST":
        return "join"
    return f"{request.method} {_ID.sub('/{id}', request.path)}"


def stops_of(steps: Sequence[Step]) -> list[Stop]:
    """Return the stops of a recorded flow.

    Of steps of one kind (the name without the number of a part) the first and the last, and one in
    the middle when they carry content.
    """
    kinds: dict[str, list[Step]] = {}
    for step in steps:
        kinds.setdefault(re.sub(r" \d+$", "", step.name), []).append(step)
    chosen = [step for kind in kinds.values() for step in _spread(kind, 3 if kind[0].payload else 2)]
    chosen.sort(key=steps.index)
    return [
        Stop(step, when)
        for step in chosen
        for when in (("before", "middle", "after") if step.payload else ("before", "after"))
    ]


def _spread(steps: Sequence[Step], most: int) -> list[Step]:
    """Return at most so many, evenly spread, first and last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _passed_on(headers: Any) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


def _abort(request: web.Request) -> web.Response:
    if request.transport is not None:
        with suppress(RuntimeError):
            request.transport.abort()
    return web.Response(status=502)
