import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agent import push as push_module
from agent.push import (
    Connected,
    Disconnected,
    Push,
    Resync,
    SentEvent,
    SseParser,
    as_object,
    push_of,
    pushes,
)
from agent.remote import open_api
from libs.contracts.api import PushChanges, PushHeads, PushRevoked
from libs.contracts.errors import UnauthenticatedError
from tests.support.agent_api import DEVICE, NAMESPACE, link, quick_settings, row, tokens
from tests.support.scripted import Answer, ScriptedServer, problem, resets, says, scripted

HEADS = {"epoch": 1, "heads": {NAMESPACE: 7}}
CHANGES = {"namespace_id": NAMESPACE, "epoch": 1, "from_seq": 6, "to_seq": 7, "rows": [row()]}
REVOKED = {"device_id": DEVICE}


def event(name: str, data: Any, *, last_id: str | None = None) -> bytes:
    line = f"id: {last_id}\n" if last_id else ""
    return f"{line}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


# The parser -------------------------------------------------------------------------------------

STREAM = (
    b": hello\r\n\r\n"
    b'event: heads\ndata: {"a":\ndata: 1}\n\n'
    b"id: cursor-1\r\nevent:changes\r\ndata:x\r\n\r\n"
    b"data: \xc3\xa9\xe2\x98\x83\n\n"
    b"retry: 5\nunknown\nid: bad\0id\n\n"
    b"event: forgotten\n\n"
    b"id\ndata\n\n"
    b"event: unfinished\ndata: x\n"
)
EVENTS = [
    SentEvent("heads", '{"a":\n1}', None),
    SentEvent("changes", "x", "cursor-1"),
    SentEvent("message", "é☃", "cursor-1"),
    SentEvent("message", "", ""),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_gives_the_same_events_however_it_is_cut(cuts: list[int]) -> None:
    parser = SseParser()
    edges = sorted({0, len(STREAM), *cuts})

    assert [sent for a, b in pairwise(edges) for sent in parser.feed(STREAM[a:b])] == EVENTS


def test_line_ends_of_old_are_line_ends_too() -> None:
    assert [sent.data for sent in SseParser().feed(b"data: a\r\rdata: b\r\rx")] == ["a", "b"]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(content: bytes) -> None:
    assert list(SseParser().feed(content)) is not None


def test_an_event_that_is_too_long_is_dropped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "MAX_EVENT_BYTES", 100)
    parser = SseParser()

    assert list(parser.feed(b"data: " + b"x" * 60 + b"\ndata: " + b"y" * 60 + b"\n\n")) == []
    assert parser.oversized
    assert [sent.data for sent in parser.feed(b"data: next\n\n")] == ["next"]


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("heads", json.dumps(HEADS), PushHeads),
        ("changes", json.dumps(CHANGES), PushChanges),
        ("revoked", json.dumps(REVOKED), PushRevoked),
        ("heads", "{}", Resync),
        ("changes", "{", Resync),
        ("resync", json.dumps(HEADS), Resync),
        ("of_a_later_time", "{}", Resync),
        ("heartbeat", "", type(None)),
    ],
)
def test_what_cannot_be_used_says_to_read_the_feed(name: str, data: str, kind: type) -> None:
    assert isinstance(push_of(SentEvent(name, data, None)), kind)


def test_a_push_as_an_object_names_its_event() -> None:
    heads = PushHeads.model_validate(HEADS)

    assert as_object(heads) == {"event": "heads", **HEADS}
    assert as_object(Connected()) is None


# The channel ------------------------------------------------------------------------------------


