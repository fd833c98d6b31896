"""The merge of the three trees: what becomes of each node, and where it shall stand. Pure.

`Merge` decides a `Fate` per node and a `Place` per node that lives on, so that the places form a
tree without cycles and with one node per name. `planner` turns the difference between that tree
and each side into actions.

Rules: same new content on both sides is no conflict; an edit beats a deletion; of two edits the
one committed first keeps the name; of two moves likewise; a folder lives on while something new,
edited or moved into it lives in it; a folder keeps its name against a file.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from agent.identity import LocalNode, LocalTree, same_content
from agent.model import Kind, RemoteNode, SyncedNode, Trouble
from agent.parking import is_parked
from libs.contracts.paths import name_key


class Standing(Enum):
    """How a node stands on the server."""

    LIVE = auto()
    DELETED = auto()
    """It was deleted itself."""
    DELETED_ABOVE = auto()
    """A folder above it was deleted."""
    UNKNOWN = auto()
    """A folder above it is not known yet."""
    ABSENT = auto()


class Fate(Enum):
    """What is to become of a node."""

    HOLD = auto()
    """Left alone: ignored, unreadable, below an unlisted folder, or not fully known."""
    BOTH = auto()
    """On both sides: content, attributes and place are merged."""
    NEW = auto()
    """On disk only, to become known to the server."""
    FETCH = auto()
    """On the server only, to appear on disk."""
    DELETE_REMOTE = auto()
    REMOVE_LOCAL = auto()
    REVIVE = auto()
    """Deleted on the server, edited here: the edit brings it back."""
    RESCUE = auto()
    """Below a folder deleted on the server, edited here or moved away: it is moved out."""
    RECREATE = auto()
    """A folder deleted on the server in which something lives on: made anew there."""
    FORGET = auto()
    GONE = auto()
    """Nowhere, and not remembered."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node shall stand."""

    parent: str
    name: str

    @property
    def slot(self) -> tuple[str, str]:
        """What no two nodes may share."""
        return self.parent, name_key(self.name)


@dataclass(frozen=True, slots=True)
class Trees:
    """The input of a plan. `held`: nodes to leave alone (ignored paths), with the reason if any."""

    root_id: str
    remote: Mapping[str, RemoteNode]
    local: LocalTree
    synced: Mapping[str, SyncedNode]
    held: Mapping[str, Trouble | None] = field(default_factory=dict)


