"""Reads for the API: nodes by id, by place and by sequence number, versions, counters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libs.contracts.paths import name_key
from libs.mongo.client import Database, Document, translated
from libs.mongo.names import COUNTERS, NODES, USAGE, VERSIONS
from services.metadata.domain.model import Node, Version
from services.metadata.store.documents import node_of, version_of

_FIRST_WINDOW = 8
_PIECE = 50


@dataclass(frozen=True, slots=True)
class Head:
    """Where a namespace's feed ends, and up to where old tombstones were purged."""

    seq: int
    purged_seq: int
    purged_us: int


@dataclass(frozen=True, slots=True)
class Used:
    """What a namespace holds. `files` counts those not deleted themselves."""

    bytes: int
    files: int


class ReadStore:
    """Reads outside of transactions, from the primary with majority concern."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._nodes = database[NODES]

    async def node(self, node_id: str) -> Node | None:
        """Return a node, deleted or not, unless it is being purged."""
        with translated():
            row = await self._nodes.find_one({"_id": node_id})
        return None if row is None or row.get("purging") else node_of(row)

    async def folders_above(self, nodes: Sequence[Node]) -> dict[str, Node | None]:
        """Return every folder above the nodes by id; None for one that is there no more."""
        found: dict[str, Node | None] = {}
        missing = _parents(nodes, found)
        while missing:
            found.update(dict.fromkeys(missing))
            loaded = [node for piece in _pieces(missing) for node in await self._by_ids(piece)]
            found.update({node.id: node for node in loaded})
            missing = _parents(loaded, found)
        return found

    async def _by_ids(self, ids: Sequence[str]) -> list[Node]:
        with translated():
            rows = await self._nodes.find({"_id": {"$in": list(ids)}}).to_list(None)
        return [node_of(row) for row in rows]

    async def child(self, namespace_id: str, parent_id: str, name: str) -> Node | None:
        """Return the live node of this name in a folder."""
        query = _place(namespace_id, parent_id) | {"name_key": {"$eq": name_key(name)}}
        with translated():
            rows = await self._nodes.find(query).to_list(None)
        return node_of(rows[0]) if rows else None

    async def children(self, namespace_id: str, parent_id: str, after: str, limit: int) -> list[Node]:
        """Return live nodes of a folder whose name key is greater than `after`, by name key."""
        query = _place(namespace_id, parent_id) | {"name_key": {"$gt": after}}
        with translated():
            rows = await self._nodes.find(query).sort("name_key", 1).limit(limit).to_list(None)
        return [node_of(row) for row in rows]

    async def head(self, namespace_id: str) -> Head:
        """Return the counters of a namespace."""
        with translated():
            row = await self._database[COUNTERS].find_one({"_id": namespace_id})
        return Head(row["seq"], row["purged_seq"], row["purged_us"]) if row else Head(0, 0, 0)

    async def between(self, namespace_id: str, after: int, up_to: int) -> list[Node]:
        """Return the nodes with after < seq ≤ up_to, in order of seq."""
        return [node_of(row) for row in await self._between({"namespace_id": namespace_id}, after, up_to)]

    async def deleted_between(self, namespace_id: str, after: int, up_to: int) -> list[Node]:
        """Return the deleted nodes with after < seq ≤ up_to, in order of seq."""
        query = {"namespace_id": namespace_id, "deleted": True}
        return [node_of(row) for row in await self._between(query, after, up_to)]

    async def _between(self, query: Document, after: int, up_to: int) -> list[Document]:
        window = {"seq": {"$gt": after, "$lte": up_to}}
        with translated():
            rows = await self._nodes.find(query | window).to_list(None)
        return sorted(rows, key=lambda row: int(row["seq"]))

    async def first_after(self, namespace_id: str, after: int, up_to: int) -> Node | None:
        """Return the node with the lowest seq in after < seq ≤ up_to."""
        width = _FIRST_WINDOW
        while after < up_to:
            found = await self.between(namespace_id, after, min(after + width, up_to))
            if found:
                return found[0]
            after, width = after + width, width * 2
        return None

    async def versions(self, node_id: str) -> list[Version]:
        """Return a node's versions, newest first. Retention bounds their number."""
        with translated():
            rows = await self._database[VERSIONS].find({"node_id": node_id}).to_list(None)
        return sorted((version_of(row) for row in rows), key=lambda version: version.seq, reverse=True)

    async def used(self, namespace_ids: Sequence[str]) -> Used:
        """Return what namespaces hold together."""
        with translated():
            rows = await self._database[USAGE].find({"_id": {"$in": list(namespace_ids)}}).to_list(None)
        return Used(sum(row["used_bytes"] for row in rows), sum(row["files"] for row in rows))


def _parents(nodes: Sequence[Node], known: Mapping[str, Node | None]) -> list[str]:
    """Return the parents that are not known yet; the root is no node."""
    parents = {node.parent_id for node in nodes if node.parent_id != node.namespace_id}
    return [parent_id for parent_id in parents if parent_id not in known]


def _pieces(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _PIECE] for start in range(0, len(ids), _PIECE)]


def _place(namespace_id: str, parent_id: str) -> Document:
    return {"namespace_id": namespace_id, "parent_id": parent_id, "deleted": False}
