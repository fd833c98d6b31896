"""Taking messages of a durable queue: run the handler, acknowledge by the verdict."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from libs.contracts.errors import UnavailableError
from libs.contracts.events import Envelope, unwrap
from libs.messaging import metrics
from libs.messaging.policy import Verdict, judge
from libs.messaging.port import Probe, Subscription
from libs.messaging.rabbit.connection import AWAY, copy_of, declare_service
from libs.messaging.topology import (
    ATTEMPTS_HEADER,
    ERROR_HEADER,
    QUEUE_HEADER,
    ROUTING_KEY_HEADER,
    Topology,
    delay_for,
)
from libs.runtime.backoff import Backoff
from libs.runtime.logs import bind_request, get_logger
from libs.runtime.settings import BusSettings

log = get_logger("bus")

Forward = Callable[[str, str, aio_pika.Message], Awaitable[None]]
"""Publish to (exchange, routing key) with the broker's confirm; raises `UnavailableError`."""

_PROBE: Final = Backoff(0.2, 5.0)
_HOLD_SECONDS: Final = 600.0
"""How long a message is held unacknowledged for a backend that is away, before it goes back to
the queue: well under the broker's own limit of 30 minutes."""
_DRAIN_SECONDS: Final = 10.0
"""How long running handlers get at a graceful stop."""


class Consumer:
    """The consumer of one service's queue. It is started anew on each connection."""

    def __init__(self, settings: BusSettings, subscription: Subscription, forward: Forward) -> None:
        self._delays = settings.amqp_retry_delays
        self._topology = Topology(settings.amqp_prefix)
        self._service = subscription.service
        self._handlers = subscription.handlers
        self._keys = subscription.keys
        self._forward = forward
        self._gate = _Gate(subscription.probe, on_close=self._stop_consuming, on_open=self._consume)
        self._queue: AbstractQueue | None = None
        self._tag: str | None = None
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._stopping = False

    # Starting and stopping --------------------------------------------------------------------

    async def start(self, channel: AbstractChannel) -> None:
        """Consume on a new channel, unless a backend is away."""
        if self._keys is not None:
            await declare_service(channel, self._topology, self._service, self._keys)
        async with self._lock:
            self._queue = await channel.get_queue(self._topology.queue(self._service), ensure=False)
            self._tag = None
        if self._gate.is_open:
            await self._consume()

    async def stop(self) -> None:
        """Take no more messages; running handlers get some seconds, then stay unacknowledged."""
        self._stopping = True
        await self._stop_consuming()
        await self._gate.abandon()
        if self._running:
            _, pending = await asyncio.wait(self._running, timeout=_DRAIN_SECONDS)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _consume(self) -> None:
        async with self._lock:
            if self._queue is not None and self._tag is None and not self._stopping:
                self._tag = await self._queue.consume(self._on_message)

    async def _stop_consuming(self) -> None:
        async with self._lock:
            tag, self._tag = self._tag, None
            if self._queue is not None and tag is not None:
                with suppress(*AWAY):
                    await self._queue.cancel(tag, timeout=5)

    # One message ------------------------------------------------------------------------------

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            await self._process(message)
        except AWAY as error:  # not acknowledged: it is delivered again
            log.warning("message stays with the broker", error=type(error).__name__)

    async def _process(self, message: AbstractIncomingMessage) -> None:
        deadline = asyncio.get_running_loop().time() + _HOLD_SECONDS
        waits = 0
        while not self._stopping:
            error = await self._attempt(message)
            verdict = judge(error)
            metrics.CONSUMED.labels(self._service, message.type or "unknown", verdict.name.lower()).inc()
            if verdict is not Verdict.WAIT:
                await self._settle(message, verdict, error)
                return
            if not await self._gate.passed(deadline, waits):
                break
            waits += 1
        if not self._stopping:
            await message.nack(requeue=True)  # waiting is no failure, and `nack` is not counted as one

    async def _attempt(self, message: AbstractIncomingMessage) -> Exception | None:
        try:
            envelope = Envelope.model_validate_json(message.body)
            bind_request(envelope.requestid, event_id=envelope.id)
            data = unwrap(envelope)
            handler = None if data is None else self._handlers.get(type(data))
            if handler is not None:
                await handler(data)
        except Exception as error:
            log.warning(
                "event failed",
                event_type=message.type,
                error=str(error),
                kind=type(error).__name__,
                exc_info=judge(error) is Verdict.RETRY,
            )
            return error
        return None

    async def _settle(
        self, message: AbstractIncomingMessage, verdict: Verdict, error: Exception | None
    ) -> None:
        """Pass the message on where the verdict says so, and only then acknowledge it."""
        attempts = _attempts(message) + 1
        delay = delay_for(attempts, self._delays) if verdict is Verdict.RETRY else None
        if delay is not None:
            exchange, key = self._topology.retry_exchange(delay), self._topology.queue(self._service)
            await self._pass_on(message, exchange, key, self._headers(message, attempts, error))
        elif verdict is not Verdict.DONE:
            log.error("event is a dead letter", event_type=message.type, error=str(error), attempts=attempts)
            exchange, key = self._topology.dead_exchange, self._topology.dead_queue(self._service)
            await self._pass_on(message, exchange, key, self._headers(message, attempts, error))
            metrics.DEAD.labels(self._service).inc()
        await message.ack()

    async def _pass_on(
        self, message: AbstractIncomingMessage, exchange: str, key: str, headers: dict[str, Any]
    ) -> None:
        """Publish again until the broker has it, for as long as the message's own channel is open."""
        tries = 0
        while True:
            try:
                await self._forward(exchange, key, copy_of(message, headers))
            except UnavailableError:
                _ = message.channel  # raises when it is closed: the broker delivers the message again
                await asyncio.sleep(_PROBE.delay(tries))
                tries += 1
            else:
                return

    def _headers(
        self, message: AbstractIncomingMessage, attempts: int, error: Exception | None
    ) -> dict[str, Any]:
        return {
            **message.headers,
            ATTEMPTS_HEADER: attempts,
            ERROR_HEADER: f"{type(error).__name__}: {error}"[:500],
            QUEUE_HEADER: self._topology.queue(self._service),
            ROUTING_KEY_HEADER: message.headers.get(ROUTING_KEY_HEADER) or message.routing_key or "",
        }


