"""Prometheus metrics of the bus."""

from typing import Final

from prometheus_client import Counter, Gauge

PUBLISHED: Final = Counter("lockstep_events_published_total", "Events confirmed by the broker", ["type"])
CONSUMED: Final = Counter(
    "lockstep_events_consumed_total", "Events handled, by verdict", ["service", "type", "verdict"]
)
DEAD: Final = Counter(
    "lockstep_events_dead_lettered_total", "Messages that this process dead-lettered", ["service"]
)
DEAD_WAITING: Final = Gauge("lockstep_dead_letters", "Messages in the dead-letter queues", ["service"])
