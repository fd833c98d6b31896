"""Removing what is left of namespaces whose account was deleted, a little at a time."""

from collections.abc import Callable, Sequence
from datetime import datetime

from libs.mongo.client import Database, Document, translated
from libs.mongo.names import COUNTERS, NAMESPACES, NODES, OBJECTS, USAGE, VERSIONS

_WINDOW = 500
_PIECE = 50


class PurgeStore:
    """Goes through a closed namespace in order of `seq`; every step can be repeated."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def purge(self) -> int:
        """Remove one window of one removed namespace; return how many documents, 0: nothing is left.

        Versions leave their objects to the collection of garbage. The last step forgets the
        namespace itself.
        """
        with translated():
            query = {"deleted_at": {"$lte": self._clock()}}
            found = await self._database[NAMESPACES].find(query).limit(1).to_list(None)
            return await self._purge(found[0]["_id"]) if found else 0

    async def _purge(self, namespace_id: str) -> int:
        counter = await self._database[COUNTERS].find_one({"_id": namespace_id}) or {
            "seq": 0,
            "purged_seq": 0,
        }
        done, reached = 0, int(counter["purged_seq"])
        while not done and reached < counter["seq"]:
            done = await self._window(namespace_id, reached)
            reached += _WINDOW
            place = {"$set": {"purged_seq": reached}}
            await self._database[COUNTERS].update_one({"_id": namespace_id}, place)
        return done or await self._forget(namespace_id)

    async def _window(self, namespace_id: str, after: int) -> int:
        query = {"namespace_id": namespace_id, "seq": {"$gt": after, "$lte": after + _WINDOW}}
        nodes = await self._database[NODES].find(query, {"_id": 1}).to_list(None)
        for piece in _pieces(nodes):
            await self._remove([node["_id"] for node in piece])
        return len(nodes)

    async def _remove(self, node_ids: Sequence[str]) -> None:
        """Objects become suspects before their versions go, so that none is left without either."""
        of_nodes = {"node_id": {"$in": list(node_ids)}}
        versions = await self._database[VERSIONS].find(of_nodes, {"object_id": 1}).to_list(None)
        suspect = {"$set": {"suspect_at": self._clock()}}
        for piece in _pieces(versions):
            object_ids = {version["object_id"] for version in piece}
            await self._database[OBJECTS].update_many({"_id": {"$in": list(object_ids)}}, suspect)
        await self._database[VERSIONS].delete_many(of_nodes)
        await self._database[NODES].delete_many({"_id": {"$in": list(node_ids)}})

    async def _forget(self, namespace_id: str) -> int:
        for collection in (USAGE, COUNTERS, NAMESPACES):
            await self._database[collection].delete_one({"_id": namespace_id})
        return 1


def _pieces(rows: Sequence[Document]) -> list[Sequence[Document]]:
    return [rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE)]
