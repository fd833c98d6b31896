"""Events of the real services: repeated, replayed, and made while the broker is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from libs.contracts.api import Tokens
from libs.contracts.events import DeviceLinked, Envelope, unwrap
from libs.messaging.rabbit import RabbitBus, open_bus
from libs.runtime.logs import current_request_id
from tests.support.backends import Backends
from tests.support.bus_world import World, stack_bus_settings
from tests.support.gateway_client import PASSWORD, Api, new_email, open_api
from tests.support.stack import Stack
from tests.support.waiting import eventually


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    async with open_api(stack.gateway_url) as api:
        yield api


@asynccontextmanager
async def recorded(stack: Stack, namespace_id: str) -> AsyncIterator[tuple[RabbitBus, list[Envelope]]]:
    """Record what is published about a namespace."""
    events: list[Envelope] = []

    async def record(envelope: Envelope) -> None:
        events.append(envelope)

    async with open_bus(stack_bus_settings(stack.env), service="test") as bus:
        await asyncio.wait_for(bus.wait_ready(), 30)
        await bus.listen((f"*.*.{namespace_id}",), record)
        yield bus, events


async def state(api: Api, tokens: Tokens) -> dict[str, Any]:
    """What a client can see of its account."""
    paths = ("/v1/sync", "/v1/usage", "/v1/trash", "/v1/devices", "/v1/uploads?state=all")
    bodies = {path: (await api.of(tokens).call("GET", path)).body for path in paths}
    for item in bodies["/v1/devices"]["items"]:
        item.pop("last_seen")
    return bodies


async def test_events_twice_late_out_of_order_and_replayed_change_nothing_more(
    api: Api, stack: Stack
) -> None:
    email = new_email()
    tokens = await api.register(email)
    mine, root = api.of(tokens), tokens.namespace_id
    async with recorded(stack, root) as (bus, events):
        other = await api.login(email, "other")
        row = await mine.upload(root, "a.txt", b"first content")
        await mine.upload(root, "b.txt", b"second content")
        folder = await mine.make_folder(root, "folder")
        move = {"expect_parent_id": root, "expect_name": "a.txt", "parent_id": folder["id"], "name": "c.txt"}
        assert (await mine.call("PATCH", f"/v1/files/{row['id']}", move)).status == 200
        delete = f"/v1/files/{row['id']}?version_id={row['version_id']}"
        assert (await mine.call("DELETE", delete)).status == 200
        assert (await mine.call("DELETE", f"/v1/devices/{other.device_id}")).status == 204

        async def all_came() -> bool:
            return {event.type.split(".")[-2] for event in events} >= {
                "moved",
                "deleted",
                "linked",
                "revoked",
            }

        await eventually(all_came, 15)
        before, again = await state(api, tokens), [*reversed(events), *events]
        for envelope in again:
            data = unwrap(envelope)
            assert data is not None
            await bus.publish(envelope, data.routing_key())
        # What is committed after them went through the same queues behind them.
        marker = await mine.upload(root, "marker.txt", b"marker")
        after = await state(api, tokens)
    old, new = before["/v1/sync"]["items"], after["/v1/sync"]["items"]
    assert new == [*old, marker]
    assert marker["seq"] == max(item["seq"] for item in old) + 1
    assert after["/v1/trash"] == before["/v1/trash"]
    assert after["/v1/devices"] == before["/v1/devices"]
    states = {item["id"]: item["state"] for item in after["/v1/uploads?state=all"]["items"]}
    assert {item["id"]: states[item["id"]] for item in before["/v1/uploads?state=all"]["items"]} == {
        item["id"]: item["state"] for item in before["/v1/uploads?state=all"]["items"]
    }
    world = World(stack_bus_settings(stack.env))
    for service in ("upload", "metadata", "janitor"):
        assert await world.dead(service) == []


async def test_a_request_id_goes_from_the_call_through_the_event_to_the_handler(
    api: Api, stack: Stack
) -> None:
    email, heard = new_email(), []
    tokens = await api.register(email)

    async def on_event(envelope: Envelope) -> None:
        if envelope.type == DeviceLinked.type_name():
            heard.append((envelope.requestid, current_request_id()))

    async with open_bus(stack_bus_settings(stack.env), service="test") as bus:
        await asyncio.wait_for(bus.wait_ready(), 30)
        await bus.listen((f"*.*.{tokens.namespace_id}",), on_event)
        body = {"email": email, "password": PASSWORD, "device_name": "phone"}
        await api.call("POST", "/v1/auth/login", body, **{"X-Request-ID": "request-42"})

        async def is_heard() -> bool:
            return bool(heard)

        await eventually(is_heard, 15)
    assert heard == [("request-42", "request-42")]


async def test_a_commit_asked_for_while_the_broker_is_down_is_done_when_it_is_back(
    api: Api, stack: Stack, backends: Backends
) -> None:
    if not backends.can_fail:
        pytest.skip("these backends cannot be stopped: they were given by URL")
    tokens = await api.register()
    mine, root = api.of(tokens), tokens.namespace_id
    await asyncio.to_thread(backends.stop, "rabbitmq")
    try:
        folder = await mine.make_folder(root, "made without the broker")
        session = await mine.begin(b"content")
        target = {"parent_id": folder["id"], "name": "a.txt"}
        reply = await mine.call("POST", f"/v1/uploads/{session['id']}/complete", target)
        assert (reply.status, reply.body["state"]) == (202, "committing")
    finally:
        await asyncio.to_thread(backends.start, "rabbitmq")

    async def is_committed() -> bool:
        found = await mine.call("GET", f"/v1/uploads/{session['id']}")
        return bool(found.body["state"] == "committed")

    await eventually(is_committed, 60)
    listing = await mine.call("GET", f"/v1/files?parent={folder['id']}")
    assert [item["name"] for item in listing.body["items"]] == ["a.txt"]
    await asyncio.to_thread(stack.ensure_running)