class Merge:
    """One merge; its result is `fates`, `places`, `standings`."""

    def __init__(self, trees: Trees) -> None:
        self.trees = trees
        self.standings: dict[str, Standing] = {trees.root_id: Standing.LIVE}
        self.fates: dict[str, Fate] = {}
        self.places: dict[str, Place] = {}
        self._decide()
        self._keep_needed_folders()
        self._break_cycles()

    # Standing -----------------------------------------------------------------------------

    def standing(self, node_id: str) -> Standing:
        """Return how a node stands on the server."""
        chain: list[RemoteNode] = []
        current = node_id
        while current not in self.standings:
            node = self.trees.remote.get(current)
            if node is None:
                self.standings[current] = Standing.ABSENT
                break
            chain.append(node)
            if len(chain) > len(self.trees.remote):
                return Standing.UNKNOWN
            current = node.parent_id
        for node in reversed(chain):
            self.standings[node.id] = _below(node, self.standings[node.parent_id])
        return self.standings[node_id]

    # Fates --------------------------------------------------------------------------------

    def _decide(self) -> None:
        trees = self.trees
        for node_id in dict.fromkeys((*trees.synced, *trees.remote)):
            fate = self._fate(node_id)
            if fate is not Fate.GONE:
                self.fates[node_id] = fate
        for key, node in trees.local.nodes.items():
            if node.is_new:
                self.fates[key] = Fate.NEW if node.entry.trouble is None else Fate.HOLD
        for key, fate in self.fates.items():
            place = self._place(key, fate)
            if place is not None:
                self.places[key] = place

    def _fate(self, node_id: str) -> Fate:
        local = self.trees.local.nodes.get(node_id)
        standing = self.standing(node_id)
        if self._is_held(node_id, local, standing):
            return Fate.HOLD
        synced = self.trees.synced.get(node_id)
        if synced is None:
            return Fate.FETCH if standing is Standing.LIVE else Fate.GONE
        if local is None:
            return self._fate_when_gone_here(synced, standing)
        return self._fate_when_here(synced, local, standing)

    def _is_held(self, node_id: str, local: LocalNode | None, standing: Standing) -> bool:
        if node_id in self.trees.held or node_id in self.trees.local.held:
            return True
        if standing is Standing.UNKNOWN:
            return True
        return local is not None and local.entry.trouble is not None

    def _fate_when_gone_here(self, synced: SyncedNode, standing: Standing) -> Fate:
        if standing is Standing.DELETED_ABOVE and self._was_in_carried_out(synced.parent_id):
            return Fate.HOLD
        if standing is not Standing.LIVE:
            return Fate.FORGET
        edited = _edited_remotely(synced, self.trees.remote[synced.id])
        return Fate.FETCH if edited or self._moved_out_remotely(synced.id) else Fate.DELETE_REMOTE

    def _was_in_carried_out(self, key: str) -> bool:
        """Whether what was in this folder would come back with one that is moved out of a deleted folder.

        The folders in between may be gone here too. What is remembered may hang in a ring.
        """
        passed: set[str] = set()
        while key in self.trees.synced and key not in self.trees.local.nodes and key not in passed:
            if self.standing(key) is not Standing.DELETED_ABOVE:
                return False
            passed.add(key)
            key = self.trees.synced[key].parent_id
        return self._is_carried_out(key)

    def _moved_out_remotely(self, node_id: str) -> bool:
        """Whether the server moved it, or a folder above it, out of a folder deleted here."""
        synced, remote = self.trees.synced.get(node_id), self.trees.remote.get(node_id)
        if synced is None or remote is None or self._on_disk(synced.parent_id):
            return False
        return remote.parent_id != synced.parent_id or self._moved_out_remotely(remote.parent_id)

    def _fate_when_here(self, synced: SyncedNode, local: LocalNode, standing: Standing) -> Fate:
        match standing:
            case Standing.LIVE:
                return Fate.BOTH
            case Standing.DELETED_ABOVE:
                return self._fate_when_deleted_above(synced, local)
            case _:
                edited = not same_content(synced, local.entry)
                # A link holds nothing that a version could revive: it becomes a new one.
                revivable = standing is Standing.DELETED and synced.kind is Kind.FILE
                alive = Fate.REVIVE if revivable else Fate.FORGET
                return alive if edited else Fate.REMOVE_LOCAL

    def _fate_when_deleted_above(self, synced: SyncedNode, local: LocalNode) -> Fate:
        remote = self.trees.remote[synced.id]
        moved_out = self._is_carried_out(synced.id)
        if moved_out and local.parent_key == remote.parent_id:
            return Fate.BOTH
        if not same_content(synced, local.entry) and _edited_remotely(synced, remote):
            # The newer content was seen by who deleted it: only this edit lives on, as a new file.
            return Fate.FORGET
        return Fate.RESCUE if moved_out or not same_content(synced, local.entry) else Fate.REMOVE_LOCAL

    def _is_carried_out(self, key: str) -> bool:
        """Whether it was moved here, itself or with a folder above it, out of a deleted folder."""
        local, synced = self.trees.local.nodes.get(key), self.trees.synced.get(key)
        if local is None or synced is None or self.standing(key) is not Standing.DELETED_ABOVE:
            return False
        if local.parent_key == synced.parent_id:
            return self._is_carried_out(synced.parent_id)
        return self._lives(local.parent_key)

    def _lives(self, key: str) -> bool:
        """Whether a local folder is one that no deletion on the server concerns."""
        local = self.trees.local.nodes.get(key)
        if local is not None and local.is_new:
            return self._lives(local.parent_key)
        return self.standing(key) is Standing.LIVE or self._is_carried_out(key)

    def _on_disk(self, key: str) -> bool:
        return self.trees.local.path_of(key) is not None

    # Places -------------------------------------------------------------------------------

    def _place(self, key: str, fate: Fate) -> Place | None:
        match fate:
            case Fate.BOTH:
                return self._merged_place(key)
            case Fate.FETCH:
                return self.remote_place(key)
            case Fate.NEW | Fate.REVIVE | Fate.RESCUE:
                return self.local_place(key)
            case Fate.HOLD:
                return self._held_place(key)
            case _:
                return None

    def local_place(self, key: str) -> Place:
        """Where the disk has it."""
        node = self.trees.local.nodes[key]
        return Place(node.parent_key, node.entry.name)

    def remote_place(self, node_id: str) -> Place:
        """Where the server has it."""
        node = self.trees.remote[node_id]
        return Place(node.parent_id, node.name)

    def _merged_place(self, node_id: str) -> Place:
        synced = self.trees.synced[node_id]
        remote, local = self.remote_place(node_id), self.local_place(node_id)
        agreed = Place(synced.parent_id, synced.name)
        if local.slot == agreed.slot:
            return remote
        return local if remote.slot == agreed.slot or is_parked(remote.name) else remote

    def _yielding_place(self, node_id: str) -> Place:
        """Where a node stays whose move here cannot be: where the server has it, under a chosen name."""
        remote = self.remote_place(node_id)
        return replace(remote, name=self.local_place(node_id).name) if is_parked(remote.name) else remote

    def _held_place(self, key: str) -> Place | None:
        local = self.trees.local.nodes.get(key)
        if local is not None:
            return None if local.is_new else self.local_place(key)
        return self.remote_place(key) if self.standings.get(key) is Standing.LIVE else None

    def _keep_needed_folders(self) -> None:
        """A folder on its way out stays when something in it lives on.

        What is held here is only in the way of the removal: it makes no folder anew.
        """
        for key in list(self.places):
            parent = self.places[key].parent
            while parent not in self.places and parent in self.fates:
                if self.fates[parent] is Fate.REMOVE_LOCAL and self.fates[key] is not Fate.HOLD:
                    self.fates[parent] = Fate.RECREATE
                    self.places[parent] = self.local_place(parent)
                elif self.fates[parent] is Fate.DELETE_REMOTE:
                    self.fates[parent] = Fate.FETCH
                    self.places[parent] = self.remote_place(parent)
                else:
                    break
                parent = self.places[parent].parent

    def _break_cycles(self) -> None:
        """Moves of both sides that would make a cycle: those of this device yield."""
        while (cycle := self._cycle()) is not None:
            moved = [
                k for k in cycle if self.fates[k] is Fate.BOTH and self.places[k] != self._yielding_place(k)
            ]
            if not moved:
                for key in cycle:
                    self.fates[key] = Fate.HOLD
                    del self.places[key]
            for key in moved:
                self.places[key] = self._yielding_place(key)

    def _cycle(self) -> list[str] | None:
        done: set[str] = {self.trees.root_id}
        for start in self.places:
            trail: dict[str, None] = {}
            key = start
            while key not in done and key in self.places:
                if key in trail:
                    names = list(trail)
                    return names[names.index(key) :]
                trail[key] = None
                key = self.places[key].parent
            done.update(trail)
        return None

    # Questions ----------------------------------------------------------------------------

    def is_folder(self, key: str) -> bool:
        """Whether a node is a folder."""
        local = self.trees.local.nodes.get(key)
        if local is not None:
            return local.entry.kind.value == Kind.FOLDER.value
        remote = self.trees.remote.get(key)
        return remote is not None and remote.kind is Kind.FOLDER

    def is_there_remotely(self, key: str) -> bool:
        """Whether the server has the node alive at the place where it shall stand."""
        return (
            key in self.trees.remote
            and self.standing(key) is Standing.LIVE
            and self.remote_place(key).slot == self.places[key].slot
        )


def _edited_remotely(synced: SyncedNode, remote: RemoteNode) -> bool:
    return remote.content_hash != synced.content_hash or remote.symlink_target != synced.symlink_target


def _below(node: RemoteNode, above: Standing) -> Standing:
    if above in {Standing.ABSENT, Standing.UNKNOWN}:
        return Standing.UNKNOWN
    if node.deleted:
        return Standing.DELETED
    return Standing.LIVE if above is Standing.LIVE else Standing.DELETED_ABOVE


def group_by_slot(places: Mapping[str, Place]) -> Iterable[list[str]]:
    """Return the groups of keys that claim one slot."""
    slots: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, place in places.items():
        slots[place.slot].append(key)
    return (keys for keys in slots.values() if len(keys) > 1)
