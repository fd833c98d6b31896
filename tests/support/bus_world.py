"""A bus of its own on the real broker, and what tests look at on it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aio_pika
from pydantic import SecretStr

from libs.contracts.errors import UnavailableError
from libs.contracts.events import EventData, FileCommitted, UploadCompleted, wrap
from libs.contracts.ids import new_id
from libs.contracts.tree import Kind, NodeRow
from libs.messaging.dlq import dead_letters
from libs.messaging.rabbit import RabbitBus, open_bus
from libs.messaging.topology import BINDINGS, Topology
from libs.runtime.logs import current_request_id
from libs.runtime.settings import BusSettings
from tests.support.backends import Backends

DELAYS = (0.05, 0.1)


@dataclass
class Seen:
    """What handlers saw, and whether the backend that they need answers."""

    events: list[Any] = field(default_factory=list)
    request_ids: list[str | None] = field(default_factory=list)
    away: bool = False
    probes: int = 0

    async def handle(self, event: EventData) -> None:
        if self.away:
            raise UnavailableError
        self.events.append(event)
        self.request_ids.append(current_request_id())

    async def probe(self) -> None:
        self.probes += 1
        if self.away:
            raise UnavailableError

    def count(self, number: int) -> Any:
        """Return a check for `eventually`: at least so many were handled."""

        async def check() -> bool:
            return len(self.events) >= number

        return check


class World:
    """One prefix on the broker."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self.topology = Topology(settings.amqp_prefix)

    @asynccontextmanager
    async def bus(self, service: str = "test") -> AsyncIterator[RabbitBus]:
        """A process' bus, connected."""
        async with open_bus(self.settings, service=service) as bus:
            await asyncio.wait_for(bus.wait_ready(), 30)
            yield bus

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Any]:
        """A plain channel, for what the bus does not offer."""
        connection = await aio_pika.connect(self.settings.amqp_url.get_secret_value())
        async with connection:
            yield await connection.channel()

    async def waiting(self, queue: str) -> int:
        """How many messages are ready in a queue; asked by taking one, because counts lag behind."""
        async with self.channel() as channel:
            first = await (await channel.get_queue(queue, ensure=False)).get(no_ack=False, fail=False)
            return 0 if first is None else 1 + int(first.message_count or 0)

    async def put(self, service: str, body: bytes) -> None:
        """Put a raw message into a service's queue."""
        async with self.channel() as channel:
            message = aio_pika.Message(body, message_id=secrets.token_hex(4), type="raw")
            await channel.default_exchange.publish(message, self.topology.queue(service))

    async def dead(self, service: str) -> list[dict[str, Any]]:
        """The dead letters of a service."""
        async with dead_letters(self.settings) as letters:
            return await letters.show(service)

    async def remove(self) -> None:
        """Delete what this world declared on the broker."""
        async with self.channel() as channel:
            for service in (*BINDINGS, "example"):
                await channel.queue_delete(self.topology.queue(service))
                await channel.queue_delete(self.topology.dead_queue(service))
            for delay in DELAYS:
                await channel.queue_delete(self.topology.retry_queue(delay))
                await channel.exchange_delete(self.topology.retry_exchange(delay))
            await channel.exchange_delete(self.topology.exchange)
            await channel.exchange_delete(self.topology.dead_exchange)


def bus_settings(backends: Backends) -> BusSettings:
    """Settings of a bus that shares nothing with another."""
    return BusSettings(
        amqp_url=SecretStr(backends.amqp_url),
        amqp_prefix=f"t{secrets.token_hex(5)}",
        amqp_retry_delays=DELAYS,
        outbox_sweep_interval=0.1,
        outbox_sweep_age=0.1,
    )


def stack_bus_settings(env: Mapping[str, str]) -> BusSettings:
    """Settings of the bus of a running stack."""
    return BusSettings(amqp_url=SecretStr(env["LOCKSTEP_AMQP_URL"]), amqp_prefix=env["LOCKSTEP_AMQP_PREFIX"])


def committed(seq: int = 1, name: str = "a.txt", namespace_id: str | None = None) -> FileCommitted:
    """A commit of one file."""
    namespace_id = namespace_id or new_id()
    row = NodeRow(
        id=new_id(), namespace_id=namespace_id, parent_id=namespace_id, name=name, kind=Kind.FILE,
        size=3, seq=seq, changed_at=datetime.now(UTC),
    )  # fmt: skip
    return FileCommitted(namespace_id=namespace_id, first_seq=seq, last_seq=seq, changes=[row])


def completed() -> UploadCompleted:
    """A wish to commit nothing."""
    return UploadCompleted(namespace_id=new_id(), upload_id=new_id(), attempt=1, device_name="d", entries=[])


async def publish(bus: RabbitBus, event: EventData, request_id: str | None = None) -> str:
    """Publish an event as a service would and return its id."""
    envelope = wrap(event, source="test", request_id=request_id)
    await bus.publish(envelope, event.routing_key())
    return envelope.id
