"""Acknowledging, retries, dead letters and pauses, on a real broker."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.contracts.errors import ConflictError, UnavailableError
from libs.contracts.events import EventData, FileCommitted, UploadCompleted, wrap
from libs.messaging.dlq import dead_letters
from tests.support.backends import Backends
from tests.support.bus_world import DELAYS, Seen, World, bus_settings, committed, completed, publish
from tests.support.waiting import eventually

SERVICE = "metadata"


@pytest.fixture
async def world(backends: Backends) -> AsyncIterator[World]:
    world = World(bus_settings(backends))
    yield world
    await world.remove()


async def test_an_event_reaches_its_handler_with_the_request_id_and_leaves_the_queue(world: World) -> None:
    seen = Seen()
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        await publish(bus, completed(), "request-1")
        await eventually(seen.count(1), 10)
        assert seen.request_ids == ["request-1"]
    assert await world.waiting(world.topology.queue(SERVICE)) == 0


async def test_events_of_a_stopped_consumer_wait_for_it(world: World) -> None:
    seen = Seen()
    async with world.bus() as bus:
        await publish(bus, completed())
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        await eventually(seen.count(1), 10)


async def test_events_twice_late_and_out_of_order_change_nothing_more(world: World) -> None:
    latest: dict[str, int] = {}
    calls = 0

    async def project(event: FileCommitted) -> None:
        nonlocal calls
        calls += 1
        latest[event.namespace_id] = max(latest.get(event.namespace_id, 0), event.last_seq)

    first = committed(1)
    events = [committed(seq, namespace_id=first.namespace_id) for seq in (3, 1, 2)]
    async with world.bus() as bus:
        await bus.consume("janitor", {FileCommitted: project}, probe=Seen().probe)
        for envelope in [wrap(event, source="test") for event in events]:
            for _ in range(2):
                await bus.publish(envelope, f"file.committed.{first.namespace_id}")

        async def all_came() -> bool:
            return calls == 6

        await eventually(all_came, 10)
    assert latest == {first.namespace_id: 3}


async def test_a_handler_that_fails_is_tried_again_after_delays_and_then_the_event_is_a_dead_letter(
    world: World,
) -> None:
    calls = 0

    async def fail(event: EventData) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("broken")

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: fail}, probe=Seen().probe)
        event_id = await publish(bus, completed())

        async def is_dead() -> bool:
            return await world.waiting(world.topology.dead_queue(SERVICE)) == 1

        await eventually(is_dead, 15)
    assert calls == 1 + len(DELAYS)
    (letter,) = await world.dead(SERVICE)
    assert letter["id"] == event_id
    assert letter["attempts"] == calls
    assert "broken" in letter["error"]


async def test_a_handler_that_recovers_is_done_with_once(world: World) -> None:
    seen, failures = Seen(), iter([True])

    async def fail_once(event: EventData) -> None:
        if next(failures, False):
            raise RuntimeError("once")
        await seen.handle(event)

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: fail_once}, probe=seen.probe)
        await publish(bus, completed(), "request-2")
        await eventually(seen.count(1), 10)
        assert seen.request_ids == ["request-2"]
    assert await world.dead(SERVICE) == []


@pytest.mark.parametrize(
    "body", [b"no json", b'{"specversion":"1.0"}', b"\xff\x00"], ids=["text", "json", "bytes"]
)
async def test_a_poison_message_is_dead_lettered_at_once_and_the_others_go_on(
    world: World, body: bytes
) -> None:
    seen = Seen()
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        await world.put(SERVICE, body)
        await publish(bus, completed())
        await eventually(seen.count(1), 10)

        async def is_dead() -> bool:
            return await world.waiting(world.topology.dead_queue(SERVICE)) == 1

        await eventually(is_dead, 10)
    (letter,) = await world.dead(SERVICE)
    assert letter["attempts"] == 1


async def test_an_error_that_a_repeat_cannot_help_is_dead_lettered_at_once(world: World) -> None:
    calls = 0

    async def refuse(event: EventData) -> None:
        nonlocal calls
        calls += 1
        raise ConflictError("never")

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: refuse}, probe=Seen().probe)
        await publish(bus, completed())

        async def is_dead() -> bool:
            return await world.waiting(world.topology.dead_queue(SERVICE)) == 1

        await eventually(is_dead, 10)
    assert calls == 1


async def test_dead_letters_are_listed_without_being_taken_and_replayed_with_attempts_forgotten(
    world: World,
) -> None:
    seen, broken = Seen(), True

    async def handle(event: EventData) -> None:
        if broken:
            raise ConflictError("broken for now")
        await seen.handle(event)

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: handle}, probe=seen.probe)
        ids = [await publish(bus, completed(), f"request-{n}") for n in range(3)]

        async def are_dead() -> bool:
            return await world.waiting(world.topology.dead_queue(SERVICE)) == 3

        await eventually(are_dead, 10)
        assert {letter["id"] for letter in await world.dead(SERVICE)} == set(ids)
        assert {letter["id"] for letter in await world.dead(SERVICE)} == set(ids)
        broken = False
        async with dead_letters(world.settings) as letters:
            assert (await letters.counts())[SERVICE] == 3
            assert await letters.replay(SERVICE, ids[1]) == 1
            await eventually(seen.count(1), 10)
            assert seen.request_ids == ["request-1"]
            assert await letters.replay(SERVICE) == 2
            await eventually(seen.count(3), 10)
    assert await world.dead(SERVICE) == []


async def test_consuming_pauses_while_a_backend_is_away_and_no_attempt_is_counted(world: World) -> None:
    seen = Seen(away=True)
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        for _ in range(30):
            await publish(bus, completed())

        async def probed_often() -> bool:
            return seen.probes > len(DELAYS) + 1

        await eventually(probed_often, 15)
        assert await world.waiting(world.topology.queue(SERVICE)) >= 30 - world.settings.amqp_prefetch
        assert not seen.events
        seen.away = False
        await eventually(seen.count(30), 15)
    assert len(seen.events) == 30
    assert await world.dead(SERVICE) == []


async def test_a_stop_while_a_backend_is_away_leaves_every_message_with_the_broker(world: World) -> None:
    seen = Seen(away=True)
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        for _ in range(3):
            await publish(bus, completed())

        async def probed() -> bool:
            return seen.probes > 0

        await eventually(probed, 10)
    seen.away = False
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        await eventually(seen.count(3), 10)
    assert len(seen.events) == 3


async def test_a_graceful_stop_lets_running_handlers_end_and_takes_no_more(world: World) -> None:
    started, go_on, ended = asyncio.Event(), asyncio.Event(), []

    async def slow(event: EventData) -> None:
        started.set()
        await go_on.wait()
        ended.append(event)

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: slow}, probe=Seen().probe)
        await publish(bus, completed())
        await asyncio.wait_for(started.wait(), 10)
        asyncio.get_running_loop().call_later(0.2, go_on.set)
    assert len(ended) == 1
    assert await world.waiting(world.topology.queue(SERVICE)) == 0


async def test_a_cancelled_handler_loses_no_message(world: World) -> None:
    started, seen = asyncio.Event(), Seen()

    async def cancelled(event: EventData) -> None:
        started.set()
        raise asyncio.CancelledError

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: cancelled}, probe=seen.probe)
        await publish(bus, completed())
        await asyncio.wait_for(started.wait(), 10)
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        await eventually(seen.count(1), 10)


async def test_a_queue_that_somebody_deletes_is_declared_again_and_consumed(world: World) -> None:
    seen = Seen()
    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: seen.handle}, probe=seen.probe)
        async with world.channel() as channel:
            await channel.queue_delete(world.topology.queue(SERVICE))

        async def event_arrives() -> bool:
            try:
                await publish(bus, completed())
            except UnavailableError:  # just then it connects again
                return False
            return bool(seen.events)

        await eventually(event_arrives, 20, every=0.3)


async def test_a_failed_message_is_not_lost_when_its_retry_queue_is_gone(world: World) -> None:
    seen, failures = Seen(), iter([True])

    async def fail_once(event: EventData) -> None:
        if next(failures, False):
            raise RuntimeError("once")
        await seen.handle(event)

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: fail_once}, probe=seen.probe)
        async with world.channel() as channel:
            await channel.queue_delete(world.topology.retry_queue(DELAYS[0]))
        await publish(bus, completed())
        await eventually(seen.count(1), 20)


async def dlq(world: World, *arguments: str, **env: str) -> tuple[int, list[dict[str, object]], str]:
    """Run the command that operators run."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.messaging.dlq", *arguments,
        env={**environment(world), **env}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, [json.loads(line) for line in out.decode().splitlines()], err.decode()


