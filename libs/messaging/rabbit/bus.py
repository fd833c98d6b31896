"""The supervised connection of a process, and publishing on it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import DeliveryError

from libs.contracts.errors import UnavailableError
from libs.contracts.events import Envelope
from libs.messaging import metrics
from libs.messaging.port import Handlers, Probe, Subscription
from libs.messaging.rabbit.connection import (
    AWAY,
    away,
    connected,
    declare,
    message_of,
    open_publisher,
    translated,
)
from libs.messaging.rabbit.consumer import Consumer
from libs.messaging.rabbit.listener import Listener
from libs.messaging.topology import Topology
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger
from libs.runtime.settings import BusSettings

log = get_logger("bus")

_RECONNECT: Final = Backoff(0.2, 5.0)
_SET_UP_SECONDS: Final = 60.0
"""Until a broker that accepts a connection and then says nothing counts as away."""


class _Part(Protocol):
    """What is started anew on each connection."""

    async def start(self, channel: AbstractChannel) -> None: ...


@dataclass(frozen=True, slots=True)
class _Session:
    """One connection while it lasts; `lost` is set when it, or a channel of it, is closed."""

    connection: AbstractConnection
    lost: asyncio.Event
    publisher: AbstractChannel
    events: AbstractExchange


@asynccontextmanager
async def open_bus(settings: BusSettings, *, service: str) -> AsyncIterator["RabbitBus"]:
    """Open the bus for the lifetime of the context; it connects in the background.

    At the end running handlers may finish; what they have not acknowledged stays with the broker.
    """
    bus = RabbitBus(settings, service)
    task = asyncio.create_task(bus.supervise(), name="bus")
    try:
        yield bus
    finally:
        await bus.drain()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class RabbitBus:
    """`port.Bus` on RabbitMQ."""

    def __init__(self, settings: BusSettings, service: str) -> None:
        self._settings = settings
        self._service = service
        self.topology = Topology(settings.amqp_prefix)
        self._session: _Session | None = None
        self._ready = asyncio.Event()
        self._failures = 0
        self._parts: list[_Part] = []
        self._consumers: list[Consumer] = []

    # Connection -----------------------------------------------------------------------------

    async def supervise(self) -> None:
        """Keep a connection for ever."""
        while True:
            try:
                await self._serve()
            except (UnavailableError, *AWAY) as error:
                log.warning("bus is away", error=repr(error.__cause__ or error))
            except Exception:
                log.exception("bus failed")
            await asyncio.sleep(_RECONNECT.delay(self._failures))
            self._failures += 1

    async def _serve(self) -> None:
        """Serve on one connection until it, or a channel of it, is lost."""
        lost = asyncio.Event()
        async with connected(self._settings) as connection:
            connection.close_callbacks.add(lambda *_: lost.set())
            try:
                async with asyncio.timeout(_SET_UP_SECONDS):
                    await self._set_up(connection, lost)
                self._ready.set()
                self._failures = 0
                log.info("bus is connected")
                await lost.wait()
            finally:
                self._ready.clear()
                self._session = None

    async def _set_up(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        publisher = await open_publisher(connection)
        publisher.close_callbacks.add(lambda *_: lost.set())
        await declare(publisher, self.topology, self._settings.amqp_retry_delays)
        events = await publisher.get_exchange(self.topology.exchange, ensure=False)
        session = self._session = _Session(connection, lost, publisher, events)
        for part in self._parts:  # one that is added meanwhile is started here too
            await part.start(await self._work_channel(session))

    async def _work_channel(self, session: _Session) -> AbstractChannel:
        channel = await session.connection.channel()
        await channel.set_qos(prefetch_count=self._settings.amqp_prefetch)
        channel.close_callbacks.add(lambda *_: session.lost.set())
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda *_: session.lost.set())
        return channel

    async def ping(self) -> None:
        """Raise `UnavailableError` unless the broker is connected and all consumers run."""
        if self._session is None or not self._ready.is_set():
            raise away()

    async def wait_ready(self) -> None:
        """Return once the broker is connected and all consumers run."""
        await self._ready.wait()

    async def drain(self) -> None:
        """Stop taking messages and give running handlers a moment to end."""
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers))

    # Publishing -----------------------------------------------------------------------------

    async def publish(self, envelope: Envelope, routing_key: str) -> None:
        """See the port."""
        session = self._live()
        message = message_of(envelope.to_json(), event_id=envelope.id, event_type=envelope.type)
        with translated():
            await session.events.publish(
                message, routing_key, mandatory=False, timeout=self._settings.amqp_publish_timeout
            )
        metrics.PUBLISHED.labels(envelope.type).inc()

    async def forward(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        """Publish to an exchange other than the events' and return once a queue has it.

        Raises `UnavailableError`. When no queue took it, somebody removed one: the connection is
        made anew, which declares it.
        """
        session = self._live()
        with translated():
            target = await session.publisher.get_exchange(exchange, ensure=False)
            try:
                await target.publish(
                    message, routing_key, mandatory=True, timeout=self._settings.amqp_publish_timeout
                )
            except DeliveryError:
                session.lost.set()
                raise

    def _live(self) -> _Session:
        if self._session is None:
            raise away()
        return self._session

    # Consuming ------------------------------------------------------------------------------

    async def consume(self, service: str, handlers: Handlers, *, probe: Probe) -> None:
        """See the port."""
        await self._consume(Subscription(service, handlers, probe))

    async def subscribe(
        self, service: str, keys: tuple[str, ...], handlers: Handlers, *, probe: Probe
    ) -> None:
        """See the port."""
        await self._consume(Subscription(service, handlers, probe, keys))

    async def _consume(self, subscription: Subscription) -> None:
        consumer = Consumer(self._settings, subscription, self.forward)
        self._consumers.append(consumer)
        await self._add(consumer)

    async def listen(
        self,
        keys: tuple[str, ...],
        handler: Callable[[Envelope], Awaitable[None]],
        *,
        on_gap: Callable[[], Awaitable[None]] | None = None,
    ) -> Listener:
        """Receive events on a queue of this process alone, which lives as long as its connection.

        For what may be missed: pushes and forgetting cached rows. After a lost connection
        `on_gap` is called, once events flow again.
        """
        listener = Listener(self.topology, keys, handler, on_gap)
        await self._add(listener)
        return listener

    async def _add(self, part: _Part) -> None:
        """Start a part on this connection, if there is one, and on each that follows."""
        self._parts.append(part)
        session = self._session
        if session is None or not self._ready.is_set():
            return
        try:
            await part.start(await self._work_channel(session))
        except AWAY:
            log.info("consuming starts with the next connection")
