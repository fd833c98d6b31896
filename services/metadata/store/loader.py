"""Load what an evaluation needs, many things in few queries, inside its transaction.

Lists are asked for in pieces: the embedded default compares every found document with the whole
list of an `$in`.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from libs.mongo.client import Database, Document, Session
from libs.mongo.names import NODES, OBJECTS, VERSIONS
from services.metadata.domain.model import Node, Slot, Version
from services.metadata.domain.tree import Loaded, Need
from services.metadata.store.documents import node_of, object_of, version_of

_PIECE = 50
_HINTS = 100_000

_UNKNOWN = object()

T = TypeVar("T")


class ParentHints:
    """Where a node's parent was last seen, so that a whole chain is loaded in one query.

    Only a hint: what is loaded by it is looked at, never believed unseen.
    """

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def with_chains(self, node_ids: Iterable[str], namespace_id: str) -> set[str]:
        """Return the ids and those of the folders probably above them."""
        found: set[str] = set()
        for start in node_ids:
            node_id: str | None = start
            while node_id is not None and node_id != namespace_id and node_id not in found:
                found.add(node_id)
                node_id = self._parents.get(node_id)
        return found

    def learn(self, nodes: Iterable[Node]) -> None:
        """Remember the parents."""
        if len(self._parents) > _HINTS:
            self._parents.clear()
        self._parents.update({node.id: node.parent_id for node in nodes})


class Loader:
    """Fills a `Loaded` with what is needed."""

    def __init__(
        self, database: Database, session: Session, hints: ParentHints, *, max_unseen: int, head: int
    ) -> None:
        self._database = database
        self._session = session
        self._hints = hints
        self._max_unseen = max_unseen
        self._head = head

    async def load(self, need: Need, into: Loaded) -> None:
        """Load everything asked for, and for every node the folders above it."""
        await self._nodes(need.nodes, into)
        await self._slots(need.slots, into)
        for item in await self._by_id(VERSIONS, need.versions, into.versions):
            into.versions[item["_id"]] = version_of(item)
        for item in await self._by_id(OBJECTS, need.objects, into.objects):
            into.objects[item["_id"]] = object_of(item)
        for seq in need.newer:
            into.newer[seq] = await self._newer(seq, into)
        for object_id in need.uses:
            into.uses[object_id] = await self._uses(object_id, into)
        for node_id in need.histories:
            into.histories[node_id] = await self._history(node_id)

    async def _nodes(self, node_ids: Collection[str], into: Loaded) -> None:
        missing = self._hints.with_chains(node_ids, into.namespace_id) - into.nodes.keys()
        while missing:
            found = [node_of(item) for item in await self._by_id(NODES, missing, into.nodes)]
            missing = self._add(found, into)

    def _add(self, nodes: Collection[Node], into: Loaded) -> set[str]:
        """Keep the nodes; return the parents that are not known yet."""
        self._hints.learn(nodes)
        into.nodes.update({node.id: node for node in nodes})
        parents = {node.parent_id for node in nodes if node.parent_id != into.namespace_id}
        return parents - into.nodes.keys()

    async def _by_id(
        self, collection: str, ids: Collection[str], into: dict[str, T | None]
    ) -> list[Document]:
        """Return the documents that are not known; every id asked for is known from now on."""
        missing = set(ids) - into.keys()
        into.update(dict.fromkeys(missing))
        return [item async for item in self._pieces(collection, {}, "_id", missing)]

    async def _slots(self, slots: Collection[Slot], into: Loaded) -> None:
        into.slots.update(dict.fromkeys(slots))
        by_parent: dict[str, list[str]] = {}
        for parent_id, key in slots:
            if into.nodes.get(parent_id, _UNKNOWN) is not None:  # else it is new: nothing is in it
                by_parent.setdefault(parent_id, []).append(key)
        found: list[Node] = []
        for parent_id, keys in by_parent.items():
            place = {"namespace_id": into.namespace_id, "parent_id": parent_id, "deleted": False}
            found += [node_of(item) async for item in self._pieces(NODES, place, "name_key", keys)]
        into.slots.update({node.slot: node.id for node in found})
        await self._nodes(self._add(found, into), into)

    async def _newer(self, seq: int, into: Loaded) -> tuple[str, ...] | None:
        if self._head - seq > self._max_unseen:
            return None
        query = {"namespace_id": into.namespace_id, "seq": {"$gt": seq, "$lte": self._head}}
        found = [node_of(item) for item in await self._find(NODES, query)]
        await self._nodes(self._add(found, into), into)
        return tuple(node.id for node in found)

    async def _uses(self, object_id: str, into: Loaded) -> tuple[Version, ...]:
        found = tuple(version_of(item) for item in await self._find(VERSIONS, {"object_id": object_id}))
        await self._nodes({version.node_id for version in found}, into)
        return found

    async def _history(self, node_id: str) -> tuple[Version, ...]:
        found = [version_of(item) for item in await self._find(VERSIONS, {"node_id": node_id})]
        return tuple(sorted(found, key=lambda version: version.seq, reverse=True))

    async def _pieces(
        self, collection: str, where: Document, field: str, values: Collection[str]
    ) -> AsyncIterator[Document]:
        for piece in _cut(values):
            for item in await self._find(collection, {**where, field: {"$in": piece}}):
                yield item

    async def _find(self, collection: str, query: Document) -> list[Document]:
        return await self._database[collection].find(query, session=self._session).to_list(None)


def _cut(values: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(values)
    while piece := list(islice(rest, _PIECE)):
        yield piece
