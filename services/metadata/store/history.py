"""Thinning the history of files: versions that retention does not keep."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Final

from libs.mongo.client import Database, Document, Session, in_transaction, translated
from libs.mongo.names import NODES, VERSIONS
from libs.mongo.walks import window_of
from services.metadata.domain.retention import Retention
from services.metadata.store.documents import version_of
from services.metadata.store.removal import lock, remove_versions

_WINDOW: Final = 2000
_BATCH: Final = 500
"""Versions that one transaction removes."""


class HistoryStore:
    """Goes through all versions by the ids of their files; only long histories are looked at."""

    def __init__(self, database: Database, retention: Retention, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._retention = retention
        self._clock = clock

    async def thin(self, place: str | None) -> tuple[int, str | None]:
        """Thin the files of one window of ids; return how many versions went, and the next place.

        None as the next place: all files were looked at.
        """
        window = await window_of(self._database, VERSIONS, place, _WINDOW)
        with translated():
            found = self._database[VERSIONS].find(window.on("node_id"), {"_id": 0, "node_id": 1})
            lengths = Counter([row["node_id"] async for row in found])
        long = [node_id for node_id, length in lengths.items() if length > self._retention.count]
        return sum([await self._thin(node_id) for node_id in long]), window.high

    async def _thin(self, node_id: str) -> int:
        done = 0
        while removed := await in_transaction(self._database, lambda session: self._batch(session, node_id)):
            done += removed
        return done

    async def _batch(self, session: Session, node_id: str) -> int:
        """Remove some versions of a file under the lock of its namespace: what it shows cannot change now."""
        query: Document = {"node_id": node_id}
        one = await self._database[VERSIONS].find_one(query, {"namespace_id": 1}, session=session)
        if one is None or not await lock(self._database, session, one["namespace_id"]):
            return 0
        node = await self._database[NODES].find_one({"_id": node_id}, {"version_id": 1}, session=session)
        if node is None:
            return 0
        rows = await self._database[VERSIONS].find(query, session=session).to_list(None)
        history = sorted(map(version_of, rows), key=lambda version: version.seq, reverse=True)
        now = self._clock()
        over = self._retention.over(history, node["version_id"], now)[:_BATCH]
        removed = [{"_id": version.id, "object_id": version.object_id} for version in over]
        await remove_versions(self._database, session, removed, now)
        return len(removed)
