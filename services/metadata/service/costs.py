"""What history costs an account: measured when asked for while that is quick, else in the background."""

import asyncio
from collections import defaultdict
from datetime import datetime, timedelta

from libs.contracts.api import HistoryCosts
from libs.contracts.internal import Round
from libs.mongo.client import Database, translated
from libs.mongo.names import NAMESPACES
from libs.mongo.walks import window_of
from services.metadata.domain.costs import Costs
from services.metadata.settings import Settings
from services.metadata.store.costs import CostStore

_NAMESPACES = 20
"""Of one background step."""


class CostService:
    """Measures a namespace once at a time, and no more often than the settings say."""

    def __init__(self, settings: Settings, database: Database, store: CostStore) -> None:
        self._fresh = timedelta(seconds=settings.usage_history_seconds)
        self._quick_rows = settings.usage_history_rows
        self._database = database
        self._store = store
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def of(self, namespace_id: str, now: datetime) -> HistoryCosts | None:
        """Return what was measured last, or now where that is quick; None: not measured yet."""
        try:
            async with self._locks[namespace_id]:
                return await self._of(namespace_id, now)
        finally:
            if not self._locks[namespace_id].locked():
                del self._locks[namespace_id]

    async def _of(self, namespace_id: str, now: datetime) -> HistoryCosts | None:
        known = await self._store.known(namespace_id)
        if known is not None and (known[2] or now - known[1] < self._fresh):
            return _shown(known[0], known[1])
        if await self._store.size(namespace_id) <= self._quick_rows:
            return _shown(*await self._store.measure(namespace_id))
        return None if known is None else _shown(known[0], known[1])

    async def measure(self, place: str | None) -> Round:
        """Measure some namespaces that are too large to be measured while somebody waits."""
        window = await window_of(self._database, NAMESPACES, place, _NAMESPACES)
        with translated():
            rows = self._database[NAMESPACES].find(window.on("_id"), {"deleted_at": 1})
            ids = [row["_id"] async for row in rows if row.get("deleted_at") is None]
        return Round(done=sum([await self._measure(namespace_id) for namespace_id in ids]), next=window.high)

    async def _measure(self, namespace_id: str) -> int:
        known = await self._store.known(namespace_id)
        if await self._store.size(namespace_id) <= self._quick_rows or (known is not None and known[2]):
            return 0
        await self._store.measure(namespace_id)
        return 1


def _shown(costs: Costs, at: datetime) -> HistoryCosts:
    return HistoryCosts(
        measured_at=at,
        current_bytes=costs.current_bytes,
        older_bytes=costs.older_bytes,
        deleted_bytes=costs.deleted_bytes,
        versions=costs.versions,
        objects=costs.objects,
    )
