"""The collection `uploads`. This service is its only writer."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from libs.contracts.api import UploadState
from libs.contracts.errors import ConflictError
from libs.contracts.events import EventData
from libs.mongo.client import Database, Document, translated
from libs.mongo.client import Session as MongoSession
from libs.mongo.names import UPLOADS
from libs.mongo.outbox import Outbox, Transaction
from services.upload.domain.paging import Position
from services.upload.domain.session import LIVE, Device, Session
from services.upload.store.documents import difference, to_document, to_session

_LIVE: Final = [state.value for state in LIVE]
_FIRST_WINDOW: Final = timedelta(hours=1)


class SessionStore:
    """Sessions, each change together with the events that tell of it."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._collection = database[UPLOADS]
        self._outbox = outbox

    # One session ----------------------------------------------------------------------------

    async def create(self, session: Session, *events: EventData) -> bool:
        """Insert; False when there is a live session of the same content already."""

        async def body(transaction: Transaction) -> None:
            await self._collection.insert_one(to_document(session), session=transaction.session)
            await transaction.emit(*events)

        try:
            await self._outbox.transact(body)
        except DuplicateKeyError:
            return False
        return True

    async def get(self, session_id: str) -> Session | None:
        """Return the session, or None."""
        with translated():
            document = await self._collection.find_one({"_id": session_id})
        return None if document is None else to_session(document)

    async def state(self, session_id: str) -> UploadState | None:
        """Return the state alone: the cheap question of those who wait."""
        with translated():
            document = await self._collection.find_one({"_id": session_id}, {"state": 1})
        return None if document is None else UploadState(document["state"])

    async def live_of(self, dedupe_key: str) -> Session | None:
        """Return the live session of this account, namespace, hash and size."""
        with translated():
            document = await self._collection.find_one({"dedupe_key": dedupe_key})
        return None if document is None else to_session(document)

    async def change(self, before: Session, after: Session, *events: EventData, **expect: Any) -> bool:
        """Write what differs, if the session is still in the state and attempt of `before`.

        `expect` names further fields and the values they must have. False: somebody else was
        faster, nothing was written or announced.
        """
        query = {"_id": before.id, "state": before.state.value, "attempt": before.attempt, **expect}
        update = difference(before, after)
        if not events:
            return await self._update(query, update, None)

        async def body(transaction: Transaction) -> bool:
            changed = await self._update(query, update, transaction.session)
            if changed:
                await transaction.emit(*events)
            return changed

        return await self._outbox.transact(body)

    async def _update(self, query: Document, update: Document, session: MongoSession | None) -> bool:
        if session is not None:
            return (await self._collection.update_one(query, update, session=session)).matched_count == 1
        with translated():
            return (await self._collection.update_one(query, update)).matched_count == 1

    async def touch(
        self, session_id: str, device: Device, now: datetime, expires_at: datetime, **expect: Any
    ) -> bool:
        """Note that a device works on an open session, which lives longer then; False: it is not open.

        `expect` names fields and the values they must have.
        """
        update = {
            "$addToSet": {"devices": device.id},
            "$set": {
                "device_id": device.id,
                "device": device.name,
                "updated_at": now,
                "expires_at": expires_at,
            },
        }
        query = {"_id": session_id, "state": UploadState.OPEN.value, **expect}
        return await self._update(query, update, None)

    async def drop_device(self, session_id: str, device_id: str) -> None:
        """Forget that a device took part."""
        await self._update({"_id": session_id}, {"$pull": {"devices": device_id}}, None)

    async def count_part(self, session_id: str, count: int, now: datetime, session: MongoSession) -> Session:
        """Count parts as done, in a transaction, and return the session after it.

        Raises `ConflictError` "upload_not_open": what has ended makes no progress any more.
        """
        update = {"$inc": {"parts_done": count}, "$set": {"updated_at": now}}
        if not await self._update({"_id": session_id, "state": UploadState.OPEN.value}, update, session):
            raise ConflictError(code="upload_not_open")
        document = await self._collection.find_one({"_id": session_id}, session=session)
        if document is None:
            raise LookupError(session_id)
        return to_session(document)

    async def set_parts_done(self, session_id: str, count: int, session: MongoSession) -> None:
        """Write how many parts are done, in a transaction."""
        await self._update({"_id": session_id}, {"$set": {"parts_done": count}}, session)

    async def uncount_parts(self, session_id: str, count: int, session: MongoSession) -> None:
        """Take back, in a transaction, parts that were counted as done."""
        await self._update({"_id": session_id}, {"$inc": {"parts_done": -count}}, session)

    # Many -----------------------------------------------------------------------------------

    async def count_live(self, user_id: str) -> int:
        """Return how many sessions of the user are live."""
        with translated():
            return await self._collection.count_documents({"user_id": user_id, "state": {"$in": _LIVE}})

    async def live_of_user(self, user_id: str) -> list[Session]:
        """Return the user's live sessions."""
        with translated():
            documents = await self._collection.find({"user_id": user_id, "state": {"$in": _LIVE}}).to_list(
                None
            )
        return [to_session(document) for document in documents]

    async def in_state(self, state: UploadState, field: str, before: datetime, limit: int) -> list[Session]:
        """Return sessions of a state whose time `field` lies before."""
        query = {"state": state.value, field: {"$lt": before}}
        with translated():
            documents = await self._collection.find(query).limit(limit).to_list(limit)
        return [to_session(document) for document in documents]

    async def page(
        self,
        user_id: str,
        *,
        live: bool,
        content_hash: str | None,
        after: Position | None,
        limit: int,
        horizon: datetime,
    ) -> list[Session]:
        """Return up to `limit` sessions after a position, newest first."""
        if live:
            rows = await self._keys({"user_id": user_id, "state": {"$in": _LIVE}}, content_hash)
            chosen = _next(rows, after, limit)
        else:
            chosen = await self._newest(user_id, content_hash, after, limit, horizon)
        return await self._in_order([row["_id"] for row in chosen])

    async def _newest(
        self, user_id: str, content_hash: str | None, after: Position | None, limit: int, horizon: datetime
    ) -> list[Document]:
        """Read windows of time that double until they hold a page: a limit alone would be read in full."""
        end, window, found = after[0] if after else None, _FIRST_WINDOW, list[Document]()
        top = end or datetime.now(horizon.tzinfo) + timedelta(minutes=1)
        upper: dict[str, Any] = {"$lte": top}
        while True:
            lower = top - window
            query = {"user_id": user_id, "created_at": {"$gt": lower, **upper}}
            found += await self._keys(query, content_hash)
            chosen = _next(found, after, limit)
            if len(chosen) == limit or lower < horizon:
                return chosen
            top, upper, window = lower, {"$lte": lower}, window * 2

    async def _keys(self, query: Document, content_hash: str | None) -> list[Document]:
        with translated():
            rows = await self._collection.find(
                query, _KEYS if content_hash is None else _KEYS_AND_HASHES
            ).to_list(None)
        return [row for row in rows if content_hash is None or _holds(row, content_hash)]

    async def _in_order(self, ids: Sequence[str]) -> list[Session]:
        if not ids:
            return []
        with translated():
            documents = await self._collection.find({"_id": {"$in": list(ids)}}).to_list(None)
        by_id = {document["_id"]: to_session(document) for document in documents}
        return [by_id[row_id] for row_id in ids if row_id in by_id]

    async def owners(self, field: str, values: Collection[str]) -> set[str]:
        """Return those values of `key_prefix`, or of a field of uploads at S3, that a live session has."""
        if not values:
            return set()
        with translated():
            rows = await self._collection.find(
                {field: {"$in": list(values)}}, {field: 1, "state": 1}
            ).to_list(None)
        return {row[field] for row in rows if row["state"] in _LIVE}

    async def remove(self, ids: Iterable[str]) -> None:
        """Delete ended sessions."""
        with translated():
            await self._collection.delete_many({"_id": {"$in": list(ids)}, "state": {"$nin": _LIVE}})


_KEYS: Final = {"_id": 1, "created_at": 1}
_KEYS_AND_HASHES: Final = {**_KEYS, "entries.content_hash": 1}


def _holds(row: Document, content_hash: str) -> bool:
    return any(entry["content_hash"] == content_hash for entry in row["entries"])


def _next(rows: list[Document], after: Position | None, limit: int) -> list[Document]:
    """Return the first rows of the order (newest first, then by id) that lie after a position."""
    ordered = sorted(rows, key=_position, reverse=True)
    return [row for row in ordered if after is None or _position(row) < after][:limit]


def _position(row: Document) -> Position:
    return row["created_at"], row["_id"]
