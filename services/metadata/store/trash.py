"""Purging what was deleted long ago: a deleted node, all that is below it, and their versions.

First the topmost deleted node is marked `purging`, in a transaction that raises `purged_seq`: from
then on nothing brings it or anything below it back, so its tree cannot change while it is removed in
batches, children first. A restore that comes before the mark wins, one that comes after finds nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from libs.contracts.tree import Kind
from libs.mongo.client import Database, Document, Session, in_transaction, translated
from libs.mongo.names import COUNTERS, NODES, USAGE, VERSIONS
from services.metadata.domain.model import Node, from_micros
from services.metadata.domain.trail import topmost_deleted
from services.metadata.store.documents import node_of
from services.metadata.store.reads import ReadStore
from services.metadata.store.removal import lock, pieces, remove_versions

_MARKED: Final = 500
"""Nodes marked in one go: so many are read to find what is being purged."""
_LEAVES: Final = 500
"""Nodes removed in one call."""
_VERSIONS: Final = 1000
"""Versions that one transaction removes."""


class TrashStore:
    """Removes a little at each call; every step can be repeated, and stopped anywhere."""

    def __init__(
        self, database: Database, reads: ReadStore, age: timedelta, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._nodes = database[NODES]
        self._reads = reads
        self._age = age
        self._clock = clock

    async def purge(self) -> int:
        """Remove some of what was deleted too long ago; return how much was done, 0: nothing is left."""
        with translated():
            rows = await self._nodes.find({"purging": True}).limit(_MARKED).to_list(None)
        marked = [node_of(row) for row in rows]
        return await self._remove_marked(marked) or await self._mark_due()

    # Marking ----------------------------------------------------------------------------------

    async def _mark_due(self) -> int:
        """Mark what is due; what a folder deleted later hides is looked at again when that is due."""
        before = self._clock() - self._age
        with translated():
            query = {"deleted_at": {"$lte": before}}
            rows = await self._nodes.find(query).sort("deleted_at", 1).limit(_MARKED).to_list(None)
        due = [node_of(row) for row in rows]
        folders = await self._reads.folders_above(due)
        tops = {node.id: topmost_deleted(node, folders) for node in due}
        late = {node.id: tops[node.id] for node in due if _deleted_at(tops[node.id]) > before}
        for node_id, top in late.items():
            await self._postpone(node_id, top)
        ready = {top.id: top for node_id, top in tops.items() if node_id not in late}
        return len(late) + await self._mark(list(ready.values()), before)

    async def _postpone(self, node_id: str, top: Node) -> None:
        later = {"$max": {"deleted_at": _deleted_at(top)}}
        with translated():
            await self._nodes.update_one({"_id": node_id, "deleted": True}, later)

    async def _mark(self, tops: Sequence[Node], before: datetime) -> int:
        done = 0
        for namespace_id, nodes in _by_namespace(tops).items():
            for piece in pieces([node.id for node in nodes]):
                done += await self._mark_piece(namespace_id, piece, before)
        return done

    async def _mark_piece(self, namespace_id: str, node_ids: Sequence[str], before: datetime) -> int:
        async def body(session: Session) -> int:
            if not await lock(self._database, session, namespace_id):
                return 0
            query = {"_id": {"$in": list(node_ids)}}
            rows = await self._nodes.find(query, session=session).to_list(None)
            still = [node for node in map(node_of, rows) if node.deleted and _deleted_at(node) <= before]
            await self._raise_purged(session, namespace_id, still)
            mark = {"$set": {"purging": True}, "$unset": {"deleted_at": ""}}
            ids = [node.id for node in still]
            await self._nodes.update_many({"_id": {"$in": ids}}, mark, session=session)
            return len(still)

        return await in_transaction(self._database, body)

    async def _raise_purged(self, session: Session, namespace_id: str, nodes: Sequence[Node]) -> None:
        """Have cursors refused that have not passed these nodes: their rows are going to be missing."""
        if nodes:
            seq, micros = max(node.seq for node in nodes), max(node.changed_us for node in nodes)
            place = {"$max": {"purged_seq": seq, "purged_us": micros}}
            await self._database[COUNTERS].update_one({"_id": namespace_id}, place, session=session)

    # Removing ---------------------------------------------------------------------------------

    async def _remove_marked(self, marked: Sequence[Node]) -> int:
        """Remove some of what is marked in one namespace; a closed one is purged as a whole elsewhere."""
        for namespace_id, tops in _by_namespace(marked).items():
            leaves = [node.id for node in await self._leaves(tops)]
            done = sum([await self._remove(namespace_id, piece) for piece in pieces(leaves)])
            if done:
                return done
        return 0

    async def _leaves(self, nodes: list[Node]) -> list[Node]:
        """Return nodes at or below these that have nothing below themselves."""
        while children := await self._children(nodes):
            nodes = children
        return nodes

    async def _children(self, parents: Sequence[Node]) -> list[Node]:
        """Return about `_LEAVES` children of the nodes, deleted ones too."""
        found: list[Node] = []
        for parent in parents:
            if parent.kind is Kind.FOLDER and len(found) < _LEAVES:
                found += await self._inside(parent)
        return found

    async def _inside(self, parent: Node) -> list[Node]:
        live = {"namespace_id": parent.namespace_id, "parent_id": parent.id, "deleted": False}
        found: list[Document] = []
        for query in ({**live, "name_key": {"$gte": ""}}, {"deleted_in": parent.id}):
            with translated():
                found += await self._nodes.find(query).limit(_LEAVES).to_list(None)
        return [node_of(row) for row in found]

    async def _remove(self, namespace_id: str, node_ids: Sequence[str]) -> int:
        """Remove nodes without children, their versions first, in one transaction or in several."""

        async def body(session: Session) -> int | None:
            if not await lock(self._database, session, namespace_id):
                return 0
            of_nodes = {"node_id": {"$in": list(node_ids)}}
            found = self._database[VERSIONS].find(of_nodes, {"object_id": 1}, session=session)
            versions = await found.limit(_VERSIONS).to_list(None)
            await remove_versions(self._database, session, versions, self._clock())
            if len(versions) == _VERSIONS:
                return None
            return await self._remove_nodes(session, namespace_id, node_ids)

        while (done := await in_transaction(self._database, body)) is None:
            pass
        return done

    async def _remove_nodes(self, session: Session, namespace_id: str, node_ids: Sequence[str]) -> int:
        query: Document = {"_id": {"$in": list(node_ids)}}
        nodes = [node_of(row) for row in await self._nodes.find(query, session=session).to_list(None)]
        await self._raise_purged(session, namespace_id, nodes)
        files = sum(node.counts for node in nodes)
        if files:
            fewer = {"$inc": {"files": -files}}
            await self._database[USAGE].update_one({"_id": namespace_id}, fewer, session=session)
        await self._nodes.delete_many(query, session=session)
        return len(nodes)


def _deleted_at(node: Node) -> datetime:
    """MongoDB's times have milliseconds; so must what is compared with them."""
    return from_micros(node.changed_us // 1000 * 1000)


def _by_namespace(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in nodes:
        found.setdefault(node.namespace_id, []).append(node)
    return found
