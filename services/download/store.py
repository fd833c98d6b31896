"""Bulk reads of what the metadata service owns: a few questions, whatever the number of files."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from libs.contracts.api import PartDigests, PartRow
from libs.contracts.limits import MAX_DEPTH
from libs.mongo.views import Views
from services.download.domain import Page, Row, parts_known


@dataclass(frozen=True, slots=True)
class Reads:
    """Nodes with the folders above them, versions, objects."""

    views: Views

    async def nodes(self, ids: Collection[str]) -> Mapping[str, Row]:
        """Return the nodes that exist, deleted or not."""
        return await self.views.nodes(list(ids))

    async def hidden(self, nodes: Mapping[str, Row]) -> set[str]:
        """Return the ids of those nodes that are deleted, or below a deleted folder.

        One question per level of the tree, for all nodes at once.
        """
        known = await self._with_ancestors(nodes)
        return {node_id for node_id in nodes if _is_hidden(known, node_id)}

    async def _with_ancestors(self, nodes: Mapping[str, Row]) -> dict[str, Row]:
        known = dict(nodes)
        level = _parents(nodes.values()) - set(known)
        for _ in range(MAX_DEPTH):
            if not level:
                break
            found = await self.views.nodes(sorted(level))
            known.update(found)
            level = _parents(found.values()) - set(known)
        return known

    async def versions(self, ids: Collection[str]) -> Mapping[str, Row]:
        """Return the versions that exist."""
        return await self.views.versions(list(ids))

    async def digests(self, key: str, page: Page) -> PartDigests:
        """Return what is known of the parts of the object at `key`: a page, or nothing at all.

        Rows go with their session, in pieces: a page that lacks one is as good as none.
        """
        session = await self.views.session_of(key)
        if session is None or not parts_known(session, key):
            return PartDigests()
        total: int = session["parts_total"]
        wanted = page.numbers(total)
        rows = await self.views.parts(session["_id"], wanted)
        if len(rows) < len(wanted):
            return PartDigests()
        items = [PartRow(number=n, size=rows[n]["size"], digest=rows[n]["digest"]) for n in wanted]
        return PartDigests(part_size=session["part_size"], parts_total=total, items=items)

    async def objects(self, ids: Collection[str]) -> Mapping[str, Row]:
        """Return the objects that exist."""
        return await self.views.objects(list(ids))


def _parents(rows: Collection[Row]) -> set[str]:
    """Return the parents that are nodes; that of a top-level node is the namespace."""
    return {row["parent_id"] for row in rows if row["parent_id"] != row["namespace_id"]}


def _is_hidden(known: Mapping[str, Row], node_id: str) -> bool:
    """Walk up until a deleted node or the namespace's root; a missing parent was purged."""
    row = known[node_id]
    for _ in range(MAX_DEPTH + 1):
        if row["deleted"]:
            return True
        if row["parent_id"] == row["namespace_id"]:
            return False
        parent = known.get(row["parent_id"])
        if parent is None:
            return True
        row = parent
    return True
