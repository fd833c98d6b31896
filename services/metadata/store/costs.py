"""Measuring what history costs, and keeping the result beside the used bytes."""

from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from libs.mongo.client import Database, Document, translated
from libs.mongo.names import COUNTERS, NODES, USAGE, VERSIONS
from services.metadata.domain.costs import Costs, Kept, Ledger
from services.metadata.store.documents import node_of
from services.metadata.store.removal import pieces

_WINDOW: Final = 2000
"""Sequence numbers of one query."""


class CostStore:
    """Reads all nodes and versions of a namespace by index: never in the way of a change."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def known(self, namespace_id: str) -> tuple[Costs, datetime, bool] | None:
        """Return what was measured last, when, and whether it is still so; None: never measured."""
        with translated():
            row = await self._database[USAGE].find_one({"_id": namespace_id})
        if row is None or "costs" not in row:
            return None
        kept = dict(row["costs"])
        at, stamp = kept.pop("at"), kept.pop("stamp")
        return Costs(**kept), at, stamp == (await self._stamp(namespace_id))[1]

    async def size(self, namespace_id: str) -> int:
        """Return about how much there is to read: the last sequence number."""
        return (await self._stamp(namespace_id))[0]

    async def measure(self, namespace_id: str) -> tuple[Costs, datetime]:
        """Measure now, and remember it."""
        at = self._clock()
        head, stamp = await self._stamp(namespace_id)
        ledger = Ledger()
        async for row in self._nodes(namespace_id, head):
            ledger.add_node(node_of(row))
        for piece in pieces(list(ledger.files)):
            ledger.add_versions(await self._versions(piece))
        costs = ledger.costs()
        kept: dict[str, Any] = {**asdict(costs), "at": at, "stamp": stamp}
        with translated():
            await self._database[USAGE].update_one({"_id": namespace_id}, {"$set": {"costs": kept}})
        return costs, at

    async def _stamp(self, namespace_id: str) -> tuple[int, list[int]]:
        """Return the head, and what changes with every change of the namespace."""
        with translated():
            row = await self._database[COUNTERS].find_one({"_id": namespace_id})
        return (0, []) if row is None else (int(row["seq"]), [int(row["seq"]), int(row["lock"])])

    async def _nodes(self, namespace_id: str, head: int) -> AsyncIterator[Document]:
        for after in range(0, head, _WINDOW):
            query = {"namespace_id": namespace_id, "seq": {"$gt": after, "$lte": after + _WINDOW}}
            with translated():
                async for row in self._database[NODES].find(query):
                    yield row

    async def _versions(self, node_ids: list[str]) -> list[Kept]:
        fields = {"node_id": 1, "object_id": 1, "size": 1}
        with translated():
            rows = self._database[VERSIONS].find({"node_id": {"$in": node_ids}}, fields)
            return [Kept(row["_id"], row["node_id"], row["object_id"], row["size"]) async for row in rows]
