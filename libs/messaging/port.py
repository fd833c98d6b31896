"""The bus as services see it. Implemented by `rabbit.RabbitBus`."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from libs.contracts.events import Envelope, EventData

Handler = Callable[[Any], Awaitable[None]]
"""Handles one event's data (of the type it is registered for); idempotent by state.

Raise `UnavailableError` when a backend is away, `CallerError` when a repeat cannot help, any
other error to be tried again. The request id is in the logging context.
"""

Handlers = Mapping[type[EventData], Handler]
"""Event type → use case: the table at the foot of each `consumers.py`."""

Probe = Callable[[], Awaitable[None]]
"""Returns when the backends answer, raises `UnavailableError` while they do not."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a service consumes from its own durable queue."""

    service: str
    handlers: Handlers
    probe: Probe
    keys: tuple[str, ...] | None = None
    """Routing keys that the queue is bound to; None: those that `topology.BINDINGS` says."""


class Bus(Protocol):
    """Publishing and consuming."""

    async def publish(self, envelope: Envelope, routing_key: str) -> None:
        """Return once the broker has confirmed; raise `UnavailableError` when it does not."""

    async def consume(self, service: str, handlers: Handlers, *, probe: Probe) -> None:
        """Start consuming the service's durable queue."""

    async def subscribe(
        self, service: str, keys: tuple[str, ...], handlers: Handlers, *, probe: Probe
    ) -> None:
        """Start consuming a durable queue that is declared here: for services outside Lockstep's own."""
