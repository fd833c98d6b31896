"""The collection `upload_parts`: one row per part of a multipart session."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo.errors import BulkWriteError

from libs.contracts.events import PartCompleted
from libs.contracts.parts import part_span
from libs.mongo.client import Database, Document, translated
from libs.mongo.names import UPLOAD_PARTS, UPLOADS
from libs.mongo.outbox import Outbox, Transaction
from libs.mongo.views import part_row_id
from libs.mongo.walks import window_of
from services.upload.domain.session import Device, Session
from services.upload.store.sessions import SessionStore


@dataclass(frozen=True, slots=True)
class PartNote:
    """A part as it was announced: its digest is fixed by the first who names it."""

    number: int
    digest: str
    size: int
    done: bool


class PartStore:
    """Digests of parts, and which of them clients have told to be done."""

    def __init__(self, database: Database, outbox: Outbox, sessions: SessionStore) -> None:
        self._database = database
        self._collection = database[UPLOAD_PARTS]
        self._outbox = outbox
        self._sessions = sessions

    async def fix_digests(
        self, session: Session, digests: Mapping[int, str], known: dict[int, PartNote]
    ) -> dict[int, PartNote]:
        """Write digests that nobody has named yet, as far as is `known`; return the notes that hold now.

        Write-once by the row's key: of two devices that differ, the first is kept.
        """
        rows = [_row(session, number, digest) for number, digest in digests.items() if number not in known]
        if not rows:
            return known
        try:
            with translated():
                await self._collection.insert_many(rows, ordered=False)
        except BulkWriteError as error:
            if any(failure.get("code") != _DUPLICATE for failure in error.details["writeErrors"]):
                raise
            return await self.of(session, list(digests))
        return known | _notes(rows)

    async def take_back(self, session: Session, digests: Mapping[int, str]) -> None:
        """Drop digests that were fixed for parts of what does not travel any more."""
        rows = [{"_id": part_row_id(session.id, n), "digest": digest} for n, digest in digests.items()]
        if rows:
            with translated():
                await self._collection.delete_many({"$or": rows})

    async def of(self, session: Session, numbers: Sequence[int] | None = None) -> dict[int, PartNote]:
        """Return the notes of these parts, or of all."""
        query: Document = {"upload_id": session.id}
        if numbers is not None:
            query = {"_id": {"$in": [part_row_id(session.id, number) for number in numbers]}}
        with translated():
            rows = await self._collection.find(query).to_list(None)
        return _notes(rows)

    async def record(
        self, session: Session, numbers: Sequence[int], device: Device, now: datetime
    ) -> Session:
        """Note that parts are done, announce each that was not yet, return the session after it."""

        async def body(transaction: Transaction) -> Session:
            keys = [part_row_id(session.id, number) for number in numbers]
            rows = await self._collection.find({"_id": {"$in": keys}}, session=transaction.session).to_list(
                None
            )
            fresh = sorted((row for row in rows if not row["done"]), key=_number)
            if not fresh:
                return session
            update = {"$set": {"done": True}}
            fresh_keys = [row["_id"] for row in fresh]
            await self._collection.update_many(
                {"_id": {"$in": fresh_keys}}, update, session=transaction.session
            )
            after = await self._sessions.count_part(session.id, len(fresh), now, transaction.session)
            before = after.parts_done - len(fresh)
            await transaction.emit(
                *(_event(after, row, device, before + i) for i, row in enumerate(fresh, 1))
            )
            return after

        return await self._outbox.transact(body)

    async def lost(self, session: Session, numbers: Sequence[int]) -> None:
        """Note that parts said to be done are not in S3."""
        if not numbers:
            return

        async def body(transaction: Transaction) -> None:
            query = {
                "_id": {"$in": [part_row_id(session.id, number) for number in numbers]},
                "done": True,
            }
            changed = await self._collection.update_many(
                query, {"$set": {"done": False}}, session=transaction.session
            )
            if changed.modified_count:
                await self._sessions.uncount_parts(session.id, changed.modified_count, transaction.session)

        await self._outbox.transact(body)

    async def reconcile(self, session: Session, held: Collection[int], notes: Mapping[int, PartNote]) -> None:
        """Note parts that S3 holds as done, and how many that makes.

        A device may die after S3 has a part and before it could say so. What was said to be done
        and is not listed stays so: it may have been sent after the listing (`lost` mends the rest).
        """
        late = [number for number, note in notes.items() if number in held and not note.done]
        if not late and session.parts_done == sum(note.done for note in notes.values()):
            return

        async def body(transaction: Transaction) -> None:
            for start in range(0, len(late), _PIECE):
                keys = [part_row_id(session.id, number) for number in late[start : start + _PIECE]]
                done = {"$set": {"done": True}}
                await self._collection.update_many({"_id": {"$in": keys}}, done, session=transaction.session)
            query = {"upload_id": session.id, "done": True}
            now_done = await self._collection.count_documents(query, session=transaction.session)
            await self._sessions.set_parts_done(session.id, now_done, transaction.session)

        await self._outbox.transact(body)

    async def reset(self, session: Session) -> None:
        """Note that no part is done: what S3 held of them is gone."""
        with translated():
            await self._collection.update_many({"upload_id": session.id}, {"$set": {"done": False}})

    async def orphans(self, place: str | None) -> tuple[int, list[str], str | None]:
        """Look for rows whose session is gone, among a window of sessions' ids from a place on.

        Returns how many rows were looked at, the ids of the sessions, and the next place (None: at
        the end). A session is there before its rows and goes after them.
        """
        window = await window_of(self._database, UPLOAD_PARTS, place, _WINDOW)
        seen = await self._sessions_named(window.on("upload_id"))
        gone = [upload_id for upload_id in seen if not await self._has_session(upload_id)]
        still = [upload_id for upload_id in gone if await self._sessions_named({"upload_id": upload_id})]
        return sum(seen.values()), still, window.high

    async def _sessions_named(self, query: Document) -> Counter[str]:
        with translated():
            rows = self._collection.find(query, {"_id": 0, "upload_id": 1})
            return Counter([row["upload_id"] async for row in rows])

    async def _has_session(self, upload_id: str) -> bool:
        with translated():
            return await self._database[UPLOADS].find_one({"_id": upload_id}, {"_id": 1}) is not None

    async def remove(self, ids: Sequence[str]) -> None:
        """Delete the rows of ended sessions."""
        with translated():
            await self._collection.delete_many({"upload_id": {"$in": list(ids)}})


_DUPLICATE = 11000
_PIECE = 50
"""Rows named in one update: the embedded default compares each row it finds with the whole list."""
_WINDOW = 1000
"""Rows of one step of a walk through all of them."""


def _notes(rows: Sequence[Document]) -> dict[int, PartNote]:
    return {row["number"]: PartNote(row["number"], row["digest"], row["size"], row["done"]) for row in rows}


def _number(row: Document) -> int:
    return int(row["number"])


def _row(session: Session, number: int, digest: str) -> Document:
    travelling = session.in_parts
    whole = session.size if travelling is None else travelling.size
    _, size = part_span(whole, session.part_size or 1, number)
    return {
        "_id": part_row_id(session.id, number),
        "upload_id": session.id,
        "number": number,
        "digest": digest,
        "size": size,
        "done": False,
    }


def _event(session: Session, row: Document, device: Device, parts_done: int) -> PartCompleted:
    return PartCompleted(
        namespace_id=session.namespace_id,
        user_id=session.user_id,
        device_id=device.id,
        device_name=device.name,
        upload_id=session.id,
        number=row["number"],
        size=row["size"],
        digest=row["digest"],
        parts_done=parts_done,
        parts_total=session.parts_total,
        total_size=session.size,
        path=session.entries[0].path,
    )
