"""What one transaction is going to write, as it is worked out operation by operation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from libs.contracts.errors import CODES
from libs.contracts.events import TreeChanged
from libs.contracts.tree import ItemResult
from services.metadata.domain.model import Actor, Node, Object, Rules, Version
from services.metadata.domain.tree import Tree


class RefusedError(Exception):
    """A check failed: the operation gets this code and the others go on."""

    def __init__(self, code: str, current: Node | None = None, detail: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.current = current
        self.detail = detail or CODES[code].title

    def result(self, index: int) -> ItemResult:
        """Return it as the result of an operation."""
        current = None if self.current is None else self.current.row()
        return ItemResult(index=index, code=self.code, detail=self.detail, current=current)


@dataclass(frozen=True, slots=True)
class Start:
    """Where the namespace stands when the transaction begins."""

    seq: int
    changed_us: int
    now_us: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the namespace's sequence: the node as it was after it."""

    topic: type[TreeChanged]
    node: Node


@dataclass(slots=True)
class Batch:
    """The changes so far. `actor` is who makes the next ones."""

    tree: Tree
    start: Start
    rules: Rules
    new_id: Callable[[], str]
    used_bytes: int = 0
    actor: Actor = field(default_factory=Actor)
    seq: int = 0
    changed_us: int = 0
    changes: list[Change] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    objects: dict[str, Object] = field(default_factory=dict)
    """New ones."""
    touched: set[str] = field(default_factory=set)
    """Existing objects that must be live when the transaction commits."""
    condemned: set[str] = field(default_factory=set)
    """Objects whose versions become corrupt."""
    added_bytes: int = 0
    added_files: int = 0

    def __post_init__(self) -> None:
        self.seq = self.start.seq
        self.changed_us = self.start.changed_us

    def put(self, topic: type[TreeChanged], node: Node) -> Node:
        """Give the node the next sequence number and time, and write it."""
        self.seq += 1
        self.changed_us = max(self.start.now_us, self.changed_us + 1)
        stamped = replace(node, seq=self.seq, changed_us=self.changed_us, device=self.actor.device)
        self.added_files += _live_file(stamped) - _live_file(self.tree.latest(node.id))
        self.tree.put(stamped)
        self.changes.append(Change(topic, stamped))
        return stamped

    def add_version(self, version: Version) -> None:
        """Write a version whose node was just put."""
        self.versions.append(replace(version, seq=self.seq, created_us=self.changed_us))

    def add_object(self, item: Object) -> None:
        """Write a new object."""
        self.objects[item.id] = item
        self.added_bytes += item.size

    def object(self, object_id: str) -> Object | None:
        """Return an object, also one that is new with this transaction."""
        return self.objects.get(object_id) or self.tree.object(object_id)

    def has_room(self, size: int) -> bool:
        """Say whether the quota lets `size` more bytes in."""
        quota = self.rules.quota_bytes
        return quota is None or self.used_bytes + self.added_bytes + size <= quota


def _live_file(node: Node | None) -> int:
    return int(node is not None and node.counts)