def environment(world: World) -> dict[str, str]:
    return {
        "LOCKSTEP_AMQP_URL": world.settings.amqp_url.get_secret_value(),
        "LOCKSTEP_AMQP_PREFIX": world.settings.amqp_prefix,
        "LOCKSTEP_AMQP_RETRY_DELAYS": str(list(DELAYS)),
    }


async def test_the_command_lists_and_replays_dead_letters(world: World) -> None:
    seen, broken = Seen(), True

    async def handle(event: EventData) -> None:
        if broken:
            raise ConflictError("broken for now")
        await seen.handle(event)

    async with world.bus() as bus:
        await bus.consume(SERVICE, {UploadCompleted: handle}, probe=seen.probe)
        event_id = await publish(bus, completed())

        async def is_dead() -> bool:
            return bool(await world.dead(SERVICE))

        await eventually(is_dead, 10)
        code, rows, _ = await dlq(world, "list")
        assert (code, [(row["service"], row["id"]) for row in rows]) == (0, [(SERVICE, event_id)])
        broken = False
        assert (await dlq(world, "replay", "--service", SERVICE))[2] == "1 dead letter(s) replayed\n"
        await eventually(seen.count(1), 10)
    assert (await dlq(world, "list"))[1] == []


async def test_the_command_says_when_the_broker_does_not_answer(world: World) -> None:
    code, rows, err = await dlq(world, "list", LOCKSTEP_AMQP_URL="amqp://nobody:nothing@127.0.0.1:1/")
    assert (code, rows) == (1, [])
    assert "The message broker does not answer" in err
    assert "nothing" not in err


