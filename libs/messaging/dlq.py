"""Dead letters: list and replay (`make dlq`, `python -m libs.messaging.dlq list|replay`).

Replaying puts each message back into the queue it came from, with its attempts forgotten, and
takes it off the dead letters once the broker has confirmed.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from libs.contracts.errors import UnavailableError
from libs.messaging.rabbit.connection import connected, copy_of, declare, open_publisher, translated
from libs.messaging.topology import ATTEMPTS_HEADER, BINDINGS, ERROR_HEADER, ROUTING_KEY_HEADER, Topology
from libs.runtime.settings import BusSettings


@asynccontextmanager
async def dead_letters(settings: BusSettings) -> AsyncIterator["DeadLetters"]:
    """Connect to the broker for as long as the context lasts. Raises `UnavailableError`."""
    async with connected(settings) as connection:
        topology = Topology(settings.amqp_prefix)
        with translated():
            channel = await open_publisher(connection)
            await declare(channel, topology, settings.amqp_retry_delays)
        yield DeadLetters(channel, topology)


class DeadLetters:
    """The dead letters of all services."""

    def __init__(self, channel: Any, topology: Topology) -> None:
        self._channel = channel
        self._topology = topology

    async def counts(self) -> dict[str, int]:
        """Return service → number of its dead letters."""
        found: dict[str, int] = {}
        for service in BINDINGS:
            name = self._topology.dead_queue(service)
            queue = await self._channel.declare_queue(name, passive=True)
            found[service] = queue.declaration_result.message_count or 0
        return found

    async def show(self, service: str) -> list[dict[str, Any]]:
        """Return what lies in a service's dead letters; they stay there."""
        taken = [message async for message in self._taken(service)]
        for message in reversed(taken):
            await message.nack(requeue=True)
        return [_described(service, message) for message in taken]

    async def replay(self, service: str, event_id: str | None = None) -> int:
        """Put dead letters (or one, by event id) back into the service's queue; return how many."""
        done, others = 0, []
        async for message in self._taken(service):
            if event_id is not None and message.message_id != event_id:
                others.append(message)
                continue
            headers = {key: value for key, value in message.headers.items() if key != ATTEMPTS_HEADER}
            target = self._topology.queue(service)
            await self._channel.default_exchange.publish(copy_of(message, headers), target, mandatory=True)
            await message.ack()
            done += 1
        for message in others:
            await message.nack(requeue=True)
        return done

    async def _taken(self, service: str) -> AsyncIterator[Any]:
        """Take, one after the other, the dead letters that are there now; each must be settled."""
        queue = await self._channel.get_queue(self._topology.dead_queue(service), ensure=False)
        message = await queue.get(no_ack=False, fail=False)
        # What comes back meanwhile is not taken again: the first answer says how many there are.
        left = 0 if message is None else (message.message_count or 0)
        while message is not None:
            yield message
            message = await queue.get(no_ack=False, fail=False) if left > 0 else None
            left -= 1


def _described(service: str, message: Any) -> dict[str, Any]:
    return {
        "service": service,
        "id": message.message_id,
        "type": message.type,
        "attempts": message.headers.get(ATTEMPTS_HEADER, 0),
        "error": str(message.headers.get(ERROR_HEADER, "delivered too often")),
        "routing_key": str(message.headers.get(ROUTING_KEY_HEADER, "")),
        "bytes": len(message.body),
    }


async def _main(arguments: argparse.Namespace) -> None:
    services = [arguments.service] if arguments.service else list(BINDINGS)
    async with dead_letters(BusSettings()) as dead:
        total = 0
        for service in services:
            if arguments.action == "list":
                rows = await dead.show(service)
                total += len(rows)
                sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                total += await dead.replay(service, arguments.id)
    sys.stderr.write(f"{total} dead letter(s) {'listed' if arguments.action == 'list' else 'replayed'}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dlq", description="List or replay dead letters.")
    parser.add_argument("action", choices=["list", "replay"])
    parser.add_argument("--service", help="only this service's; by default those of Lockstep itself")
    parser.add_argument("--id", help="replay only the event with this id")
    return parser


def main() -> int:
    """Run the command; 1 when the broker does not answer."""
    try:
        asyncio.run(_main(_parser().parse_args()))
    except UnavailableError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
