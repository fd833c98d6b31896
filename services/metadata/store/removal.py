"""What every removal has in common: the namespace's lock, and objects that may become garbage."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, TypeVar

from libs.mongo.client import Database, Document, Session
from libs.mongo.names import COUNTERS, OBJECTS, VERSIONS

T = TypeVar("T")

PIECE: Final = 50
"""Values of one `$in`: the embedded default compares every document it finds with the whole list."""


async def lock(database: Database, session: Session, namespace_id: str) -> bool:
    """Write the namespace's counter, so that nobody else changes it meanwhile; False: closed or gone."""
    query = {"_id": namespace_id, "closed": False}
    found = await database[COUNTERS].update_one(query, {"$inc": {"lock": 1}}, session=session)
    return bool(found.matched_count)


async def remove_versions(
    database: Database, session: Session, versions: Sequence[Document], now: datetime
) -> None:
    """Delete versions; their objects become suspects in the same transaction.

    So no object is ever left without a version and unsuspected, and a round that looks at a
    suspect in this instant collides with this transaction.
    """
    suspect = {"$set": {"suspect_at": now}}
    for piece in pieces(sorted({version["object_id"] for version in versions})):
        query = {"_id": {"$in": piece}, "state": "live"}
        await database[OBJECTS].update_many(query, suspect, session=session)
    for piece in pieces([version["_id"] for version in versions]):
        await database[VERSIONS].delete_many({"_id": {"$in": piece}}, session=session)


def pieces(values: Sequence[T]) -> Iterator[list[T]]:
    """Cut into lists that an `$in` takes."""
    for start in range(0, len(values), PIECE):
        yield list(values[start : start + PIECE])
