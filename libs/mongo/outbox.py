"""The outbox: events written in the transaction of the state they tell of, relayed afterwards.

On the happy path they are published, with the broker's confirm, right after the transaction; a
sweep takes over what is left after a crash or while the broker is away. An event may so be
published twice, never not at all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from libs.contracts.errors import UnavailableError
from libs.contracts.events import Envelope, EventData, unwrap, wrap
from libs.mongo.client import Database, Session, in_transaction, translated
from libs.mongo.names import outbox_of
from libs.runtime.logs import current_request_id, get_logger
from libs.runtime.settings import BusSettings

log = get_logger("outbox")
T = TypeVar("T")
_SWEEP_BATCH = 200


class Publisher(Protocol):
    """Where events go."""

    async def publish(self, envelope: Envelope, routing_key: str) -> None:
        """Return once the broker has confirmed, or raise `UnavailableError`."""


class Transaction:
    """A running transaction: pass `session` to each operation, `emit` what it leads to."""

    def __init__(self, outbox: "Outbox", session: Session) -> None:
        self.session = session
        self._outbox = outbox
        self.emitted: list[Envelope] = []

    async def emit(self, *events: EventData) -> None:
        """Write events beside the state."""
        self.emitted += await self._outbox.write(self.session, events)


class Outbox:
    """The outbox of one service."""

    def __init__(self, database: Database, service: str, publisher: Publisher, settings: BusSettings) -> None:
        self._database = database
        self._collection = database[outbox_of(service)]
        self._service = service
        self._publisher = publisher
        self._settings = settings
        self._order = time.time_ns()

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `body` in a transaction, then relay what it emitted.

        `body` may be repeated by the driver. A broker that is away does not fail the call: the
        sweep delivers later.
        """
        last: list[Transaction] = []

        async def run(session: Session) -> T:
            last[:] = [Transaction(self, session)]
            return await body(last[0])

        result: T = await in_transaction(self._database, run)
        await self.relay(last[0].emitted)
        return result

    async def write(self, session: Session | None, events: Sequence[EventData]) -> list[Envelope]:
        """Insert events, in the given transaction if any, and return them wrapped."""
        request_id = current_request_id()
        envelopes = [wrap(event, source=self._service, request_id=request_id) for event in events]
        if envelopes:
            await self._collection.insert_many([self._document(e) for e in envelopes], session=session)
        return envelopes

    def _document(self, envelope: Envelope) -> dict[str, object]:
        self._order = max(time.time_ns(), self._order + 1)
        return {
            "_id": envelope.id,
            "order": self._order,
            "created_at": datetime.now(UTC),
            "event": envelope.model_dump(mode="json", exclude_none=True),
        }

    async def relay(self, envelopes: Sequence[Envelope]) -> bool:
        """Publish in order and forget; stop quietly at the first that the broker does not take."""
        for envelope in envelopes:
            try:
                await self._publish(envelope)
            except UnavailableError:
                log.info("event stays in the outbox", event_type=envelope.type, event_id=envelope.id)
                return False
        return True

    async def _publish(self, envelope: Envelope) -> None:
        data = unwrap(envelope)
        key = envelope.type if data is None else data.routing_key()
        await self._publisher.publish(envelope, key)
        try:
            with translated():
                await self._collection.delete_one({"_id": envelope.id})
        except UnavailableError:  # published, not forgotten: it will be published once more
            log.info("event will be published again", event_id=envelope.id)

    async def sweep(self) -> int:
        """Relay events that the happy path left behind; return how many."""
        before = datetime.now(UTC) - timedelta(seconds=self._settings.outbox_sweep_age)
        with translated():
            rows = await self._collection.find({"created_at": {"$lt": before}}).to_list(_SWEEP_BATCH)
        rows.sort(key=lambda row: row["order"])
        done = 0
        for row in rows:
            if not await self.relay([Envelope.model_validate(row["event"])]):
                break
            done += 1
        return done

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(self._settings.outbox_sweep_interval)
            try:
                while await self.sweep() == _SWEEP_BATCH:
                    pass
            except UnavailableError as error:
                log.warning("outbox sweep waits", reason=error.detail)
            except Exception:
                log.exception("outbox sweep failed")
