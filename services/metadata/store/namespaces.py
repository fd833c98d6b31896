"""Namespaces, their counters and the server's epoch."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from pymongo.errors import DuplicateKeyError

from libs.contracts.errors import ConflictError
from libs.mongo.client import Database, Document, Session, in_transaction, translated
from libs.mongo.names import COUNTERS, NAMESPACES, USAGE
from libs.mongo.views import EPOCH_ID

_OWNER: Final = "owner"
_TRIES: Final = 5


class NamespaceStore:
    """Making and removing namespaces."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def create(self, namespace_id: str, user_id: str) -> None:
        """Make a user's namespace; made before counts as done. `ConflictError` when it is another's."""

        async def body(session: Session) -> None:
            found = await self._database[NAMESPACES].find_one({"_id": namespace_id}, session=session)
            if found is None:
                await self._insert(session, namespace_id, user_id)
            elif found.get("deleted_at") is not None or found["members"][0]["user_id"] != user_id:
                raise ConflictError(code="id_taken")

        for attempt in range(_TRIES):
            try:
                await in_transaction(self._database, body)
            except DuplicateKeyError:  # made in the same instant
                if attempt == _TRIES - 1:
                    raise
            else:
                return

    async def _insert(self, session: Session, namespace_id: str, user_id: str) -> None:
        members = [{"user_id": user_id, "role": _OWNER}]
        namespace = {"_id": namespace_id, "members": members, "created_at": self._clock()}
        counter = {"_id": namespace_id, "seq": 0, "changed_us": 0, "purged_seq": 0, "purged_us": 0, "lock": 0,
                   "closed": False}  # fmt: skip
        await self._database[NAMESPACES].insert_one(namespace, session=session)
        await self._database[COUNTERS].insert_one(counter, session=session)
        usage = {"_id": namespace_id, "used_bytes": 0, "files": 0}
        await self._database[USAGE].insert_one(usage, session=session)

    async def remove(self, namespace_id: str, user_id: str) -> bool:
        """Close the namespace for good: no member and no change from now on. False: not that user's."""

        async def body(session: Session) -> bool:
            closed = {"$set": {"closed": True}, "$inc": {"lock": 1}}
            await self._database[COUNTERS].update_one({"_id": namespace_id}, closed, session=session)
            found = await self._database[NAMESPACES].find_one({"_id": namespace_id}, session=session)
            if found is None or found["members"][0]["user_id"] != user_id:
                return False
            if found.get("deleted_at") is None:
                deleted = {"$set": {"deleted_at": self._clock()}}
                await self._database[NAMESPACES].update_one({"_id": namespace_id}, deleted, session=session)
            return True

        return await in_transaction(self._database, body)


class EpochStore:
    """The server's epoch: rises with every restore from a backup."""

    def __init__(self, database: Database, *, believed_seconds: float = 0) -> None:
        self._database = database
        self._believed_seconds = believed_seconds
        self._known: tuple[float, int] | None = None

    async def ensure(self) -> None:
        """Make the first epoch when there is none."""
        first = {"$setOnInsert": {"value": _now_ms()}}
        with translated():
            try:
                await self._database[COUNTERS].update_one({"_id": EPOCH_ID}, first, upsert=True)
            except DuplicateKeyError:  # another process made it in the same instant
                return

    async def current(self, *, fresh: bool = False) -> int:
        """Return the epoch, at most some seconds old, or read anew when `fresh`."""
        now = asyncio.get_running_loop().time()
        if fresh or self._known is None or self._known[0] <= now:
            row = await self._row()
            self._known = (now + self._believed_seconds, int(row["value"]) if row else 0)
        return self._known[1]

    async def renew(self, now: datetime) -> int:
        """Begin a new epoch and return it."""

        async def body(session: Session) -> int:
            row = await self._database[COUNTERS].find_one({"_id": EPOCH_ID}, session=session)
            value = max(_now_ms(), int(row["value"]) + 1 if row else 0)
            new = {"$set": {"value": value, "renewed_at": now}}
            await self._database[COUNTERS].update_one({"_id": EPOCH_ID}, new, upsert=True, session=session)
            return value

        return await in_transaction(self._database, body)

    async def _row(self) -> Document | None:
        with translated():
            return await self._database[COUNTERS].find_one({"_id": EPOCH_ID})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
