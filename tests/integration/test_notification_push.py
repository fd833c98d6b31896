"""The push channel on the running stack, through the gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from libs.contracts.api import Tokens
from libs.contracts.cursor import Cursor
from libs.contracts.events import FileCommitted, FileMoved, wrap
from libs.contracts.ids import new_id
from libs.messaging.rabbit import open_bus
from libs.mongo.client import open_database
from libs.mongo.names import DEVICES
from services.notification.app import build_app
from services.notification.settings import Settings
from tests.support.backends import Backends
from tests.support.bus_world import committed
from tests.support.gateway_client import Api, Stream, new_email, open_api
from tests.support.stack import Stack
from tests.support.waiting import eventually


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    async with open_api(stack.gateway_url) as api:
        yield api


def settings_of(stack: Stack, **overrides: Any) -> Settings:
    given = {name.removeprefix("LOCKSTEP_").lower(): value for name, value in stack.env.items()}
    return Settings.model_validate({**given, "port": 0, **overrides})


@asynccontextmanager
async def notification(stack: Stack, **overrides: Any) -> AsyncIterator[str]:
    """A further notification process, in this one; its URL."""
    runner = web.AppRunner(build_app(settings_of(stack, **overrides)), shutdown_timeout=5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with open_api(url) as api:

            async def ready() -> bool:
                return (await api.call("GET", "/readyz")).status == 200

            await eventually(ready, 60)
        yield url
    finally:
        await runner.cleanup()


def cursor(tokens: Tokens, heads: Any, seq: int) -> str:
    return Cursor(heads["epoch"], {tokens.namespace_id: seq}).encode()


async def test_heads_come_first_then_each_change_with_its_rows_and_a_cursor(api: Api) -> None:
    tokens = await api.register()
    mine = api.of(tokens)
    async with mine.events() as stream:
        assert stream.reply.headers["Content-Type"].startswith("text/event-stream")
        assert stream.reply.headers["X-Accel-Buffering"] == "no"
        heads = (await stream.next()).data
        assert heads["heads"] == {tokens.namespace_id: 0}
        for seq, name in enumerate(("a", "b"), start=1):
            row = await mine.make_folder(tokens.namespace_id, name)
            pushed = await stream.next("changes")
            assert (pushed.data["from_seq"], pushed.data["to_seq"]) == (seq - 1, seq)
            assert [(one["id"], one["name"]) for one in pushed.data["rows"]] == [(row["id"], name)]
            assert pushed.id == cursor(tokens, heads, seq)
        page = await mine.call("GET", f"/v1/sync?cursor={cursor(tokens, heads, 2)}")
        assert page.body["items"] == []


async def test_every_device_of_the_account_is_pushed_and_nobody_else(api: Api) -> None:
    email = new_email()
    phone, laptop, stranger = await api.register(email, "phone"), await api.login(email), await api.register()
    async with api.of(laptop).events() as mine, api.of(stranger).events() as theirs:
        await mine.next("heads")
        await theirs.next("heads")
        await api.of(phone).make_folder(phone.namespace_id, "secret")
        assert (await mine.next("changes")).data["rows"][0]["device"] == "phone"
        await api.of(stranger).make_folder(stranger.namespace_id, "own")
        assert (await theirs.next()).data["rows"][0]["name"] == "own"


async def test_missed_rows_are_sent_to_a_cursor_and_the_same_row_only_in_its_latest_state(api: Api) -> None:
    tokens = await api.register()
    mine = api.of(tokens)
    async with mine.events() as stream:
        heads = (await stream.next("heads")).data
    folder = await mine.make_folder(tokens.namespace_id, "a")
    await mine.make_folder(tokens.namespace_id, "b")
    move = {
        "expect_parent_id": tokens.namespace_id,
        "expect_name": "a",
        "parent_id": tokens.namespace_id,
        "name": "c",
    }
    assert (await mine.call("PATCH", f"/v1/files/{folder['id']}", move)).status == 200
    for headers, path in (({"Last-Event-ID": cursor(tokens, heads, 0)}, ""), ({}, cursor(tokens, heads, 0))):
        client = mine if not path else Api(mine.session, mine.url, mine.token)
        async with _events(client, path, headers) as stream:
            assert (await stream.next()).data["heads"] == {tokens.namespace_id: 3}
            missed = await stream.next("changes")
            assert (missed.data["from_seq"], missed.data["to_seq"]) == (0, 3)
            assert [row["name"] for row in missed.data["rows"]] == ["b", "c"]
            assert missed.id == cursor(tokens, heads, 3)


@asynccontextmanager
async def _events(client: Api, cursor_query: str, headers: dict[str, str]) -> AsyncIterator[Stream]:
    if not cursor_query:
        async with client.events(**headers) as stream:
            yield stream
        return
    url = f"{client.url}/v1/events?cursor={cursor_query}"
    async with client.session.get(url, headers={"Authorization": f"Bearer {client.token}"}) as reply:
        yield Stream(reply)


@pytest.mark.parametrize("last_event_id", ["garbage", "ahead", "other epoch"])
async def test_a_cursor_that_does_not_fit_gets_the_heads_only(api: Api, last_event_id: str) -> None:
    tokens = await api.register()
    mine = api.of(tokens)
    await mine.make_folder(tokens.namespace_id, "a")
    async with mine.events() as stream:
        heads = (await stream.next("heads")).data
    sent = {
        "garbage": "garbage",
        "ahead": cursor(tokens, heads, 99),
        "other epoch": cursor(tokens, {"epoch": heads["epoch"] + 1}, 0),
    }[last_event_id]
    async with mine.events(**{"Last-Event-ID": sent}) as stream:
        await stream.next("heads")
        await mine.make_folder(tokens.namespace_id, "b")
        assert (await stream.next("changes")).data["from_seq"] == 1


async def test_an_upload_is_reported_and_its_commit_is_a_change(api: Api) -> None:
    tokens = await api.register()
    mine = api.of(tokens)
    async with mine.events() as stream:
        await stream.next("heads")
        await mine.upload(tokens.namespace_id, "a.txt", b"content of the file")
        states = [(await stream.next("upload")).data["state"]]
        assert (await stream.next("changes")).data["rows"][0]["name"] == "a.txt"
        states.append((await stream.next("upload")).data["state"])
    assert states[0] == "open"
    assert states[-1] == "committed"


async def test_a_revoked_device_is_told_and_its_stream_ends(api: Api) -> None:
    email = new_email()
    phone, laptop = await api.register(email, "phone"), await api.login(email, "laptop")
    async with api.of(phone).events() as ended, api.of(laptop).events() as goes_on:
        await ended.next("heads")
        await goes_on.next("heads")
        assert (await api.of(laptop).call("DELETE", f"/v1/devices/{phone.device_id}")).status == 204
        assert (await ended.next()).data == {"device_id": phone.device_id}
        with pytest.raises(EOFError):
            await ended.next()
        await api.of(laptop).make_folder(laptop.namespace_id, "a")
        await goes_on.next("changes")


async def test_a_device_whose_revocation_was_not_heard_of_is_found_by_the_regular_look(
    api: Api, stack: Stack
) -> None:
    tokens = await api.register()
    async with (
        notification(stack, push_recheck=0.2, push_heartbeat=0.1) as url,
        open_api(url) as direct,
        direct.of(tokens).events() as stream,
        open_database(settings_of(stack)) as database,
    ):
        await stream.next("heads")
        await database[DEVICES].delete_one({"_id": tokens.device_id})
        assert (await stream.next()).event == "revoked"


async def test_silence_is_filled_with_comments(api: Api, stack: Stack) -> None:
    tokens = await api.register()
    async with (
        notification(stack, push_heartbeat=0.05) as url,
        open_api(url) as direct,
        direct.of(tokens).events() as stream,
    ):
        await stream.next("heads")
        async with asyncio.timeout(10):
            assert await stream.reply.content.readline() == b":\n"


async def test_a_slow_reader_is_told_to_read_the_feed_and_others_lose_nothing(api: Api, stack: Stack) -> None:
    tokens = await api.register()
    events = [large(seq, tokens) for seq in range(1, 151)]
    async with AsyncExitStack() as exit_stack:
        url = await exit_stack.enter_async_context(notification(stack, push_queue_events=16))
        direct = await exit_stack.enter_async_context(open_api(url))
        bus = await exit_stack.enter_async_context(open_bus(settings_of(stack), service="test"))
        await asyncio.wait_for(bus.wait_ready(), 30)
        fast = await exit_stack.enter_async_context(direct.of(tokens).events())
        slow = await exit_stack.enter_async_context(slow_reader(url, tokens))
        await fast.next("heads")
        await read_until(slow, b"event: heads")
        for event in events:
            await bus.publish(wrap(event, source="test"), event.routing_key())
            assert (await fast.next("changes")).data["to_seq"] == event.last_seq
        async with asyncio.timeout(30):
            text = await read_until(slow, b"event: resync\n")
        assert text.count(b"event: changes") < len(events)
        metrics = (await direct.call("GET", "/metrics")).body.decode()
        assert "lockstep_push_connections 2.0" in metrics


def large(seq: int, tokens: Tokens) -> FileCommitted:
    """A commit of some 150 KB, so that few of them fill what lies between server and reader."""
    event = committed(seq, "n" * 200, tokens.namespace_id)
    return event.model_copy(update={"user_id": tokens.user_id, "changes": event.changes * 300})


@asynccontextmanager
async def slow_reader(url: str, tokens: Tokens) -> AsyncIterator[asyncio.StreamReader]:
    """A connection whose client takes bytes only when the test reads them."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=32 * 1024)
    request = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tokens.access_token}\r\n\r\n"
    writer.write(request.encode())
    try:
        yield reader
    finally:
        writer.close()