CRASHING = """
import asyncio, os, sys
from libs.contracts.events import UploadCompleted
from libs.messaging.rabbit import open_bus
from libs.runtime.settings import BusSettings

async def crash(event):
    with open(sys.argv[1], "a") as effects:
        effects.write(event.upload_id + chr(10))
    os._exit(9)

async def main():
    async with open_bus(BusSettings(), service="x") as bus:
        await bus.consume("metadata", {UploadCompleted: crash}, probe=lambda: asyncio.sleep(0))
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_consumer_that_dies_before_its_ack_leaves_the_event_to_the_next(
    world: World, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    done = set()

    async def handle(event: UploadCompleted) -> None:
        """The effect, idempotent by state: it looks at what was done before."""
        if event.upload_id not in effects.read_text().split():
            effects.write_text(f"{effects.read_text()}{event.upload_id}\n")
        done.add(event.upload_id)

    event = completed()
    async with world.bus() as bus:
        await publish(bus, event)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CRASHING, str(effects), env=environment(world)
        )
        assert await asyncio.wait_for(process.wait(), 30) == 9
        await bus.consume(SERVICE, {UploadCompleted: handle}, probe=Seen().probe)

        async def handled() -> bool:
            return event.upload_id in done

        await eventually(handled, 10)
    assert effects.read_text().split() == [event.upload_id]
