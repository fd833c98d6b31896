"""The sweep's questions about what this service keeps, and repairs that lose nothing."""

from collections.abc import Sequence
from typing import Final, assert_never

from libs.contracts.errors import NotFoundError
from libs.contracts.internal import Check, Checkable, Checked, Finding
from libs.mongo.client import Database
from libs.mongo.names import NAMESPACES, NODES, OBJECTS, VERSIONS
from libs.mongo.views import Views
from libs.mongo.walks import Window, window_of
from services.metadata.domain.model import Actor, CondemnObject, Job, MendNode, Op
from services.metadata.service.changes import Changes
from services.metadata.store.consistency import WINDOW, ConsistencyStore

_COLLECTIONS: Final[dict[Checkable, str]] = {
    "nodes": NODES, "versions": VERSIONS, "objects": OBJECTS, "usage": NAMESPACES,
}  # fmt: skip


class Consistency:
    """Looks at a part at each call."""

    def __init__(self, database: Database, views: Views, changes: Changes, store: ConsistencyStore) -> None:
        self._database = database
        self._views = views
        self._changes = changes
        self._store = store

    async def check(self, asked: Check) -> Checked:
        """Look at one window; with `repair`, mend what can be mended without losing anything."""
        window = await window_of(self._database, _COLLECTIONS[asked.what], asked.after, WINDOW)
        seen, findings = await self._look(asked.what, window, repair=asked.repair)
        if asked.repair:
            findings = await self._mended(findings)
        return Checked(seen=seen, findings=findings, next=window.high)

    async def _look(self, what: Checkable, window: Window, *, repair: bool) -> tuple[int, list[Finding]]:
        match what:
            case "nodes":
                return await self._store.nodes(window)
            case "versions":
                return await self._store.versions(window, repair=repair)
            case "objects":
                return await self._store.objects(window, repair=repair)
            case "usage":
                return await self._store.usage(window, repair=repair)
            case _ as unreachable:
                assert_never(unreachable)

    async def _mended(self, findings: Sequence[Finding]) -> list[Finding]:
        return [
            finding.model_copy(update={"repaired": finding.repaired or await self._mend(finding)})
            for finding in findings
        ]

    async def _mend(self, finding: Finding) -> bool:
        """Change the tree, as any change does: with a new sequence number that devices hear of."""
        if finding.kind in {"node_without_version", "node_without_parent"}:
            row = await self._views.node(finding.id)
            return row is not None and await self._done(row["namespace_id"], MendNode(finding.id))
        if finding.kind == "version_without_object":
            row = await self._views.version(finding.id)
            return row is not None and await self._done(
                row["namespace_id"], CondemnObject(str(row["object_id"]))
            )
        return False

    async def _done(self, namespace_id: str, op: Op) -> bool:
        try:
            (result,) = await self._changes.submit(namespace_id, Job(Actor(), (op,)))
        except NotFoundError:
            return False
        return result.ok
