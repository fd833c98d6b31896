"""Collections' indexes, each with the query that needs it.

An index costs every insert, so there is none that only a rare query wants. `deleted` stands in
the key of the index of places, beside the partial filter, because the embedded default plans
"equal, equal, equal, range" only along the key; query `name_key` by an operator, never barely.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from pymongo import ASCENDING, IndexModel

from libs.mongo.client import Database
from libs.mongo.names import COMMITS, NAMESPACES, NODES, OBJECTS, VERSIONS
from libs.mongo.schema import Migration, create_indexes
from services.metadata.store.namespaces import EpochStore


def _index(*fields: str, **options: object) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], **options)


def migrations(commit_record_seconds: int) -> Sequence[Migration]:
    """Return the steps from an empty database to this version's schema."""

    async def first(database: Database) -> None:
        for step in _first_schema(commit_record_seconds):
            await step(database)
        await EpochStore(database).ensure()

    async def second(database: Database) -> None:
        for step in _retention():
            await step(database)

    return (first, second)


def _first_schema(commit_record_seconds: int) -> tuple[Migration, ...]:
    return (
        create_indexes(NODES, [
            # One live node per place; listing a folder by name.
            _index("namespace_id", "parent_id", "deleted", "name_key", unique=True,
                   partialFilterExpression={"deleted": False}),
            # The feed.
            _index("namespace_id", "seq"),
            # The trash, last deleted first.
            _index("namespace_id", "deleted", "seq", partialFilterExpression={"deleted": True}),
        ]),
        create_indexes(VERSIONS, [
            # A file's history; an entry of a session commits once because its version's _id says so.
            _index("node_id", "seq"),
            # Is the object garbage?
            _index("object_id"),
        ]),
        create_indexes(OBJECTS, [
            # "The same content is here already."
            _index("namespace_id", "state", "verified", "content_hash"),
            # The sweep's question: whose key is this?
            _index("key"),
            # Queues of housekeeping: only the few objects that wait in them are in these indexes.
            _index("unverified_since", sparse=True),
            _index("suspect_at", sparse=True),
            _index("doomed_at", sparse=True),
        ]),
        create_indexes(COMMITS, [_index("created_at", expireAfterSeconds=commit_record_seconds)]),
        create_indexes(NAMESPACES, [_index("deleted_at", sparse=True)]),
    )  # fmt: skip


def _retention() -> tuple[Migration, ...]:
    return (
        create_indexes(NODES, [
            # What is due to be purged, and what is being purged.
            _index("deleted_at", sparse=True),
            _index("purging", sparse=True),
            # Deleted nodes in a folder that is purged; live ones are found by their places. Sparse and not
            # partial: the embedded default answers from a partial index only where its key has all fields.
            _index("deleted_in", sparse=True),
        ]),
        _note_where_deleted,
    )  # fmt: skip


async def _note_where_deleted(database: Database) -> None:
    """Found by when they were deleted: asked for `deleted` alone, the embedded default finds nothing."""
    noted = [{"$set": {"deleted_in": "$parent_id"}}]
    await database[NODES].update_many({"deleted_at": {"$gt": datetime(1970, 1, 1, tzinfo=UTC)}}, noted)
