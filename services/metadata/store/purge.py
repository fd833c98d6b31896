"""Removing what is left of namespaces whose account was deleted, a little at a time."""

from collections.abc import Callable, Sequence
from datetime import datetime

from libs.mongo.client import Database, Session, in_transaction, translated
from libs.mongo.names import COUNTERS, NAMESPACES, NODES, USAGE, VERSIONS
from services.metadata.store.removal import pieces, remove_versions

_WINDOW = 500


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
        counter = await self._database[COUNTERS].find_one({"_id": namespace_id}) or {"seq": 0}
        done, reached = 0, int(counter.get("removed_seq", 0))
        while not done and reached < counter["seq"]:
            done = await self._window(namespace_id, reached)
            reached += _WINDOW
            place = {"$set": {"removed_seq": reached}}
            await self._database[COUNTERS].update_one({"_id": namespace_id}, place)
        return done or await self._forget(namespace_id)

    async def _window(self, namespace_id: str, after: int) -> int:
        query = {"namespace_id": namespace_id, "seq": {"$gt": after, "$lte": after + _WINDOW}}
        nodes = await self._database[NODES].find(query, {"_id": 1}).to_list(None)
        for piece in pieces([node["_id"] for node in nodes]):
            await self._remove(piece)
        return len(nodes)

    async def _remove(self, node_ids: Sequence[str]) -> None:
        async def body(session: Session) -> None:
            of_nodes = {"node_id": {"$in": list(node_ids)}}
            found = self._database[VERSIONS].find(of_nodes, {"object_id": 1}, session=session)
            await remove_versions(self._database, session, await found.to_list(None), self._clock())
            await self._database[NODES].delete_many({"_id": {"$in": list(node_ids)}}, session=session)

        await in_transaction(self._database, body)

    async def _forget(self, namespace_id: str) -> int:
        for collection in (USAGE, COUNTERS, NAMESPACES):
            await self._database[collection].delete_one({"_id": namespace_id})
        return 1
