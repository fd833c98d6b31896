"""Versions of the collections' schema: migrations run forward, a newer schema is refused."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from libs.contracts.errors import UnavailableError
from libs.contracts.ids import new_id
from libs.mongo.client import Database, translated
from libs.mongo.names import SCHEMA
from libs.mongo.views import DEPLOYMENT_ID
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger

log = get_logger("schema")

Migration = Callable[[Database], Awaitable[None]]

_RETRY = Backoff(0.2, 5.0)


class SchemaTooNewError(RuntimeError):
    """The database was written by a newer version of this service."""


async def migrate(database: Database, service: str, migrations: Sequence[Migration]) -> None:
    """Bring the service's collections to version `len(migrations)`.

    Each migration must be safe to repeat: two processes may start at once, and a crash repeats
    it. Raises `SchemaTooNewError` when the database is ahead of this program.
    """
    with translated():
        row = await database[SCHEMA].find_one({"_id": service})
        version = int(row["version"]) if row else 0
        if version > len(migrations):
            message = (
                f"schema {version} of {service} is newer than this program ({len(migrations)}): upgrade it"
            )
            raise SchemaTooNewError(message)
        for number in range(version, len(migrations)):
            await migrations[number](database)
            await _record(database, service, number + 1)


async def deployment_id(database: Database) -> str:
    """Return what names this database, and so this deployment: made by whoever asks first, kept for good.

    It is in backups, so a restored database is the same deployment.
    """
    with translated(), suppress(DuplicateKeyError):
        row = await database[SCHEMA].find_one({"_id": DEPLOYMENT_ID})
        if row is not None:
            return str(row["value"])
        await database[SCHEMA].insert_one({"_id": DEPLOYMENT_ID, "value": new_id()})
    with translated():
        row = await database[SCHEMA].find_one({"_id": DEPLOYMENT_ID})
    if row is None:
        raise UnavailableError("The database has forgotten what was just written", retry_after=1)
    return str(row["value"])


class Schema:
    """The schema of one service in a process that starts while the database may be away."""

    def __init__(self, database: Database, service: str, migrations: Sequence[Migration]) -> None:
        self._database = database
        self._service = service
        self._migrations = migrations
        self._done = False

    async def bring_up(self) -> None:
        """Migrate as soon as the database answers. Raises `SchemaTooNewError`."""
        tries = 0
        while not self._done:
            try:
                await migrate(self._database, self._service, self._migrations)
                self._done = True
            except UnavailableError as error:
                log.warning("schema waits for the database", reason=error.detail)
                await asyncio.sleep(_RETRY.delay(tries))
                tries += 1

    async def check(self) -> None:
        """Raise `UnavailableError` until the schema is up: before that no index guards a write."""
        if not self._done:
            raise UnavailableError("The database's schema is not ready", retry_after=2)


async def _record(database: Database, service: str, version: int) -> None:
    try:
        await database[SCHEMA].update_one({"_id": service}, {"$max": {"version": version}}, upsert=True)
    except DuplicateKeyError:  # another process of the service inserted it in the same instant
        await database[SCHEMA].update_one({"_id": service}, {"$max": {"version": version}})


def create_indexes(collection: str, indexes: Sequence[IndexModel]) -> Migration:
    """Return a migration that creates indexes (repeating it changes nothing)."""

    async def run(database: Database) -> None:
        await database[collection].create_indexes(list(indexes))

    return run
