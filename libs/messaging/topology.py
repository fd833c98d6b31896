"""Names on the broker, and which service consumes which events. Pure.

One durable topic exchange carries all events. Each service has a durable quorum queue, bound to
the events it reacts to, a queue for its dead letters, and there is one retry queue per delay for
all: a message waits there for its time to live and is then dead-lettered, by the default
exchange, back into the queue that it came from (its routing key in the retry exchange).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DELIVERY_LIMIT: Final = 50
"""Deliveries of one message by the broker. It only stops crash loops: failures are counted by us."""

ATTEMPTS_HEADER: Final = "x-lockstep-attempts"
ERROR_HEADER: Final = "x-lockstep-error"
QUEUE_HEADER: Final = "x-lockstep-queue"
ROUTING_KEY_HEADER: Final = "x-lockstep-routing-key"

BINDINGS: Final[dict[str, tuple[str, ...]]] = {
    "upload": ("file.committed.*", "commit.rejected.*", "device.revoked.*"),
    "metadata": ("upload.completed.*",),
    "janitor": ("file.committed.*", "upload.aborted.*", "upload.expired.*"),
}
"""Service → routing keys of its own durable queue.

Notification has none: each of its processes has a queue of its own for as long as it is
connected, bound to the namespaces of the devices on it. So has every process for the events
that make it forget cached rows.
"""


@dataclass(frozen=True, slots=True)
class Topology:
    """The names under one prefix."""

    prefix: str = "lockstep"

    @property
    def exchange(self) -> str:
        """The exchange of all events."""
        return f"{self.prefix}.events"

    @property
    def dead_exchange(self) -> str:
        """Where the broker puts what it delivered too often; routing key: the queue's name."""
        return f"{self.prefix}.dead"

    def queue(self, service: str) -> str:
        """A service's own queue."""
        return f"{self.prefix}.{service}"

    def dead_queue(self, service: str) -> str:
        """Where a service's dead letters are kept."""
        return f"{self.prefix}.{service}.dead"

    def retry_queue(self, delay: float) -> str:
        """The queue in which messages wait for `delay` seconds."""
        return f"{self.prefix}.retry.{int(delay * 1000)}ms"

    def retry_exchange(self, delay: float) -> str:
        """The fanout exchange before the retry queue; the routing key is the queue to return to."""
        return f"{self.prefix}.retry.{int(delay * 1000)}ms"

    def queue_arguments(self, service: str) -> dict[str, str | int]:
        """Arguments of a service's queue."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": self.dead_exchange,
            "x-dead-letter-routing-key": self.dead_queue(service),
            **_AT_LEAST_ONCE,
        }

    def retry_arguments(self, delay: float) -> dict[str, str | int]:
        """Arguments of a retry queue. With no dead-letter routing key a message keeps its own."""
        return {
            "x-queue-type": "quorum",
            "x-message-ttl": int(delay * 1000),
            "x-dead-letter-exchange": "",
            **_AT_LEAST_ONCE,
        }


_AT_LEAST_ONCE: Final[dict[str, str | int]] = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
"""What quorum queues need to hand a dead letter over without a moment in which none has it."""


def delay_for(attempts: int, delays: Sequence[float]) -> float | None:
    """Return the seconds to wait after the `attempts`-th failure, or None: no further try."""
    return delays[attempts - 1] if attempts <= len(delays) else None
