"""An internal service that subscribes to Lockstep's events: it prints each file that was committed.

    LOCKSTEP_AMQP_URL=amqp://… python -m examples.subscriber

It has a durable queue of its own, so events that happen while it is stopped wait for it. What it
gets from `libs.messaging` is what every service here has: acknowledgement only after the handler
has ended, retries with growing delays, dead letters, a pause while a backend is away, and the
request id in its logs. Delivery is at least once: a handler must bear the same event twice.
"""

import asyncio
import sys

from libs.contracts.events import FileCommitted
from libs.messaging.rabbit import open_bus
from libs.runtime import logs
from libs.runtime.settings import BusSettings
from libs.runtime.tasks import until_signalled

NAME = "example"


async def on_committed(event: FileCommitted) -> None:
    """Use the event. Raise `UnavailableError` when a backend is away, and you are called again."""
    for row in event.changes:
        sys.stdout.write(f"{row.name}: {row.size} bytes, seq {row.seq}\n")
    sys.stdout.flush()


async def nothing_to_ask() -> None:
    """Ask the backends that the handlers need; here there is none."""


async def main() -> None:
    """Subscribe until stopped; a running handler may end."""
    logs.configure(level="info", style="console", service=NAME)
    async with open_bus(BusSettings(), service=NAME) as bus:
        await bus.subscribe(NAME, ("file.committed.*",), {FileCommitted: on_committed}, probe=nothing_to_ask)
        await until_signalled()


if __name__ == "__main__":
    asyncio.run(main())