async def read_until(reader: asyncio.StreamReader, text: bytes) -> bytes:
    found = b""
    while text not in found:
        chunk = await reader.read(65536)
        assert chunk, found[-1000:]
        found += chunk
    return found


async def test_a_client_that_goes_away_is_let_go_through_the_gateway(api: Api, stack: Stack) -> None:
    tokens = await api.register()

    async def connections() -> float:
        reply = await Api(api.session, stack.url("notification")).call("GET", "/metrics")
        (line,) = [
            one for one in reply.body.decode().splitlines() if one.startswith("lockstep_push_connections ")
        ]
        return float(line.split()[1])

    before = await connections()
    async with (
        aiohttp.ClientSession() as session,
        Api(session, api.url, tokens.access_token).events() as stream,
    ):
        await stream.next("heads")
        assert await connections() == before + 1

    async def is_let_go() -> bool:
        await api.of(tokens).make_folder(tokens.namespace_id, new_id())
        return await connections() <= before

    await eventually(is_let_go, 30, every=0.5)


async def test_a_stop_of_the_service_ends_streams_and_the_next_connection_works(
    api: Api, stack: Stack
) -> None:
    tokens = await api.register()
    mine = api.of(tokens)
    async with mine.events() as stream:
        await stream.next("heads")
        await asyncio.to_thread(stack.restart, "notification")
        with pytest.raises((EOFError, aiohttp.ClientPayloadError)):
            await stream.next()
    async with mine.events() as stream:
        await stream.next("heads")
        await mine.make_folder(tokens.namespace_id, "a")
        await stream.next("changes")


