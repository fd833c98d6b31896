"""Objects: verification and the collection of garbage."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from libs.contracts.internal import HousedObject, Use
from libs.mongo.client import Database, Document, Session, in_transaction, translated
from libs.mongo.names import COUNTERS, OBJECTS, USAGE, VERSIONS
from services.metadata.domain.model import Object
from services.metadata.store.documents import object_of
from services.metadata.store.removal import pieces

_QUEUE = 1000


class ObjectStore:
    """The life of an object: live, perhaps verified, suspected to be garbage, doomed, forgotten."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._objects = database[OBJECTS]
        self._clock = clock

    async def get(self, object_id: str) -> Object | None:
        """Return the object."""
        with translated():
            row = await self._objects.find_one({"_id": object_id})
        return None if row is None else object_of(row)

    async def verified(self, object_id: str) -> None:
        """Believe the hash from now on; corrupt stays corrupt."""
        believe = {"$set": {"verified": True}, "$unset": {"unverified_since": ""}}
        with translated():
            await self._objects.update_one({"_id": object_id, "corrupt": False}, believe)

    async def unverified(self, limit: int) -> list[HousedObject]:
        """Return live objects whose hash is only claimed, oldest first."""
        rows = await self._queue("unverified_since", self._clock())
        return [_housed(row) for row in rows if row["state"] == "live"][:limit]

    async def doom(self, age: timedelta, limit: int) -> int:
        """Doom suspects that no version has and nobody referred to for `age`; clear those that one has.

        Returns how many were dealt with, at most about `limit`.
        """
        suspects: dict[str, list[str]] = {}
        for row in await self._queue("suspect_at", self._clock()):
            suspects.setdefault(row["namespace_id"], []).append(row["_id"])
        done = 0
        for namespace_id, object_ids in suspects.items():
            for piece in pieces(object_ids):
                if done < limit:
                    done += await self._judge(namespace_id, piece, self._clock() - age)
        return done

    async def _judge(self, namespace_id: str, object_ids: Sequence[str], before: datetime) -> int:
        """Decide about some suspects in a transaction, so that no commit comes between."""

        async def body(session: Session) -> int:
            lock = {"$inc": {"lock": 1}}
            await self._database[COUNTERS].update_one({"_id": namespace_id}, lock, session=session)
            query: Document = {"_id": {"$in": list(object_ids)}}
            rows = await self._objects.find(query, session=session).to_list(None)
            live = {row["_id"]: row for row in rows if row["state"] == "live"}
            used = await self._used(session, list(live))
            clear = {"$unset": {"suspect_at": ""}}
            await self._objects.update_many({"_id": {"$in": used}}, clear, session=session)
            unused = [row for row in live.values() if row["_id"] not in used and row["last_ref_at"] <= before]
            await self._doom(session, namespace_id, unused)
            return len(used) + len(unused)

        return await in_transaction(self._database, body)

    async def _used(self, session: Session, object_ids: list[str]) -> list[str]:
        """Return those of the objects that a version has."""
        query = {"object_id": {"$in": object_ids}}
        rows = self._database[VERSIONS].find(query, {"object_id": 1}, session=session)
        return sorted({row["object_id"] async for row in rows})

    async def _doom(self, session: Session, namespace_id: str, rows: Sequence[Document]) -> None:
        doom = {
            "$set": {"state": "doomed", "doomed_at": self._clock()},
            "$unset": {"suspect_at": "", "unverified_since": ""},
        }
        ids = [row["_id"] for row in rows]
        await self._objects.update_many({"_id": {"$in": ids}}, doom, session=session)
        freed = {"$inc": {"used_bytes": -sum(row["size"] for row in rows)}}
        await self._database[USAGE].update_one({"_id": namespace_id}, freed, session=session)

    async def doomed(self, grace: timedelta, limit: int) -> list[HousedObject]:
        """Return objects doomed for longer than `grace`, oldest first."""
        rows = await self._queue("doomed_at", self._clock() - grace)
        return [_housed(row) for row in rows][:limit]

    async def forget(self, object_ids: Sequence[str]) -> int:
        """Delete the documents of doomed objects that are gone from S3; return how many."""
        done = 0
        for piece in pieces(object_ids):
            query = {"_id": {"$in": piece}, "state": "doomed"}
            with translated():
                done += (await self._objects.delete_many(query)).deleted_count
        return done

    async def known(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that an object has, live or doomed."""
        found: list[str] = []
        for piece in pieces(keys):
            with translated():
                rows = self._objects.find({"key": {"$in": piece}}, {"key": 1})
                found += [row["key"] for row in await rows.to_list(None)]
        return found

    async def between(self, after: str, up_to: str | None, limit: int) -> list[HousedObject]:
        """Return live, not corrupt objects with after < key ≤ up_to, by key; no more than those are read."""
        keys: Document = {"$gt": after} | ({} if up_to is None else {"$lte": up_to})
        query: Document = {"key": keys, "state": "live", "corrupt": False}
        with translated():
            rows = await self._objects.find(query).sort("key", 1).limit(limit).to_list(None)
        return [_housed(row) for row in rows]

    async def alive(self, object_ids: Sequence[str]) -> list[str]:
        """Return those of the objects that have a document, live or doomed."""
        found: list[str] = []
        for piece in pieces(object_ids):
            with translated():
                rows = self._objects.find({"_id": {"$in": piece}}, {"_id": 1})
                found += [row["_id"] for row in await rows.to_list(None)]
        return found

    async def uses(self, object_ids: Sequence[str]) -> list[Use]:
        """Return the versions that have the objects."""
        found: list[Use] = []
        for piece in pieces(object_ids):
            query = {"object_id": {"$in": piece}}
            with translated():
                rows = self._database[VERSIONS].find(query, {"object_id": 1, "node_id": 1})
                found += [
                    Use(object_id=row["object_id"], version_id=row["_id"], node_id=row["node_id"])
                    async for row in rows
                ]
        return found

    async def _queue(self, field: str, until: datetime) -> list[Document]:
        """Return the objects that wait in a queue of housekeeping (few, see the indexes), oldest first."""
        with translated():
            return (
                await self._objects.find({field: {"$lte": until}}).sort(field, 1).limit(_QUEUE).to_list(None)
            )


def _housed(row: Document) -> HousedObject:
    return HousedObject(id=row["_id"], key=row["key"], size=row["size"], content_hash=row["content_hash"])
