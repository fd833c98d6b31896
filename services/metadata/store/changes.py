"""The one transaction in which a namespace changes."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from libs.contracts.errors import LockstepError, NotFoundError, UnavailableError
from libs.contracts.ids import new_id
from libs.contracts.tree import ItemResult
from libs.mongo.client import Database, Document, Session
from libs.mongo.names import COMMITS, COUNTERS, NODES, OBJECTS, USAGE, VERSIONS
from libs.mongo.outbox import Outbox, Transaction
from libs.mongo.views import EPOCH_ID
from services.metadata.domain.batch import Batch, Start
from services.metadata.domain.evaluate import Outcome, Recorded, evaluate
from services.metadata.domain.model import Job, Rules, from_micros, to_micros
from services.metadata.domain.needs import assume_new, obvious
from services.metadata.domain.tree import Loaded, Need
from services.metadata.store.documents import node_document, object_document, version_document
from services.metadata.store.loader import Loader, ParentHints

_TRIES = 5
"""Evaluations until a collision caught by a unique index counts as an outage."""
_PASSES = 1000
"""Usually one; each name that a restored node cannot have takes one more."""


_DUPLICATE = 11000


class _CollisionError(Exception):
    """A unique index refused a write."""


class ChangeStore:
    """Carries jobs out, several in one transaction."""

    def __init__(
        self, database: Database, outbox: Outbox, rules: Rules, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._rules = rules
        self._clock = clock
        self._hints = ParentHints()

    async def carry_out(self, namespace_id: str, jobs: Sequence[Job]) -> list[tuple[ItemResult, ...]]:
        """Return the results of each job once they are durable and told of.

        Raises `NotFoundError` when there is no such namespace (any more), `UnavailableError` when
        the outcome is unknown: repeating the same jobs is then safe.
        """
        for tries in range(_TRIES):
            try:
                return await self._try(namespace_id, jobs, thorough=tries > 0)
            except _CollisionError:  # an assumption was wrong, or another process was faster
                continue
        raise UnavailableError("The namespace is busy", retry_after=1)

    async def _try(
        self, namespace_id: str, jobs: Sequence[Job], *, thorough: bool
    ) -> list[tuple[ItemResult, ...]]:
        async def body(transaction: Transaction) -> list[tuple[ItemResult, ...]]:
            loaded = Loaded(namespace_id)
            if not thorough:
                assume_new(jobs, loaded)
            return await self._body(transaction, loaded, jobs)

        try:
            return await self._outbox.transact(body)
        except (DuplicateKeyError, BulkWriteError) as error:
            if _collided(error):
                raise _CollisionError from error
            raise

    async def _body(
        self, transaction: Transaction, loaded: Loaded, jobs: Sequence[Job]
    ) -> list[tuple[ItemResult, ...]]:
        session = transaction.session
        start = await self._lock(session, loaded.namespace_id)
        recorded = await self._recorded(session, jobs)
        outcome = await self._evaluate(session, loaded, jobs, start, recorded)
        await self._write(session, loaded.namespace_id, outcome)
        await transaction.emit(*outcome.events)
        return outcome.results

    async def _lock(self, session: Session, namespace_id: str) -> Start:
        """Write the namespace's counter first: from here on nobody else changes the namespace."""
        counters = self._database[COUNTERS]
        locked = await counters.update_one(
            {"_id": namespace_id, "closed": False}, {"$inc": {"lock": 1}}, session=session
        )
        if not locked.matched_count:
            raise NotFoundError
        rows = await counters.find({"_id": {"$in": [namespace_id, EPOCH_ID]}}, session=session).to_list(None)
        by_id = {row["_id"]: row for row in rows}
        counter = by_id[namespace_id]
        now_us = to_micros(self._clock())
        return Start(counter["seq"], counter["changed_us"], now_us, by_id[EPOCH_ID]["value"])

    async def _recorded(self, session: Session, jobs: Sequence[Job]) -> dict[str, Recorded]:
        ids = [job.upload.id for job in jobs if job.upload is not None]
        if not ids:
            return {}
        rows = await self._database[COMMITS].find({"_id": {"$in": ids}}, session=session).to_list(None)
        return {row["_id"]: _recorded_of(row) for row in rows}

    async def _evaluate(
        self,
        session: Session,
        loaded: Loaded,
        jobs: Sequence[Job],
        start: Start,
        recorded: dict[str, Recorded],
    ) -> Outcome:
        loaded.used_bytes = await self._used(session, loaded.namespace_id)
        loader = Loader(
            self._database, session, self._hints, max_unseen=self._rules.max_unseen, head=start.seq
        )
        need = obvious(jobs)
        for _ in range(_PASSES):
            await loader.load(need, loaded)
            outcome = evaluate(jobs, loaded, start, self._rules, new_id, recorded)
            if not isinstance(outcome, Need):
                return outcome
            need = outcome
        raise LockstepError("An evaluation never has enough")

    async def _used(self, session: Session, namespace_id: str) -> int:
        if self._rules.quota_bytes is None:
            return 0
        row = await self._database[USAGE].find_one({"_id": namespace_id}, session=session)
        return int(row["used_bytes"]) if row else 0

    # Writing --------------------------------------------------------------------------------

    async def _write(self, session: Session, namespace_id: str, outcome: Outcome) -> None:
        batch = outcome.batch
        await self._write_nodes(session, batch)
        await self._write_objects(session, batch)
        await self._insert(session, VERSIONS, [version_document(version) for version in batch.versions])
        for upload_id, record in outcome.records.items():
            row = _record_document(upload_id, record, namespace_id, from_micros(batch.start.now_us))
            await self._database[COMMITS].replace_one({"_id": upload_id}, row, upsert=True, session=session)
        if batch.changes:
            place = {"seq": batch.seq, "changed_us": batch.changed_us}
            await self._database[COUNTERS].update_one({"_id": namespace_id}, {"$set": place}, session=session)
        if batch.added_bytes or batch.added_files:
            added = {"used_bytes": batch.added_bytes, "files": batch.added_files}
            await self._database[USAGE].update_one({"_id": namespace_id}, {"$inc": added}, session=session)

    async def _write_nodes(self, session: Session, batch: Batch) -> None:
        """Replace before inserting: a place may have been freed for a new node."""
        nodes = self._database[NODES]
        displaced = batch.tree.displaced()
        if displaced:
            leave = {"$set": {"deleted": True}}
            await nodes.update_many({"_id": {"$in": list(displaced)}}, leave, session=session)
        replaced: list[ReplaceOne[Document]] = []
        inserted: list[Document] = []
        for node in batch.tree.changed.values():
            if batch.tree.before(node.id) is None:
                inserted.append(node_document(node))
            else:
                replaced.append(ReplaceOne({"_id": node.id}, node_document(node)))
        if replaced:
            await nodes.bulk_write(replaced, ordered=False, session=session)
        await self._insert(session, NODES, inserted)

    async def _write_objects(self, session: Session, batch: Batch) -> None:
        now = from_micros(batch.start.now_us)
        await self._insert(session, OBJECTS, [object_document(item, now) for item in batch.objects.values()])
        if batch.touched:
            await self._touch(session, batch.touched, now)
        for object_id in batch.condemned:
            await self._condemn(session, object_id)

    async def _touch(self, session: Session, object_ids: set[str], now: datetime) -> None:
        """Refer to live objects; the write collides with a transaction that dooms one."""
        refer = {"$set": {"last_ref_at": now}}
        writes = [UpdateOne({"_id": object_id, "state": "live"}, refer) for object_id in object_ids]
        found = await self._database[OBJECTS].bulk_write(writes, ordered=False, session=session)
        if found.matched_count != len(object_ids):
            raise UnavailableError("Stored bytes are being removed", retry_after=1)

    async def _condemn(self, session: Session, object_id: str) -> None:
        verdict = {"$set": {"corrupt": True, "verified": False}, "$unset": {"unverified_since": ""}}
        await self._database[OBJECTS].update_one({"_id": object_id}, verdict, session=session)
        corrupt = {"$set": {"corrupt": True}}
        await self._database[VERSIONS].update_many({"object_id": object_id}, corrupt, session=session)

    async def _insert(self, session: Session, collection: str, documents: list[Document]) -> None:
        if documents:
            await self._database[collection].insert_many(documents, ordered=False, session=session)


def _collided(error: DuplicateKeyError | BulkWriteError) -> bool:
    if isinstance(error, DuplicateKeyError):
        return True
    return any(item.get("code") == _DUPLICATE for item in (error.details or {}).get("writeErrors", ()))


def _record_document(upload_id: str, record: Recorded, namespace_id: str, now: datetime) -> dict[str, Any]:
    results = [result.model_dump(mode="json", exclude_none=True) for result in record.results]
    return {
        "_id": upload_id,
        "namespace_id": namespace_id,
        "attempt": record.attempt,
        "results": results,
        "created_at": now,
    }


def _recorded_of(row: Document) -> Recorded:
    results = tuple(ItemResult.model_validate(result) for result in row["results"])
    return Recorded(int(row["attempt"]), results)
