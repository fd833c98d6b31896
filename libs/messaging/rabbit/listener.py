"""Receiving events on a queue of this process alone, for what may be missed."""

from collections.abc import Awaitable, Callable

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from libs.contracts.errors import UnavailableError
from libs.contracts.events import Envelope
from libs.messaging.rabbit.connection import away, translated
from libs.messaging.topology import Topology
from libs.runtime.logs import bind_request, get_logger

log = get_logger("bus")

_BIND_SECONDS = 5


class Listener:
    """A queue of this process alone; bindings can be added and removed while it runs."""

    def __init__(
        self,
        topology: Topology,
        keys: tuple[str, ...],
        handler: Callable[[Envelope], Awaitable[None]],
        on_gap: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._topology = topology
        self._keys = set(keys)
        self._handler = handler
        self._on_gap = on_gap
        self._queue: AbstractQueue | None = None
        self._started = False

    async def start(self, channel: AbstractChannel) -> None:
        """Declare the queue on a new connection and tell of the gap since the last one."""
        self._queue = None
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        bound: set[str] = set()
        while missing := self._keys - bound:  # a key may be added while others are being bound
            for key in missing:
                await queue.bind(self._topology.exchange, key)
            bound |= missing
        await queue.consume(self._on_message, no_ack=True)
        self._queue = queue
        if self._started:
            await self._tell_of_gap()
        self._started = True

    async def _tell_of_gap(self) -> None:
        if self._on_gap is None:
            return
        try:
            await self._on_gap()
        except Exception:
            log.exception("listener failed after a gap")

    async def bind(self, key: str) -> None:
        """Receive events of this routing key too. Raises `UnavailableError`."""
        self._keys.add(key)
        await self._on_queue("bind", key)

    async def unbind(self, key: str) -> None:
        """Receive events of this routing key no more, as far as the broker can be told."""
        self._keys.discard(key)
        try:
            await self._on_queue("unbind", key)
        except UnavailableError:
            log.debug("a binding goes with its connection", key=key)

    async def _on_queue(self, action: str, key: str) -> None:
        if self._queue is None:
            raise away()
        with translated():
            await getattr(self._queue, action)(self._topology.exchange, key, timeout=_BIND_SECONDS)

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        try:
            envelope = Envelope.model_validate_json(message.body)
            bind_request(envelope.requestid, event_id=envelope.id)
            await self._handler(envelope)
        except Exception:
            log.exception("listener failed", event_type=message.type)
