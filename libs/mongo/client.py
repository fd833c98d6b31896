"""Connecting to MongoDB, transactions, and the translation of the driver's errors.

Driver types are named here once (`Database`, `Session`), so that moving from Motor to PyMongo's
async API changes the stores' imports and this file.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorClientSession, AsyncIOMotorDatabase
from pymongo import ReadPreference
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from libs.contracts.errors import UnavailableError
from libs.runtime.settings import MongoSettings

Document = dict[str, Any]
Database = AsyncIOMotorDatabase[Document]
Session = AsyncIOMotorClientSession
T = TypeVar("T")

_AWAY = (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)


@asynccontextmanager
async def open_database(settings: MongoSettings) -> AsyncIterator[Database]:
    """Open the database for the lifetime of the context; it connects when first used.

    Reads come from the primary with majority concern and writes wait for the majority's journal,
    whatever the URL says. Times are aware, in UTC.
    """
    milliseconds = int(settings.mongo_timeout * 1000)
    client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
        settings.mongo_url.get_secret_value(),
        serverSelectionTimeoutMS=milliseconds,
        connectTimeoutMS=milliseconds,
        socketTimeoutMS=max(milliseconds, 20_000),
        appname="lockstep",
    )
    try:
        yield client.get_database(
            settings.mongo_database,
            codec_options=CodecOptions(tz_aware=True),
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True),
        )
    finally:
        client.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's "server is away" errors into `UnavailableError`."""
    try:
        yield
    except _AWAY as error:
        raise UnavailableError("The database does not answer", retry_after=2) from error


async def in_transaction(database: Database, body: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
    """Run `body` in a transaction and return its result.

    The driver repeats it on transient conflicts, so `body` must be free of other effects. An
    outcome that stays unknown (connection lost in commit) is `UnavailableError`: the caller's
    repeat must be idempotent.
    """

    async def guarded(session: Session) -> T:
        with translated():  # else the driver takes a dead server for a conflict, and tries for two minutes
            return await body(session)

    with translated():
        async with await database.client.start_session() as session:
            result: T = await session.with_transaction(
                guarded,
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern(w="majority", j=True),
                read_preference=ReadPreference.PRIMARY,
            )
            return result


async def ping(database: Database) -> None:
    """Raise `UnavailableError` unless the database answers."""
    with translated():
        await database.command("ping")
