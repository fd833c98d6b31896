"""Whether what this service keeps belongs together; looked at a window of ids at a time.

Each suspicion is looked at a second time in a transaction under the namespace's lock, because what
was read first may have changed since: what that confirms is a finding. Repairs that only write
documents are made in the same transaction.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from libs.contracts.internal import Finding
from libs.contracts.tree import Kind
from libs.mongo.client import Database, Document, Session, in_transaction, translated
from libs.mongo.names import NAMESPACES, NODES, OBJECTS, USAGE, VERSIONS
from libs.mongo.walks import Window
from services.metadata.store.removal import lock, pieces

WINDOW: Final = 1000
"""Documents of one step."""

SecondLook = Callable[[Session, str], Awaitable[Finding | None]]


class ConsistencyStore:
    """Finds; `repair` says whether what is found is repaired where documents alone are concerned."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def nodes(self, window: Window) -> tuple[int, list[Finding]]:
        """Find nodes whose version or parent is not there."""
        fields = ("namespace_id", "parent_id", "kind", "version_id")
        rows = await self._rows(NODES, window, fields)
        files = [row for row in rows if row["kind"] == Kind.FILE]
        inner = [row for row in rows if row["parent_id"] != row["namespace_id"]]
        versions = await self._there(VERSIONS, [row["version_id"] for row in files])
        parents = await self._there(NODES, [row["parent_id"] for row in inner])
        suspects = [row for row in files if row["version_id"] not in versions]
        suspects += [row for row in inner if row["parent_id"] not in parents]
        return len(rows), await self._confirmed(suspects, self._look_at_node)

    async def _look_at_node(self, session: Session, node_id: str) -> Finding | None:
        node = await self._one(NODES, node_id, session)
        if node is None:
            return None
        version_id, parent_id = node["version_id"], node["parent_id"]
        if node["kind"] == Kind.FILE and await self._one(VERSIONS, version_id, session) is None:
            return Finding(kind="node_without_version", id=node_id, detail=f"its version is {version_id}")
        if parent_id != node["namespace_id"] and await self._one(NODES, parent_id, session) is None:
            return Finding(kind="node_without_parent", id=node_id, detail=f"its parent is {parent_id}")
        return None

    async def versions(self, window: Window, *, repair: bool) -> tuple[int, list[Finding]]:
        """Find versions whose node is not there, or whose object is not there or doomed.

        A doomed object that a version has is revived by a repair: S3 may still have it.
        """
        rows = await self._rows(VERSIONS, window, ("namespace_id", "node_id", "object_id", "corrupt"))
        good = [row for row in rows if not row["corrupt"]]
        objects = await self._live_objects([row["object_id"] for row in good])
        nodes = await self._there(NODES, [row["node_id"] for row in rows])
        suspects = [row for row in good if row["object_id"] not in objects]
        suspects += [row for row in rows if row["node_id"] not in nodes]

        async def look(session: Session, version_id: str) -> Finding | None:
            return await self._look_at_version(session, version_id, repair=repair)

        return len(rows), await self._confirmed(suspects, look)

    async def _look_at_version(self, session: Session, version_id: str, *, repair: bool) -> Finding | None:
        version = await self._one(VERSIONS, version_id, session)
        if version is None:
            return None
        if await self._one(NODES, version["node_id"], session) is None:
            return Finding(kind="version_without_node", id=version_id, detail=f"of file {version['node_id']}")
        stored = await self._one(OBJECTS, version["object_id"], session)
        if version["corrupt"] or (stored is not None and stored["state"] == "live"):
            return None
        if stored is None:
            return Finding(kind="version_without_object", id=version_id, detail=version["object_id"])
        if repair:
            await self._revive(session, stored)
        return Finding(kind="version_of_doomed_object", id=version_id, detail=stored["_id"], repaired=repair)

    async def _revive(self, session: Session, stored: Document) -> None:
        live: Document = {"$set": {"state": "live"}, "$unset": {"doomed_at": ""}}
        if not stored.get("verified"):
            live["$set"]["unverified_since"] = self._clock()
        await self._database[OBJECTS].update_one({"_id": stored["_id"]}, live, session=session)
        used = {"$inc": {"used_bytes": stored["size"]}}
        await self._database[USAGE].update_one({"_id": stored["namespace_id"]}, used, session=session)

    async def objects(self, window: Window, *, repair: bool) -> tuple[int, list[Finding]]:
        """Find live objects that no version has and nobody suspects; a repair leaves them to the garbage."""
        rows = await self._rows(OBJECTS, window, ("namespace_id", "state", "suspect_at"))
        lone = [row for row in rows if row["state"] == "live" and "suspect_at" not in row]
        used = await self._there(VERSIONS, [row["_id"] for row in lone], "object_id")
        suspects = [row for row in lone if row["_id"] not in used]

        async def look(session: Session, object_id: str) -> Finding | None:
            return await self._look_at_object(session, object_id, repair=repair)

        return len(rows), await self._confirmed(suspects, look)

    async def _look_at_object(self, session: Session, object_id: str, *, repair: bool) -> Finding | None:
        stored = await self._one(OBJECTS, object_id, session)
        used = await self._database[VERSIONS].find_one({"object_id": object_id}, session=session)
        if stored is None or stored["state"] != "live" or "suspect_at" in stored or used is not None:
            return None
        if repair:
            suspect = {"$set": {"suspect_at": self._clock()}}
            await self._database[OBJECTS].update_one({"_id": object_id}, suspect, session=session)
        return Finding(kind="object_without_version", id=object_id, detail=stored["key"], repaired=repair)

    async def usage(self, window: Window, *, repair: bool) -> tuple[int, list[Finding]]:
        """Find accounts whose used bytes or number of files differ from what is there."""
        rows = await self._rows(NAMESPACES, window, ("deleted_at",))

        async def look(session: Session, namespace_id: str) -> Finding | None:
            return await self._look_at_usage(session, namespace_id, repair=repair)

        suspects = [
            {**row, "namespace_id": row["_id"]}
            for row in rows
            if row.get("deleted_at") is None and await self._usage_differs(row["_id"], None) is not None
        ]
        return len(rows), await self._confirmed(suspects, look)

    async def _usage_differs(
        self, namespace_id: str, session: Session | None
    ) -> tuple[Document, int, int] | None:
        """Return what is noted, and the bytes and files that are there, when they differ."""
        kept = await self._one(USAGE, namespace_id, session) or {"used_bytes": 0, "files": 0}
        objects = {"namespace_id": namespace_id, "state": "live"}
        files = {"namespace_id": namespace_id, "kind": "file", "deleted": False}
        used = await self._total(OBJECTS, objects, "$size", session)
        count = await self._total(NODES, files, 1, session)
        return None if (kept["used_bytes"], kept["files"]) == (used, count) else (kept, used, count)

    async def _look_at_usage(self, session: Session, namespace_id: str, *, repair: bool) -> Finding | None:
        found = await self._usage_differs(namespace_id, session)
        if found is None:
            return None
        kept, used, files = found
        if repair:
            right = {"$set": {"used_bytes": used, "files": files}}
            await self._database[USAGE].update_one({"_id": namespace_id}, right, upsert=True, session=session)
        detail = f"{kept['used_bytes']} bytes in {kept['files']} files are noted, {used} in {files} are there"
        return Finding(kind="usage_differs", id=namespace_id, detail=detail, repaired=repair)

    # Reading ----------------------------------------------------------------------------------

    async def _rows(self, collection: str, window: Window, fields: Sequence[str]) -> list[Document]:
        with translated():
            found = self._database[collection].find(window.on("_id"), dict.fromkeys(fields, 1))
            return await found.to_list(None)

    async def _there(self, collection: str, values: Sequence[str | None], field: str = "_id") -> set[str]:
        """Return those of the values that a document of the collection has."""
        found: set[str] = set()
        for piece in pieces(sorted({value for value in values if value is not None})):
            with translated():
                rows = self._database[collection].find({field: {"$in": piece}}, {field: 1})
                found.update([row[field] async for row in rows])
        return found

    async def _live_objects(self, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for piece in pieces(sorted(set(ids))):
            with translated():
                rows = self._database[OBJECTS].find({"_id": {"$in": piece}}, {"state": 1})
                found.update([row["_id"] async for row in rows if row["state"] == "live"])
        return found

    async def _confirmed(self, suspects: Sequence[Document], look: SecondLook) -> list[Finding]:
        """Look again at each, under the lock of its namespace; closed ones are being removed anyway."""
        found: list[Finding] = []
        for namespace_id, document_id in {(row["namespace_id"], row["_id"]): None for row in suspects}:

            async def body(
                session: Session, namespace_id: str = namespace_id, document_id: str = document_id
            ) -> Finding | None:
                if not await lock(self._database, session, namespace_id):
                    return None
                return await look(session, document_id)

            finding = await in_transaction(self._database, body)
            if finding is not None:
                found.append(finding)
        return found

    async def _one(
        self, collection: str, document_id: str | None, session: Session | None
    ) -> Document | None:
        with translated():
            return await self._database[collection].find_one({"_id": document_id}, session=session)

    async def _total(self, collection: str, query: Document, of: str | int, session: Session | None) -> int:
        steps: list[Any] = [{"$match": query}, {"$group": {"_id": None, "total": {"$sum": of}}}]
        with translated():
            rows = await self._database[collection].aggregate(steps, session=session).to_list(None)
        return int(rows[0]["total"]) if rows else 0
