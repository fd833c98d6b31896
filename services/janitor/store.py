"""Leases in MongoDB: of many janitors one does each job."""

from datetime import UTC, datetime, timedelta

from pymongo.errors import DuplicateKeyError

from libs.mongo.client import Database, translated
from libs.mongo.names import LEASES


class Leases:
    """The leases as one process, `owner`, takes them."""

    def __init__(self, database: Database, owner: str) -> None:
        self._rows = database[LEASES]
        self._owner = owner

    async def take(self, job: str, seconds: float) -> bool:
        """Take or renew the lease of `job`; False while another owner's runs."""
        now = datetime.now(UTC)
        fields = {"owner": self._owner, "until": now + timedelta(seconds=seconds)}
        with translated():
            for query in ({"_id": job, "owner": self._owner}, {"_id": job, "until": {"$lt": now}}):
                if (await self._rows.update_one(query, {"$set": fields})).matched_count:
                    return True
            try:
                await self._rows.insert_one({"_id": job, **fields})
            except DuplicateKeyError:
                return False
            return True

    async def release_all(self) -> None:
        """Let others take over at once."""
        with translated():
            await self._rows.delete_many({"owner": self._owner})
