"""The broker goes away and comes back: nothing confirmed or written is lost, and what listens is told."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from libs.contracts.errors import UnavailableError
from libs.contracts.events import DeviceLinked, Envelope, UploadCompleted
from libs.contracts.ids import new_id
from libs.mongo.client import Database, open_database
from libs.mongo.names import outbox_of
from libs.mongo.outbox import Outbox, Transaction
from libs.runtime.logs import bind_request
from libs.runtime.settings import MongoSettings
from libs.runtime.tasks import running
from tests.support.backends import Backends
from tests.support.bus_world import Seen, World, bus_settings, committed, completed, publish
from tests.support.waiting import eventually

SERVICE = "metadata"


@pytest.fixture
async def world(backends: Backends) -> AsyncIterator[World]:
    if not backends.can_fail:
        pytest.skip("these backends cannot be stopped: they were given by URL")
    world = World(bus_settings(backends))
    yield world
    backends.start("rabbitmq")
    await world.remove()


@pytest.fixture
async def database(backends: Backends) -> AsyncIterator[Database]:
    settings = MongoSettings(
        mongo_url=SecretStr(backends.mongo_url), mongo_database=f"t{secrets.token_hex(5)}"
    )
    async with open_database(settings) as database:
        yield database
        await database.client.drop_database(settings.mongo_database)


async def restart(backends: Backends) -> None:
    """Kill the broker and start it again.

    It writes down which quorum queues exist every half second: one that is younger than that at a kill
    never answers again (seen with RabbitMQ 3.10). Nothing shows when it has done so.
    """
    await asyncio.sleep(2)
    await asyncio.to_thread(backends.kill, "rabbitmq")
    await asyncio.to_thread(backends.start, "rabbitmq")


async def test_confirmed_events_survive_a_broker_that_is_killed_and_consuming_goes_on(
    world: World, backends: Backends
) -> None:
    seen = Seen()
    async with world.bus() as bus:
        ids = [await publish(bus, completed()) for _ in range(20)]
        await restart(backends)
        await asyncio.wait_for(bus.wait_ready(), 60)
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        await eventually(seen.count(len(ids)), 30)
        await restart(backends)

        async def published_again() -> bool:
            try:
                await publish(bus, completed())
            except UnavailableError:
                return False
            return True

        await eventually(published_again, 60)
        await eventually(seen.count(len(ids) + 1), 30)


async def test_a_change_made_while_the_broker_is_down_is_announced_when_it_is_back(
    world: World, backends: Backends, database: Database
) -> None:
    seen = Seen()
    event = DeviceLinked(namespace_id=new_id(), user_id=new_id(), device_id=new_id(), device_name="laptop")

    async def change(transaction: Transaction) -> None:
        await database["things"].insert_one({"_id": 1}, session=transaction.session)
        await transaction.emit(event)

    async with world.bus() as bus:
        await bus.subscribe("example", ("device.linked.*",), {DeviceLinked: seen.handle}, probe=seen.probe)
        outbox = Outbox(database, "test", bus, world.settings)
        async with running(outbox.run):
            await asyncio.to_thread(backends.stop, "rabbitmq")
            bind_request("request-7")
            await outbox.transact(change)
            assert await database["things"].count_documents({}) == 1
            assert await database[outbox_of("test")].count_documents({}) == 1
            with pytest.raises(UnavailableError):
                await bus.ping()
            await asyncio.to_thread(backends.start, "rabbitmq")
            await eventually(seen.count(1), 60)

            async def forgotten() -> bool:
                return await database[outbox_of("test")].count_documents({}) == 0

            await eventually(forgotten, 10)
    assert seen.events == [event]
    assert seen.request_ids == ["request-7"]


async def test_a_change_that_is_rolled_back_is_not_announced(world: World, database: Database) -> None:
    async def change(transaction: Transaction) -> None:
        await database["things"].insert_one({"_id": 1}, session=transaction.session)
        await transaction.emit(completed())
        raise ValueError("changed my mind")

    async with world.bus() as bus:
        outbox = Outbox(database, "test", bus, world.settings)
        with pytest.raises(ValueError):
            await outbox.transact(change)
        assert await outbox.sweep() == 0
    assert await database["things"].count_documents({}) == 0
    assert await world.waiting(world.topology.queue(SERVICE)) == 0


async def test_a_listener_is_told_of_the_gap_and_keeps_its_bindings(world: World, backends: Backends) -> None:
    gaps, heard = [], []

    async def on_gap() -> None:
        gaps.append(1)
        raise UnavailableError("the database is away too")

    async def on_event(envelope: Envelope) -> None:
        heard.append(envelope.type)

    async def has_heard() -> bool:
        return bool(heard)

    event = committed()
    async with world.bus() as bus:
        listener = await bus.listen((), on_event, on_gap=on_gap)
        await listener.bind(f"*.*.{event.namespace_id}")
        await publish(bus, event)
        await eventually(has_heard, 10)
        heard.clear()
        await restart(backends)

        async def is_told() -> bool:
            return bool(gaps)

        await eventually(is_told, 60)
        await asyncio.wait_for(bus.wait_ready(), 30)
        await publish(bus, event)
        await publish(bus, committed())
        await eventually(has_heard, 10)
        await listener.unbind(f"*.*.{event.namespace_id}")
        await publish(bus, event)
        await listener.bind("device.linked.*")
        marker = DeviceLinked(namespace_id=new_id(), device_name="marker")
        await publish(bus, marker)

        async def marker_heard() -> bool:
            return marker.type_name() in heard

        await eventually(marker_heard, 10)
    assert heard == [event.type_name(), marker.type_name()]


async def test_the_documented_subscriber_gets_the_events_of_its_absence(world: World) -> None:
    async with world.bus() as bus:
        async with subscriber(world) as lines:
            first = asyncio.ensure_future(lines.readline())
            while not first.done():
                # Its queue may be there before its bindings are: what is published then is not for it.
                await publish(bus, committed(4, "first.txt"))
                await asyncio.wait([first], timeout=1)
            assert await first == b"first.txt: 3 bytes, seq 4\n"
        await publish(bus, committed(5, "second.txt"))
        async with subscriber(world) as lines, asyncio.timeout(20):
            while (line := await lines.readline()) == b"first.txt: 3 bytes, seq 4\n":
                pass
            assert line == b"second.txt: 3 bytes, seq 5\n"


@asynccontextmanager
async def subscriber(world: World) -> AsyncIterator[asyncio.StreamReader]:
    """Run the example and stop it gracefully."""
    env = {
        **os.environ,
        "LOCKSTEP_AMQP_URL": world.settings.amqp_url.get_secret_value(),
        "LOCKSTEP_AMQP_PREFIX": world.settings.amqp_prefix,
        "LOCKSTEP_AMQP_RETRY_DELAYS": str(list(world.settings.amqp_retry_delays)),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.subscriber", env=env, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