def stream(*chunks: bytes, then: Callable[[], Awaitable[object]] | None = None) -> Answer:
    """Answer with a stream that ends after `then`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then is not None:
            await then()
        return response

    return answer


async def _for_ever() -> None:
    await asyncio.sleep(3600)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


async def listen(server: ScriptedServer, home: Path, until: type, cursor: str | None = None) -> list[Push]:
    """Collect pushes up to and with the first of a kind."""
    settings = quick_settings(home)
    link(settings, server.url)
    found: list[Push] = []
    async with open_api(settings) as api:
        async for push in pushes(api, settings, lambda: cursor):
            found.append(push)
            if isinstance(push, until):
                break
    return found


async def test_pushes_come_as_they_are_sent_and_the_cursor_is_told(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.on(
        "GET",
        "/v1/events",
        stream(b": hi\n\n" + event("heads", HEADS), event("changes", CHANGES), event("revoked", REVOKED)),
    )

    found = await listen(server, tmp_path, PushRevoked, cursor="here")

    assert [type(push) for push in found] == [Connected, PushHeads, PushChanges, PushRevoked]
    (seen,) = server.seen
    assert seen.headers["Last-Event-ID"] == "here"
    assert seen.headers["Authorization"] == "Bearer access-1"


async def test_a_revoked_device_is_not_connected_again(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET", "/v1/events", stream(event("revoked", REVOKED)))

    found = await listen(server, tmp_path, type(None))

    assert isinstance(found[-1], PushRevoked)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "trouble", [stream(), resets, problem("unavailable"), says(b"", 502), says(b"", 404)]
)
async def test_a_channel_that_breaks_is_opened_again(
    server: ScriptedServer, tmp_path: Path, trouble: Answer
) -> None:
    server.on("GET", "/v1/events", trouble, trouble, stream(event("heads", HEADS), then=_for_ever))

    found = await listen(server, tmp_path, PushHeads)

    assert any(isinstance(push, Disconnected) for push in found)
    assert isinstance(found[-2], Connected)
    assert len(server.seen) == 3


async def test_a_silent_connection_counts_as_dead(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET", "/v1/events", stream(then=_for_ever), stream(event("heads", HEADS), then=_for_ever))

    found = await listen(server, tmp_path, PushHeads)

    assert [type(push) for push in found] == [Connected, Disconnected, Connected, PushHeads]


async def test_heartbeats_keep_a_connection_alive(server: ScriptedServer, tmp_path: Path) -> None:
    async def beats(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            await response.write(b": \n\n")
            await asyncio.sleep(0.05)
        await response.write(event("heads", HEADS))
        await _for_ever()
        return response

    server.on("GET", "/v1/events", beats)

    assert [type(push) for push in await listen(server, tmp_path, PushHeads)] == [Connected, PushHeads]


async def test_an_expired_token_is_refreshed_without_a_word(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET", "/v1/events", problem("token_expired"), stream(event("heads", HEADS), then=_for_ever))
    server.on("POST", "/v1/auth/refresh", says(tokens()))

    found = await listen(server, tmp_path, PushHeads)

    assert [type(push) for push in found] == [Connected, PushHeads]
    assert server.calls("/v1/events")[-1].headers["Authorization"] == "Bearer access-2"


async def test_a_fresh_token_that_is_refused_ends_it(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET", "/v1/events", problem("token_expired"))
    server.on("POST", "/v1/auth/refresh", says(tokens()))

    with pytest.raises(UnauthenticatedError):
        await listen(server, tmp_path, PushHeads)
    assert len(server.calls("/v1/events")) == 2


async def test_a_device_that_is_not_let_in_is_told_so(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET", "/v1/events", problem("device_revoked"))

    with pytest.raises(UnauthenticatedError, match="device_revoked"):
        await listen(server, tmp_path, PushHeads)


async def test_a_cursor_that_the_server_refuses_is_left_out_the_next_time(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.on("GET", "/v1/events", problem("cursor_expired"), stream(event("heads", HEADS), then=_for_ever))

    await listen(server, tmp_path, PushHeads, cursor="old")

    assert [seen.headers.get("Last-Event-ID") for seen in server.seen] == ["old", None]


async def test_the_pause_that_the_server_asks_for_is_kept(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET", "/v1/events", problem("rate_limited", headers={"Retry-After": "7"}))

    found = await listen(server, tmp_path, Disconnected)

    assert isinstance(found[-1], Disconnected)
    assert found[-1].retry_in == 7
