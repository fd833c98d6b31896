"""The part of a namespace that is loaded, and an overlay of the changes made to it since.

Nothing is guessed: asking for what was not loaded raises `NotLoadedError` with what is needed,
the caller loads it and evaluates again. So a forgotten prefetch costs time, never correctness.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from libs.contracts.paths import name_key
from services.metadata.domain.model import Node, Object, Slot, Version

T = TypeVar("T")


@dataclass(slots=True)
class Need:
    """What has to be loaded."""

    nodes: set[str] = field(default_factory=set)
    slots: set[Slot] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    newer: set[int] = field(default_factory=set)
    """Sequence numbers: which rows are newer?"""
    uses: set[str] = field(default_factory=set)
    """Object ids: which versions have them?"""
    histories: set[str] = field(default_factory=set)
    """Node ids: which versions do they have?"""

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__dataclass_fields__)

    def add(self, other: "Need") -> None:
        """Need that too."""
        for name in self.__dataclass_fields__:
            getattr(self, name).update(getattr(other, name))


class NotLoadedError(Exception):
    """A rule asked for something that is not loaded yet."""

    def __init__(self, need: Need) -> None:
        super().__init__("not loaded")
        self.need = need


@dataclass(slots=True)
class Loaded:
    """What was read of a namespace. None stands for "asked, and there is nothing"."""

    namespace_id: str
    nodes: dict[str, Node | None] = field(default_factory=dict)
    slots: dict[Slot, str | None] = field(default_factory=dict)
    versions: dict[str, Version | None] = field(default_factory=dict)
    objects: dict[str, Object | None] = field(default_factory=dict)
    newer: dict[int, tuple[str, ...] | None] = field(default_factory=dict)
    """None here: too many to look at."""
    uses: dict[str, tuple[Version, ...]] = field(default_factory=dict)
    histories: dict[str, tuple[Version, ...]] = field(default_factory=dict)
    """Newest first."""
    used_bytes: int = 0


class Tree:
    """`Loaded` under the changes of one evaluation."""

    def __init__(self, loaded: Loaded) -> None:
        self.namespace_id = loaded.namespace_id
        self._loaded = loaded
        self._nodes: dict[str, Node] = {}
        self._slots: dict[Slot, str | None] = {}

    @property
    def changed(self) -> dict[str, Node]:
        """The nodes that were put, in their latest state."""
        return self._nodes

    def before(self, node_id: str) -> Node | None:
        """Return the node as it was before the changes, None for a new one."""
        return self._loaded.nodes.get(node_id)

    def displaced(self) -> set[str]:
        """Return the nodes whose old place another node, not a new one, now has.

        They must leave it before the others are written: places are unique at every moment.
        """
        taken = {
            node.slot: node.id for node in self._nodes.values() if not node.deleted and self.before(node.id)
        }
        old = ((node_id, self.before(node_id)) for node_id in self._nodes)
        return {
            node_id
            for node_id, before in old
            if before is not None and not before.deleted and taken.get(before.slot, node_id) != node_id
        }

    def anywhere(self, node_id: str) -> Node | None:
        """Return the node of this id, in whichever namespace it is; the root is no node."""
        if node_id == self.namespace_id:
            return None
        if node_id in self._nodes:
            return self._nodes[node_id]
        if node_id not in self._loaded.nodes:
            raise NotLoadedError(Need(nodes={node_id}))
        return self._loaded.nodes[node_id]

    def node(self, node_id: str) -> Node | None:
        """Return a node of this namespace, deleted or not."""
        found = self.anywhere(node_id)
        return found if found is not None and found.namespace_id == self.namespace_id else None

    def occupant(self, parent_id: str, name: str) -> Node | None:
        """Return the live node that has this place."""
        slot = (parent_id, name_key(name))
        if slot in self._slots:
            node_id = self._slots[slot]
        elif slot in self._loaded.slots:
            node_id = self._loaded.slots[slot]
        else:
            raise NotLoadedError(Need(slots={slot}))
        return None if node_id is None else self.node(node_id)

    def chain(self, parent_id: str) -> Iterator[Node | None]:
        """Walk from a parent up to the root; None for an ancestor that is there no more."""
        while parent_id != self.namespace_id:
            parent = self.node(parent_id)
            yield parent
            if parent is None:
                return
            parent_id = parent.parent_id

    def buried(self, parent_id: str) -> bool:
        """Say whether the parent or any folder above it is deleted."""
        return any(folder is None or folder.deleted for folder in self.chain(parent_id))

    def latest(self, node_id: str) -> Node | None:
        """Return a node that is loaded or was put; None for one that is new."""
        return self._nodes.get(node_id) or self._loaded.nodes.get(node_id)

    def put(self, node: Node) -> None:
        """Set a node's new state and keep the places in step."""
        before = self.latest(node.id)
        if before is not None and not before.deleted:
            self._slots[before.slot] = None
        if not node.deleted:
            self._slots[node.slot] = node.id
        self._nodes[node.id] = node

    def newer_than(self, seq: int) -> set[str] | None:
        """Return the ids of nodes changed after `seq`, or None: too many to look at."""
        if seq not in self._loaded.newer:
            raise NotLoadedError(Need(newer={seq}))
        stored = self._loaded.newer[seq]
        if stored is None:
            return None
        return {*stored, *(node.id for node in self._nodes.values() if node.seq > seq)}

    def version(self, version_id: str) -> Version | None:
        """Return a version as it was before the changes."""
        return _known(self._loaded.versions, version_id, Need(versions={version_id}))

    def object(self, object_id: str) -> Object | None:
        """Return an object as it was before the changes."""
        return _known(self._loaded.objects, object_id, Need(objects={object_id}))

    def uses(self, object_id: str) -> tuple[Version, ...]:
        """Return the versions that have an object."""
        return _known(self._loaded.uses, object_id, Need(uses={object_id}))

    def history(self, node_id: str) -> tuple[Version, ...]:
        """Return the versions of a node, newest first."""
        return _known(self._loaded.histories, node_id, Need(histories={node_id}))


def _known(facts: dict[str, T], key: str, need: Need) -> T:
    if key not in facts:
        raise NotLoadedError(need)
    return facts[key]
