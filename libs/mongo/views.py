"""Read-only views of what other services own: members, devices, nodes, versions, objects.

Rows are read by id from the primary with majority concern. Nothing here writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.contracts.keys import prefix_of
from libs.contracts.tree import NodeRow
from libs.mongo.client import Database, Document, translated
from libs.mongo.names import (
    COUNTERS,
    DEVICES,
    NAMESPACES,
    NODES,
    OBJECTS,
    SCHEMA,
    UPLOAD_PARTS,
    UPLOADS,
    USAGE,
    VERSIONS,
)

EPOCH_ID = "epoch"
DEPLOYMENT_ID = "deployment"
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)
_PIECE = 50


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as the permission check sees it."""

    id: str
    user_id: str
    name: str
    revoked: bool


class Views:
    """Reads of rows that belong to other services."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def device(self, device_id: str) -> DeviceView | None:
        """Return the device, or None."""
        row = await self._one(DEVICES, device_id)
        if row is None:
            return None
        return DeviceView(row["_id"], row["user_id"], row["name"], row.get("revoked_at") is not None)

    async def members(self, namespace_id: str) -> dict[str, str]:
        """Return user id → role of the namespace; empty when there is none."""
        row = await self._one(NAMESPACES, namespace_id)
        if row is None or row.get("deleted_at") is not None:
            return {}
        return {member["user_id"]: member["role"] for member in row["members"]}

    async def deployment(self) -> str | None:
        """Return what names this deployment (see `schema.deployment_id`), None before the first start."""
        row = await self._one(SCHEMA, DEPLOYMENT_ID)
        return str(row["value"]) if row else None

    async def epoch(self) -> int:
        """Return the server's epoch, 0 before the first start of metadata."""
        row = await self._one(COUNTERS, EPOCH_ID)
        return int(row["value"]) if row else 0

    async def head(self, namespace_id: str) -> int:
        """Return the last sequence number given out in the namespace."""
        row = await self._one(COUNTERS, namespace_id)
        return int(row["seq"]) if row else 0

    async def purged_seq(self, namespace_id: str) -> int:
        """Return up to where old tombstones were purged: below it the feed has no gapless rows."""
        row = await self._one(COUNTERS, namespace_id)
        return int(row.get("purged_seq", 0)) if row else 0

    async def node(self, node_id: str) -> Document | None:
        """Return a node's document, deleted or not."""
        return await self._one(NODES, node_id)

    async def nodes(self, node_ids: Sequence[str]) -> dict[str, Document]:
        """Return the documents of those nodes that exist."""
        return await self._many(NODES, node_ids)

    async def version(self, version_id: str) -> Document | None:
        """Return a version's document."""
        return await self._one(VERSIONS, version_id)

    async def versions(self, version_ids: Sequence[str]) -> dict[str, Document]:
        """Return the documents of those versions that exist."""
        return await self._many(VERSIONS, version_ids)

    async def object(self, object_id: str) -> Document | None:
        """Return an object's document."""
        return await self._one(OBJECTS, object_id)

    async def objects(self, object_ids: Sequence[str]) -> dict[str, Document]:
        """Return the documents of those objects that exist."""
        return await self._many(OBJECTS, object_ids)

    async def stored(self, namespace_id: str, hashes: Sequence[str]) -> dict[str, Document]:
        """Return content hash → a verified live object of the namespace."""
        query = {"namespace_id": namespace_id, "state": "live", "verified": True}
        rows = await self._in_pieces(OBJECTS, query, "content_hash", hashes)
        return {row["content_hash"]: row for row in rows}

    async def being_verified(self, namespace_id: str, content_hash: str, size: int) -> bool:
        """Say whether a live object with this claimed hash and size waits for its verification."""
        query = {"namespace_id": namespace_id, "state": "live", "verified": False}
        rows = await self._in_pieces(OBJECTS, query, "content_hash", [content_hash])
        return any(row["size"] == size and not row.get("corrupt") for row in rows)

    async def rows_between(self, namespace_id: str, after: int, up_to: int) -> list[NodeRow]:
        """Return the feed's rows with after < seq ≤ up_to, in order of seq."""
        query = {"namespace_id": namespace_id, "seq": {"$gt": after, "$lte": up_to}}
        with translated():
            rows = await self._database[NODES].find(query).to_list(None)
        return [row_of(row) for row in sorted(rows, key=lambda row: int(row["seq"]))]

    async def uploads_changed_at(self, user_id: str) -> Any:
        """Return when an open session of the user changed last, or None."""
        query = {"user_id": user_id, "state": {"$in": ["open", "completing", "committing"]}}
        with translated():
            rows = await self._database[UPLOADS].find(query, {"updated_at": 1}).to_list(None)
        return max((row["updated_at"] for row in rows), default=None)

    async def reserved_bytes(self, user_id: str) -> int:
        """Return the bytes that the user's open sessions will add: not those stored or committed already."""
        query = {"user_id": user_id, "state": {"$in": ["open", "completing", "committing"]}}
        with translated():
            rows = await self._database[UPLOADS].find(query, _RESERVING).to_list(None)
        return sum(int(entry["size"]) for row in rows for entry in row["entries"] if _adds(entry))

    async def used_bytes(self, namespace_id: str) -> int:
        """Return the bytes of the namespace's live objects."""
        row = await self._one(USAGE, namespace_id)
        return int(row["used_bytes"]) if row else 0

    async def session_of(self, key: str) -> Document | None:
        """Return the upload session, if it is still remembered, that put the object at `key` there."""
        with translated():
            return await self._database[UPLOADS].find_one({"key_prefix": prefix_of(key)})

    async def parts(self, upload_id: str, numbers: Sequence[int]) -> dict[int, Document]:
        """Return part number → its row, of those parts of a session that have one."""
        rows = await self._many(UPLOAD_PARTS, [part_row_id(upload_id, number) for number in numbers])
        return {row["number"]: row for row in rows.values()}

    async def _one(self, collection: str, row_id: str) -> Document | None:
        with translated():
            return await self._database[collection].find_one({"_id": row_id})

    async def _many(self, collection: str, row_ids: Sequence[str]) -> dict[str, Document]:
        return {row["_id"]: row for row in await self._in_pieces(collection, {}, "_id", row_ids)}

    async def _in_pieces(
        self, collection: str, where: Document, field: str, values: Sequence[str]
    ) -> list[Document]:
        """Find by many values of one field.

        In pieces, because the embedded default compares each row it finds with the whole list.
        """
        rows: list[Document] = []
        for start in range(0, len(values), _PIECE):
            query = {**where, field: {"$in": list(values[start : start + _PIECE])}}
            with translated():
                rows += await self._database[collection].find(query).to_list(None)
        return rows


_RESERVING = {"entries.size": 1, "entries.mode": 1, "entries.result.index": 1, "entries.result.code": 1}


def _adds(entry: Document) -> bool:
    result = entry.get("result")
    committed = result is not None and result.get("code") is None
    return not committed and entry["mode"] != "stored"


def part_row_id(upload_id: str, number: int) -> str:
    """Return the id of a part's row."""
    return f"{upload_id}:{number}"


_ROW_FIELDS = tuple(name for name in NodeRow.model_fields if name != "id")


def row_of(document: Document) -> NodeRow:
    """Return a node's document as the row that crosses borders.

    Its time is kept in whole microseconds (`changed_us`): MongoDB's own times have milliseconds,
    and the order by time must be that by `seq`.
    """
    fields = {name: document[name] for name in _ROW_FIELDS if name in document}
    fields["changed_at"] = _EPOCH_START + timedelta(microseconds=document["changed_us"])
    return NodeRow(id=document["_id"], **fields)
