"""The push channel: server-sent events as typed values, over connections that come and go.

Pushes are hints: the feed is the truth. After `Connected`, and whenever `Resync` says so, read it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from pydantic import ValidationError

from agent.remote import Api, Call
from agent.settings import Settings
from libs.contracts.api import PushChanges, PushHeads, PushRevoked, PushUpload
from libs.contracts.errors import LockstepError, RateLimitedError, UnauthenticatedError, UnavailableError
from libs.runtime.backoff import Backoff

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""A longer event is dropped and the feed is to be read."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The channel is open."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The channel is closed and will be opened again after `retry_in` seconds."""

    detail: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class Resync:
    """Something was pushed that cannot be used: read the feed."""


Push = PushHeads | PushChanges | PushUpload | PushRevoked | Resync | Connected | Disconnected

_MODELS: Final[dict[str, type[PushHeads | PushChanges | PushUpload | PushRevoked]]] = {
    "heads": PushHeads,
    "changes": PushChanges,
    "upload": PushUpload,
    "revoked": PushRevoked,
}
_IGNORED: Final = frozenset({"heartbeat", "ping"})


# Server-sent events, after the HTML standard, section 9.2 ---------------------------------------


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One event of the stream; `id` is the last one seen."""

    event: str
    data: str
    id: str | None


@dataclass(slots=True)
class SseParser:
    """Makes events of the bytes of a stream, however they are cut."""

    last_id: str | None = None
    oversized: bool = False
    """Set when an event was dropped for its size; the reader resets it."""
    _rest: bytes = b""
    _event: str = ""
    _data: list[str] = field(default_factory=list)
    _size: int = 0

    def feed(self, chunk: bytes) -> Iterator[SentEvent]:
        """Take more bytes and return the events that are complete."""
        *lines, self._rest = _lines(self._rest + chunk)
        for line in lines:
            sent = self._line(line.decode(errors="replace"))
            if sent is not None:
                yield sent
        if len(self._rest) > MAX_EVENT_BYTES:
            self._rest, self.oversized = b"", True

    def _line(self, line: str) -> SentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._event = value
            case "data":
                self._add(value)
            case "id" if "\0" not in value:
                self.last_id = value
            case _:
                pass  # a comment, or a field of a later time
        return None

    def _add(self, value: str) -> None:
        self._size += len(value)
        if self._size > MAX_EVENT_BYTES:
            self.oversized = True
            self._data.clear()
        else:
            self._data.append(value)

    def _dispatch(self) -> SentEvent | None:
        sent = (
            SentEvent(self._event or "message", "\n".join(self._data), self.last_id) if self._data else None
        )
        self._event, self._data, self._size = "", [], 0
        return sent


def _lines(content: bytes) -> list[bytes]:
    """Cut at line ends; the last item is what has no end yet (a final CR may be half of CRLF)."""
    held = b"\r" if content.endswith(b"\r") else b""
    body = content[: len(content) - len(held)]
    *lines, rest = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return [*lines, rest + held]


def push_of(sent: SentEvent) -> PushHeads | PushChanges | PushUpload | PushRevoked | Resync | None:
    """Return what an event says; None for those that say nothing, `Resync` for what is damaged."""
    if sent.event in _IGNORED:
        return None
    model = _MODELS.get(sent.event)
    if model is None:
        return Resync()
    try:
        return model.model_validate_json(sent.data)
    except ValidationError:
        return Resync()


# The channel ------------------------------------------------------------------------------------


async def pushes(api: Api, settings: Settings, cursor: Callable[[], str | None]) -> AsyncIterator[Push]:
    """Yield pushes for ever, across broken connections; ends after `PushRevoked`.

    `cursor` is asked at each connection for the place in the feed that is known, so that the
    server can push what was missed. Raises `UnauthenticatedError` when the device is not let in.
    """
    channel = _Channel(api, settings)
    while True:
        try:
            async for push in channel.listen(cursor()):
                yield push
                if isinstance(push, PushRevoked):
                    return
            detail, least = "The server closed the channel", 0.0
        except UnauthenticatedError as error:
            if not channel.may_refresh(error):
                raise
            continue
        except (LockstepError, aiohttp.ClientError, TimeoutError) as error:
            detail, least = _explained(error)
        delay = max(channel.pause(), least)
        yield Disconnected(detail, delay)
        await asyncio.sleep(delay)


class _Channel:
    """Opens connections and remembers how well that went."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api = api
        self._silence = 2.5 * settings.heartbeat_seconds
        self._backoff = Backoff(0.5, settings.push_retry_cap)
        self._failures = 0
        self._expired = 0
        self._use_cursor = True
        self._stale: str | None = None

    def pause(self) -> float:
        """Return how long to wait before the next connection, in seconds."""
        self._failures += 1
        return self._backoff.delay(self._failures - 1)

    def may_refresh(self, error: UnauthenticatedError) -> bool:
        """Whether another token may help: expired, and not right after a refresh."""
        self._expired += 1
        return error.code == "token_expired" and self._expired == 1

    async def listen(self, cursor: str | None) -> AsyncIterator[Push]:
        """Yield the pushes of one connection."""
        headers = {"Accept": "text/event-stream"}
        if cursor is not None and self._use_cursor:
            headers["Last-Event-ID"] = cursor
        token = await self._fresh_token()
        try:
            async with self._api.transport.stream(Call("events"), headers, silence=self._silence) as content:
                yield Connected()
                async for push in self._read(content):
                    yield push
        except LockstepError as error:
            self._learn(error, token)
            raise

    async def _fresh_token(self) -> str:
        if self._stale is not None:
            stale, self._stale = self._stale, None
            return await self._api.transport.renewed_token(stale)
        return await self._api.transport.token()

    def _learn(self, error: LockstepError, token: str) -> None:
        """Do better next time: a fresh token, or no cursor when the server cannot use it."""
        if error.code == "token_expired":
            self._stale = token
        elif not isinstance(error, (UnavailableError, RateLimitedError)):
            self._use_cursor = False

    async def _read(self, content: aiohttp.StreamReader) -> AsyncIterator[Push]:
        parser = SseParser()
        async for chunk in content.iter_any():
            self._failures = self._expired = 0
            self._use_cursor = True
            self._api.transport.api_bytes += len(chunk)
            for sent in parser.feed(chunk):
                push = push_of(sent)
                if push is not None:
                    yield push
            if parser.oversized:
                parser.oversized = False
                yield Resync()


def _explained(error: Exception) -> tuple[str, float]:
    """Return why the channel broke and the least pause in seconds that the server asked for."""
    if isinstance(error, LockstepError):
        with suppress(TypeError, ValueError):
            return error.detail, float(error.extra.get("retry_after", 0.0))
        return error.detail, 0.0
    return "The server fell silent" if isinstance(error, TimeoutError) else "The connection broke", 0.0


def as_object(push: Push) -> dict[str, object] | None:
    """Return a push as one JSON object with its event's name; None for the channel's own."""
    for name, model in _MODELS.items():
        if isinstance(push, model):
            return {"event": name, **push.model_dump(mode="json")}
    return None