async def test_out_of_order_events_are_sent_as_they_come_and_ids_wait_for_the_gap(
    api: Api, stack: Stack
) -> None:
    tokens = await api.register()

    def moved(seq: int) -> FileMoved:
        return FileMoved(namespace_id=tokens.namespace_id, first_seq=seq, last_seq=seq, changes=[])

    async with api.of(tokens).events() as stream, open_bus(settings_of(stack), service="test") as bus:
        heads = (await stream.next("heads")).data
        await asyncio.wait_for(bus.wait_ready(), 30)
        for seq in (2, 1):
            await bus.publish(wrap(moved(seq), source="test"), moved(seq).routing_key())
        late, first = await stream.next("changes"), await stream.next("changes")
        assert (late.data["from_seq"], late.id) == (1, None)
        assert (first.data["from_seq"], first.id) == (0, cursor(tokens, heads, 1))


async def test_after_a_gap_on_the_bus_the_heads_are_sent(api: Api, stack: Stack, backends: Backends) -> None:
    if not backends.can_fail:
        pytest.skip("these backends cannot be stopped: they were given by URL")
    tokens = await api.register()
    mine = api.of(tokens)
    async with mine.events() as stream:
        await stream.next("heads")
        await asyncio.to_thread(backends.stop, "rabbitmq")
        try:
            await mine.make_folder(tokens.namespace_id, "made while the broker is away")
        finally:
            await asyncio.to_thread(backends.start, "rabbitmq")
        assert (await stream.next("heads", seconds=60)).data["heads"] == {tokens.namespace_id: 1}

        async def pushed_again() -> bool:
            await mine.make_folder(tokens.namespace_id, new_id())
            try:
                await stream.next("changes", seconds=1)
            except TimeoutError:
                return False
            return True

        await eventually(pushed_again, 60)
    await asyncio.to_thread(stack.ensure_running)
