"""Versions that server and disk agreed on and agree on no more.

The server keeps them for months, and this device may still know their chunks. Who has lost a conflict
has edited one of them, a file that was renamed and edited in one go is one of them but for the edit,
and a difference to one is as good as one to a current version. They are hints: losing one costs the
transfer of a whole file, and whether the server still has it the server says.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from agent.model import Kind, SyncedNode, VersionRef
from libs.contracts.chunks import SMALLEST_CHUNKED

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS former (
    number INTEGER PRIMARY KEY, content_hash TEXT NOT NULL UNIQUE, node_id TEXT NOT NULL,
    version_id TEXT NOT NULL
) STRICT;
"""
MOST: Final = 1000
"""The latest of them that are remembered; the chunks of each are kept for as long."""


@dataclass(frozen=True, slots=True)
class FormerVersions:
    """Former versions by content hash, the latest last, in the agent's SQLite file and mirrored."""

    db: Any
    """The connection; its driver has its home in `state`."""
    transaction: Callable[[], AbstractContextManager[None]]
    known: dict[str, VersionRef] = field(default_factory=dict)

    def load(self) -> None:
        """Mirror what the file holds."""
        rows = self.db.execute("SELECT node_id, version_id, content_hash FROM former ORDER BY number")
        self.known.clear()
        self.known.update((row[2], VersionRef(*row)) for row in rows)

    def note(self, nodes: Iterable[SyncedNode]) -> None:
        """Remember versions of files that are large enough to have chunks."""
        found = [ref for node in nodes if (ref := _ref_of(node)) is not None]
        if not found:
            return
        with self.transaction():
            self.db.executemany(
                "INSERT OR REPLACE INTO former (content_hash, node_id, version_id) VALUES (?, ?, ?)",
                [(ref.content_hash, ref.node_id, ref.version_id) for ref in found],
            )
            self.db.execute(
                "DELETE FROM former WHERE number <= (SELECT MAX(number) FROM former) - ?", (MOST,)
            )
            self._mirror(found)

    def _mirror(self, found: Iterable[VersionRef]) -> None:
        for ref in found:
            self.known.pop(ref.content_hash, None)
            self.known[ref.content_hash] = ref
        for content_hash in list(self.known)[:-MOST]:
            del self.known[content_hash]

    def by_node(self) -> dict[str, VersionRef]:
        """Return each node's latest one."""
        return {ref.node_id: ref for ref in self.known.values()}


def _ref_of(node: SyncedNode) -> VersionRef | None:
    if node.kind is not Kind.FILE or node.size < SMALLEST_CHUNKED:
        return None
    if node.version_id is None or node.content_hash is None:
        return None
    return VersionRef(node.id, node.version_id, node.content_hash)
