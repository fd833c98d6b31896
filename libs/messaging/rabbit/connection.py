"""Connecting, declaring the topology, and the translation of the driver's errors."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from libs.contracts.errors import UnavailableError
from libs.messaging.topology import BINDINGS, Topology
from libs.runtime.settings import BusSettings

AWAY: Final = (*CONNECTION_EXCEPTIONS, asyncio.TimeoutError)
"""What the driver raises when the broker does not answer, or refuses."""

_CONNECT_SECONDS: Final = 10
_BROKERS_HEADERS: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into `UnavailableError`."""
    try:
        yield
    except AWAY as error:
        raise away() from error


def away() -> UnavailableError:
    """Return the error that says that the broker does not answer."""
    return UnavailableError("The message broker does not answer", retry_after=2)


@asynccontextmanager
async def connected(settings: BusSettings) -> AsyncIterator[AbstractConnection]:
    """Connect once, without coming back after a loss. Raises `UnavailableError`."""
    with translated():
        connection = await aio_pika.connect(settings.amqp_url.get_secret_value(), timeout=_CONNECT_SECONDS)
    async with connection:
        yield connection


async def open_publisher(connection: AbstractConnection) -> AbstractChannel:
    """Open a channel on which the broker confirms, and refuses what no queue takes when told to."""
    return await connection.channel(publisher_confirms=True, on_return_raises=True)


async def declare(channel: AbstractChannel, topology: Topology, delays: tuple[float, ...]) -> None:
    """Declare every durable exchange, queue and binding; repeating it changes nothing.

    Every process declares all of it, so no event is published before its consumers' queues are
    there to keep it.
    """
    await channel.declare_exchange(topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True)
    await channel.declare_exchange(topology.dead_exchange, aio_pika.ExchangeType.DIRECT, durable=True)
    for service, keys in BINDINGS.items():
        await declare_service(channel, topology, service, keys)
    for delay in delays:
        exchange = await channel.declare_exchange(
            topology.retry_exchange(delay), aio_pika.ExchangeType.FANOUT, durable=True
        )
        queue = await channel.declare_queue(
            topology.retry_queue(delay), durable=True, arguments=dict(topology.retry_arguments(delay))
        )
        await queue.bind(exchange)


async def declare_service(
    channel: AbstractChannel, topology: Topology, service: str, keys: tuple[str, ...]
) -> None:
    """Declare a service's queue with its bindings, and the queue of its dead letters."""
    dead_name = topology.dead_queue(service)
    dead_queue = await channel.declare_queue(dead_name, durable=True, arguments={"x-queue-type": "quorum"})
    await dead_queue.bind(topology.dead_exchange, dead_name)
    queue = await channel.declare_queue(
        topology.queue(service), durable=True, arguments=dict(topology.queue_arguments(service))
    )
    for key in keys:
        await queue.bind(topology.exchange, key)


def message_of(body: bytes, *, event_id: str, event_type: str) -> aio_pika.Message:
    """Return an event as a persistent message."""
    return aio_pika.Message(
        body,
        content_type="application/cloudevents+json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=event_id,
        type=event_type,
    )


def copy_of(message: AbstractIncomingMessage, headers: dict[str, Any]) -> aio_pika.Message:
    """Return the message for publishing again, with other headers and without the broker's own."""
    return aio_pika.Message(
        message.body,
        headers={name: value for name, value in headers.items() if not name.startswith(_BROKERS_HEADERS)},
        content_type=message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        type=message.type,
    )