class _Gate:
    """Open while the backends answer. Closed, it probes them, and consuming rests.

    `on_close` and `on_open` stop and start consuming.
    """

    def __init__(
        self, probe: Probe, *, on_close: Callable[[], Awaitable[None]], on_open: Callable[[], Awaitable[None]]
    ) -> None:
        self._probe = probe
        self._on_close = on_close
        self._on_open = on_open
        self._open = asyncio.Event()
        self._open.set()
        self._abandoned = asyncio.Event()
        self._prober: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the backends answer, as far as is known."""
        return self._open.is_set()

    async def passed(self, deadline: float, waits: int) -> bool:
        """Return True once the backends answer, False past the deadline or at a stop.

        A message that keeps failing while the probes succeed waits longer each time.
        """
        self._close()
        # Not `wait_for`: cancelled in the instant in which it is woken, that goes on (Python 3.11).
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._open_or_abandoned()
        if waits and self.is_open:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE.delay(waits)):
                    await self._abandoned.wait()
        return self.is_open and not self._abandoned.is_set()

    async def _open_or_abandoned(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._open, self._abandoned)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _close(self) -> None:
        if self._open.is_set() and not self._abandoned.is_set():
            self._open.clear()
            self._prober = asyncio.create_task(self._probe_until_open(), name="probe of the backends")

    async def _probe_until_open(self) -> None:
        log.warning("consuming pauses: a backend is away")
        await self._on_close()
        tries = 0
        while True:
            await asyncio.sleep(_PROBE.delay(tries))
            tries += 1
            if await self._answers():
                break
        self._open.set()
        log.info("consuming goes on")
        with suppress(*AWAY):  # the next connection starts it
            await self._on_open()

    async def _answers(self) -> bool:
        try:
            await self._probe()
        except UnavailableError:
            return False
        except Exception:
            log.exception("a probe failed")
            return False
        return True

    async def abandon(self) -> None:
        """Stop probing and let go of the messages that wait."""
        self._abandoned.set()
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)


def _attempts(message: AbstractIncomingMessage) -> int:
    value = message.headers.get(ATTEMPTS_HEADER, 0)
    return value if isinstance(value, int) else 0
