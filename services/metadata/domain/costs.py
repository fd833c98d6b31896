"""What history costs: each object's bytes counted once, by the best reason to keep it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from services.metadata.domain.model import Node


class Reason(IntEnum):
    """Why an object is kept; of several the lowest counts."""

    CURRENT = 0
    """A file that is to be seen shows it."""
    OLDER = 1
    """An older version of a file that is to be seen has it."""
    DELETED = 2
    """Only deleted files, or files in deleted folders, have it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A version, as far as its cost goes."""

    id: str
    node_id: str
    object_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes of distinct objects by reason; versions and objects in all."""

    current_bytes: int
    older_bytes: int
    deleted_bytes: int
    versions: int
    objects: int


@dataclass(slots=True)
class Ledger:
    """Takes the nodes of a namespace first, then versions in any order."""

    parents: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Folder → its parent, and whether it is deleted itself."""
    files: dict[str, tuple[str, bool, str | None]] = field(default_factory=dict)
    """File → its parent, whether it is deleted itself, its current version."""
    versions: int = 0
    _reasons: dict[str, tuple[Reason, int]] = field(default_factory=dict)
    _hidden: dict[str, bool] = field(default_factory=dict)

    def add_node(self, node: Node) -> None:
        """Take a folder or a file; links cost nothing."""
        if node.is_folder:
            self.parents[node.id] = (node.parent_id, node.deleted)
        elif node.is_file:
            self.files[node.id] = (node.parent_id, node.deleted, node.version_id)

    def add_versions(self, versions: Iterable[Kept]) -> None:
        """Take versions of the files."""
        for version in versions:
            self.versions += 1
            reason = self._reason(version)
            known = self._reasons.get(version.object_id)
            if known is None or reason < known[0]:
                self._reasons[version.object_id] = (reason, version.size)

    def _reason(self, version: Kept) -> Reason:
        parent_id, deleted, current_id = self.files.get(version.node_id, ("", True, None))
        if deleted or self._is_hidden(parent_id):
            return Reason.DELETED
        return Reason.CURRENT if version.id == current_id else Reason.OLDER

    def _is_hidden(self, folder_id: str) -> bool:
        """Say whether a folder or one above it is deleted; the root is no node and never is."""
        passed: list[str] = []
        hidden = False
        while folder_id in self.parents and folder_id not in self._hidden:
            passed.append(folder_id)
            folder_id, hidden = self.parents[folder_id]
            if hidden:
                break
        hidden = hidden or self._hidden.get(folder_id, False)
        self._hidden.update(dict.fromkeys(passed, hidden))
        return hidden

    def costs(self) -> Costs:
        """Return the sums."""
        sums = dict.fromkeys(Reason, 0)
        for reason, size in self._reasons.values():
            sums[reason] += size
        return Costs(
            current_bytes=sums[Reason.CURRENT],
            older_bytes=sums[Reason.OLDER],
            deleted_bytes=sums[Reason.DELETED],
            versions=self.versions,
            objects=len(self._reasons),
        )
