"""The plan: what to do so that disk and server agree. Pure: no disk, clock, randomness, network.

A plan holds only what can be done now; carrying it out and planning again ends in an empty plan.
Actions that change paths (local moves) are planned alone, so that every path in a plan is true
while it is carried out; what only changes the agent's memory comes before anything else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date

from agent.actions import (
    Action,
    Bind,
    CreateFolder,
    CreateSymlink,
    DeleteRemote,
    Download,
    Forget,
    KeepCopy,
    LocalMove,
    MakeFolder,
    MoveLocal,
    MoveRemote,
    Plan,
    RemoveLocal,
    RotateLocal,
    RotateRemote,
    SetLocal,
    SetRemote,
    SettlePlace,
    Upload,
)
from agent.identity import LocalNode, join, same_content
from agent.merge import Fate, Merge, Place, Standing, Trees, group_by_slot
from agent.model import Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble
from agent.waits import find_ring, rings
from libs.contracts.paths import conflicted_name, name_key

Slot = tuple[str, str]

_IGNORED_THERE = Trouble("ignored_there", "The server has it at a path that is ignored here")
_BLOCKED = Trouble("path_occupied", "Its place depends on something that is not in step itself")
_UNSEEN = Trouble("folder_unreadable", "Here it is in a folder that cannot be listed")
_MOVING_HERE = (Fate.BOTH, Fate.FETCH, Fate.REMOVE_LOCAL)
_MOVING_THERE = (Fate.BOTH, Fate.NEW, Fate.RESCUE, Fate.RECREATE, Fate.DELETE_REMOTE)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the plan needs to know of this device. `fold` is how the disk compares names."""

    device: str
    day: date
    fold: Callable[[str], str] = name_key


def plan(trees: Trees, rules: Rules, suspended: frozenset[str] = frozenset()) -> Plan:
    """Return what to do now.

    `trees` must rest on a complete feed. `suspended` holds paths whose last action failed and
    whose next try is not due: they are left alone without holding up the rest.
    """
    return _Planner(trees, rules, suspended).run()


class _Planner:
    """One run of `plan`."""

    def __init__(self, trees: Trees, rules: Rules, suspended: frozenset[str]) -> None:
        self._trees = trees
        self._rules = rules
        self._suspended = suspended
        self._merge = Merge(trees)
        self._by_fate: dict[Fate, list[str]] = {}
        for key, fate in self._merge.fates.items():
            self._by_fate.setdefault(fate, []).append(key)
        self._local = trees.local.nodes
        self._troubles: dict[str, Trouble] = {}
        self._busy: set[str] = set()
        """Keys that wait: something is done to them, or around them, first."""
        self._local_slots = {
            (node.parent_key, rules.fold(node.entry.name)): node.key for node in self._local.values()
        }
        self._remote_slots = {
            (node.parent_id, name_key(node.name)): node.id
            for node in trees.remote.values()
            if self._merge.standing(node.id) is Standing.LIVE
        }
        self._children_here = _by_parent((node.parent_key, node.key) for node in self._local.values())
        self._children_there = _by_parent(
            (node.parent_id, node.id)
            for node in trees.remote.values()
            if self._merge.standing(node.id) is Standing.LIVE
        )
        self._by_path: dict[str, LocalEntry] | None = None
        self._taken: dict[Slot, str] = {}
        """Places on disk that this plan fills: folded slot → key."""
        self._appearing: dict[str, str] = {}
        """Folders that this plan makes on disk: key → path."""
        self._creating: set[str] = set()
        """Folders that this plan creates on the server, by key."""

    def run(self) -> Plan:
        self._report_held()
        state, moves = self._collisions()
        state = [*self._memory(), *state]
        copies = [*moves, *self._losing_edits()]
        for chosen in (state, [*copies, *self._local_moves()]):
            due = self._due(chosen)
            if due:
                return Plan(due, self._troubles)
        rest = [
            *self._remote_structure(),
            *self._local_folders(),
            *self._contents(),
            *self._local_removals(),
            *self._remote_removals(),
        ]
        due = self._due(rest) or self._due(self._making_way())
        if not due:
            self._report_blocked()
        return Plan(due, self._troubles)

    def _due(self, actions: Iterable[Action]) -> tuple[Action, ...]:
        return tuple(action for action in actions if self._suspended.isdisjoint(paths_of(action)))

    def _fated(self, *fates: Fate) -> list[str]:
        return [key for fate in fates for key in self._by_fate.get(fate, ()) if key not in self._busy]

    # What only concerns the memory ----------------------------------------------------------

    def _report_held(self) -> None:
        for node in self._local.values():
            if node.entry.trouble is not None:
                self._report(node.key, node.entry.trouble)
            elif node.key in self._trees.held:
                # It is seen here, so what is ignored is the place that the server has it at.
                self._report(node.key, self._trees.held[node.key] or _IGNORED_THERE)
        for key, reason in self._trees.held.items():
            if reason is not None and key not in self._local:
                self._report(key, reason)
        for key in self._trees.local.held:
            remote, synced = self._trees.remote.get(key), self._trees.synced[key]
            if remote is not None and (remote.parent_id, remote.name) != (synced.parent_id, synced.name):
                self._report(key, _UNSEEN)

    def _report(self, key: str, trouble: Trouble) -> None:
        """Say why a node is not in step, at its paths on both sides; the first reason counts."""
        paths = [self._local[key].entry.path] if key in self._local else []
        if self._merge.standing(key) is Standing.LIVE:
            paths.append(self._remote_path(key))
        for path in paths:
            if path not in self._suspended:
                self._troubles.setdefault(path, trouble)

    def _memory(self) -> list[Action]:
        actions: list[Action] = [Forget(key) for key in self._fated(Fate.FORGET)]
        for key in self._fated(Fate.BOTH):
            synced, remote, entry = self._trees.synced[key], self._trees.remote[key], self._local[key].entry
            if _agree(synced, remote, entry):
                actions.append(Bind(_at_agreed_place(remote, synced), entry))
                self._busy.add(key)
            elif self._settled_elsewhere(key):
                actions.append(SettlePlace(remote))
        return actions

    def _settled_elsewhere(self, key: str) -> bool:
        """Whether both sides have the node at one place, and the memory has it at another."""
        synced, remote = self._trees.synced[key], self._merge.remote_place(key)
        agreed = Place(synced.parent_id, synced.name)
        return remote.slot == self._merge.local_place(key).slot != agreed.slot

    # Collisions of names --------------------------------------------------------------------

    def _collisions(self) -> tuple[list[Action], list[Action]]:
        """Settle who has each name: (bindings, renames). What is settled waits for the next plan."""
        bindings: list[Action] = []
        renames: list[Action] = []
        for keys in list(group_by_slot(self._merge.places)):
            if any(self._merge.fates[key] is Fate.HOLD for key in keys):
                self._wait_for_held(keys)
                continue
            winner, *losers = sorted(keys, key=self._rank)
            for loser in losers:
                bound = self._binding(winner, loser)
                self._busy.add(loser)
                if bound is not None:
                    bindings.append(bound)
                    self._busy.add(winner)
                else:
                    renames += self._give_way(loser)
        return bindings, renames

    def _wait_for_held(self, keys: list[str]) -> None:
        """What is left alone keeps its name: what is not there yet does not come."""
        for key in keys:
            here = key in self._local and self._merge.local_place(key).slot == self._merge.places[key].slot
            if self._merge.fates[key] is not Fate.HOLD and not (here and self._merge.is_there_remotely(key)):
                self._busy.add(key)
                self._report(key, Trouble("path_occupied", "In its way: something that is left alone here"))

    def _rank(self, key: str) -> tuple[bool, bool, bool, str]:
        """Order of the claims on a name: the least has it."""
        merge = self._merge
        return (
            not merge.is_folder(key),
            not merge.is_there_remotely(key),
            key not in self._trees.synced,
            key,
        )

    def _binding(self, winner: str, loser: str) -> Bind | None:
        """Return the binding when one is on the server only, the other on disk only, and both alike."""
        fates = self._merge.fates
        pair = {fates[winner]: winner, fates[loser]: loser}
        if set(pair) == {Fate.FETCH, Fate.RECREATE}:
            return self._recreated(pair[Fate.FETCH], pair[Fate.RECREATE])
        if set(pair) != {Fate.FETCH, Fate.NEW}:
            return None
        remote, entry = self._trees.remote[pair[Fate.FETCH]], self._local[pair[Fate.NEW]].entry
        return Bind(remote, entry) if _alike(remote, entry) else None

    def _recreated(self, there: str, here: str) -> Bind | None:
        """A folder that was to be made anew is there already: another device did, or a lost answer."""
        remote, entry = self._trees.remote[there], self._local[here].entry
        return Bind(remote, entry, replaces=here) if remote.kind is Kind.FOLDER else None

    def _give_way(self, loser: str) -> list[Action]:
        """Rename what has the weaker claim."""
        place, node = self._merge.places[loser], self._local.get(loser)
        if node is not None and not self._merge.is_there_remotely(loser):
            return [KeepCopy(node.entry, self._copy_path(node), None)]
        remote = self._trees.remote.get(loser)
        if remote is None:
            return []
        name = self._copy_name(place.parent, place.name)
        return [MoveRemote(remote, place.parent, name, node.entry if node else None)]

    def _copy_path(self, node: LocalNode) -> str:
        return join(node.entry.parent, self._copy_name(node.parent_key, node.entry.name))

    def _copy_name(self, parent_key: str, name: str) -> str:
        def taken(candidate: str) -> bool:
            return (
                (parent_key, self._rules.fold(candidate)) in self._local_slots
                or (parent_key, name_key(candidate)) in self._remote_slots
                or (parent_key, name_key(candidate)) in self._claimed
            )

        chosen = conflicted_name(name, self._rules.device, self._rules.day, taken)
        self._claimed.add((parent_key, name_key(chosen)))
        return chosen

    @property
    def _claimed(self) -> set[Slot]:
        if not hasattr(self, "_claimed_slots"):
            self._claimed_slots = {place.slot for place in self._merge.places.values()}
        return self._claimed_slots

    def _losing_edits(self) -> list[Action]:
        """Both edited: what the server has keeps the name, the local content becomes a copy."""
        actions: list[Action] = []
        for key in self._fated(Fate.BOTH):
            node = self._local[key]
            if _both_edited(self._trees.synced[key], self._trees.remote[key], node.entry):
                self._busy.add(key)
                actions.append(KeepCopy(node.entry, self._copy_path(node), key))
        return actions

    # Moves on disk --------------------------------------------------------------------------

    def _local_moves(self) -> list[Action]:
        wanted: dict[str, MoveLocal] = {}
        for key in self._fated(Fate.BOTH):
            place, node = self._merge.places.get(key), self._local[key]
            if place is None or place.slot == self._merge.local_place(key).slot:
                continue
            parent = self._trees.local.open_path_of(place.parent)
            if parent is not None and not _is_below(parent, node.entry.path):
                wanted[key] = MoveLocal(self._trees.remote[key], node.entry, join(parent, place.name))
        free: list[LocalMove] = []
        blocked_by: dict[str, str] = {}
        for key, move in wanted.items():
            place = self._merge.places[key]
            occupant = self._local_slots.get((place.parent, self._rules.fold(place.name)))
            if occupant is None or occupant == key:
                free.append(move)
            else:
                blocked_by[key] = occupant
                for path in (move.entry.path, move.to):
                    self._report_occupied(path, place, occupant)
        exchanges = [RotateLocal(tuple(wanted[key] for key in ring)) for ring in rings(blocked_by)]
        return [*free, *exchanges]

    # The server's tree ----------------------------------------------------------------------

    def _remote_structure(self) -> list[Action]:
        return [*self._new_folders(), *self._new_symlinks(), *self._remote_moves()]

    def _new_folders(self) -> list[Action]:
        keys = [k for k in self._fated(Fate.NEW, Fate.RECREATE) if self._merge.is_folder(k)]
        actions: list[Action] = []
        for key in sorted(keys, key=lambda k: self._local[k].entry.path.count("/")):
            place, entry = self._merge.places[key], self._local[key].entry
            if self._can_stand(place) and self._suspended.isdisjoint({entry.path}):
                replaces = None if self._local[key].is_new else key
                actions.append(CreateFolder(entry, place.parent, place.name, replaces))
                self._creating.add(key)
        return actions

    def _new_symlinks(self) -> list[Action]:
        actions: list[Action] = []
        for key in self._fated(Fate.NEW):
            entry, place = self._local[key].entry, self._merge.places[key]
            if entry.kind is LocalKind.SYMLINK and self._can_stand(place):
                actions.append(CreateSymlink(entry, place.parent, place.name))
        return actions

    def _can_stand(self, place: Place) -> bool:
        """Whether the server can take something at this place now."""
        return self._has_parent(place.parent) and place.slot not in self._remote_slots

    def _has_parent(self, key: str) -> bool:
        return key in self._creating or self._merge.standing(key) is Standing.LIVE

    def _remote_moves(self) -> list[Action]:
        wanted: dict[str, MoveRemote] = {}
        for key in self._fated(Fate.BOTH, Fate.RESCUE):
            place = self._merge.places.get(key)
            if place is None or place.slot == self._merge.remote_place(key).slot:
                continue
            if self._has_parent(place.parent) and not self._would_cycle(key, place.parent):
                entry = self._local[key].entry
                wanted[key] = MoveRemote(self._trees.remote[key], place.parent, place.name, entry)
        free: list[Action] = []
        blocked_by: dict[str, str] = {}
        for key, move in wanted.items():
            occupant = self._remote_slots.get(self._merge.places[key].slot)
            if occupant is None:
                free.append(move)
            else:
                blocked_by[key] = occupant
        return [*free, *(RotateRemote(tuple(wanted[key] for key in ring)) for ring in rings(blocked_by))]

    def _would_cycle(self, key: str, parent: str) -> bool:
        """Whether on the server, as it is now, `parent` lies below `key`."""
        return bool(self._between(parent, key, self._parent_there)) or parent == key

    # Folders and contents -------------------------------------------------------------------

    def _local_folders(self) -> list[Action]:
        keys = [k for k in self._fated(Fate.FETCH) if self._merge.is_folder(k)]
        actions: list[Action] = []
        for key in self._top_down(keys):
            path = self._free_path(key)
            if path is not None and self._suspended.isdisjoint({path}):
                self._appearing[key] = path
                actions.append(MakeFolder(self._trees.remote[key], path))
        return actions

    def _top_down(self, keys: list[str]) -> list[str]:
        depths: dict[str, int] = {}
        for key in keys:
            depth, parent = 0, self._merge.places[key].parent
            while parent in self._merge.places:
                depth, parent = depth + 1, self._merge.places[parent].parent
            depths[key] = depth
        return sorted(keys, key=depths.__getitem__)

    def _free_path(self, key: str) -> str | None:
        """Return the path at which a node can appear on disk now."""
        place = self._merge.places[key]
        parent = self._appearing.get(place.parent)
        if parent is None:
            parent = self._trees.local.open_path_of(place.parent)
        if parent is None:
            return None
        slot = place.parent, self._rules.fold(place.name)
        occupant = self._local_slots.get(slot, self._taken.get(slot))
        path = join(parent, place.name)
        if occupant is not None:
            self._report_occupied(path, place, occupant)
            return None
        self._taken[slot] = key
        return path

    def _report_occupied(self, path: str, place: Place, occupant: str) -> None:
        """Say why a node cannot be at a path, unless what is in its way is about to go."""
        node, other = self._local.get(occupant), self._merge.places.get(occupant)
        if node is not None and node.entry.trouble is not None:
            detail = f"In its way: {node.entry.trouble.detail}"
            self._troubles.setdefault(path, Trouble("path_occupied", detail))
        elif other is not None and self._fold(other) == self._fold(place):
            detail = f"On this disk {other.name!r} and {place.name!r} are one name"
            self._troubles.setdefault(path, Trouble("name_folded", detail))

    def _report_blocked(self) -> None:
        """Nothing can be done: say of what still cannot come or go that something is in its way."""
        for key in self._fated(Fate.BOTH, Fate.FETCH, Fate.NEW, Fate.RESCUE, Fate.RECREATE):
            if key in self._merge.places and (self._is_kept_out_here(key) or self._is_kept_out_there(key)):
                self._report(key, _BLOCKED)
        for key in self._fated(Fate.REMOVE_LOCAL, Fate.DELETE_REMOTE):
            self._report(key, _BLOCKED)

    def _is_kept_out_here(self, key: str) -> bool:
        """Whether it is not where it shall be on disk, though the folder for it is there."""
        place = self._merge.places[key]
        if key in self._local and self._merge.local_place(key).slot == place.slot:
            return False
        return key in self._local or self._trees.local.open_path_of(place.parent) is not None

    def _is_kept_out_there(self, key: str) -> bool:
        """Whether it is not where it shall be on the server, though the folder for it is there."""
        if self._merge.is_there_remotely(key):
            return False
        live = Standing.LIVE
        return (
            self._merge.standing(key) is live or self._merge.standing(self._merge.places[key].parent) is live
        )

    def _fold(self, place: Place) -> Slot:
        return place.parent, self._rules.fold(place.name)

    def _contents(self) -> list[Action]:
        actions: list[Action] = []
        for key in self._fated(Fate.FETCH):
            if not self._merge.is_folder(key):
                path = self._free_path(key)
                if path is not None:
                    actions.append(Download(self._trees.remote[key], path))
        for key in self._fated(Fate.NEW):
            actions += self._new_file(key)
        for key in self._fated(Fate.REVIVE):
            actions.append(Upload(self._local[key].entry, self._trees.remote[key], undelete=True))
        for key in self._fated(Fate.BOTH):
            actions += self._merged_content(key)
        return actions

    def _new_file(self, key: str) -> list[Action]:
        entry, place = self._local[key].entry, self._merge.places[key]
        if entry.kind is not LocalKind.FILE or not self._can_stand(place):
            return []
        return [Upload(entry, None, place.parent, place.name)]

    def _merged_content(self, key: str) -> list[Action]:
        synced, remote, entry = self._trees.synced[key], self._trees.remote[key], self._local[key].entry
        if remote.kind is Kind.FOLDER:
            return []
        here, there = not same_content(synced, entry), _edited_remotely(synced, remote)
        if there:
            return [Download(_at_agreed_place(remote, synced), entry.path, entry)]
        if here and remote.kind is Kind.SYMLINK:
            return [SetRemote(remote, entry)]
        if here:
            return [Upload(entry, remote)]
        return self._attributes(synced, remote, entry)

    def _attributes(self, synced: SyncedNode, remote: RemoteNode, entry: LocalEntry) -> list[Action]:
        if remote.kind is not Kind.FILE:
            return []
        if (remote.mtime_ns, remote.executable) != (synced.mtime_ns, synced.executable):
            return [SetLocal(_at_agreed_place(remote, synced), entry)]
        if synced.stat is None or _attributes_differ(synced, entry):
            return [SetRemote(remote, entry)]
        return []

    # Deletions ------------------------------------------------------------------------------

    def _local_removals(self) -> list[Action]:
        keys = self._fated(Fate.REMOVE_LOCAL)
        going: set[str] = set()
        actions: list[Action] = []
        for key in sorted(
            keys, key=lambda k: (-self._local[k].entry.path.count("/"), self._local[k].entry.path)
        ):
            path = self._local[key].entry.path
            staying = self._staying_in(key, going)
            if staying is None and path not in self._suspended:
                going.add(key)
                actions.append(RemoveLocal(self._trees.synced[key], self._local[key].entry))
            elif staying:
                self._troubles.setdefault(path, Trouble("folder_not_empty", staying))
        return actions

    def _staying_in(self, key: str, going: set[str]) -> str | None:
        """Say what keeps a folder from being removed; empty when it will go, or be reported, later."""
        if self._local[key].entry.path in self._trees.local.opaque:
            return "It was deleted on the server, and what is in it cannot be listed"
        for child in self._children_here.get(key, ()):
            if self._merge.fates[child] is Fate.HOLD:
                return f"{self._local[child].entry.name!r} in it cannot be synced"
        return None if going.issuperset(self._children_here.get(key, ())) else ""

    def _remote_removals(self) -> list[Action]:
        children = self._children_there
        going = {key: 1 for key in self._fated(Fate.DELETE_REMOTE) if not self._merge.is_folder(key)}
        folders = [key for key in self._fated(Fate.DELETE_REMOTE) if self._merge.is_folder(key)]
        for key in sorted(folders, key=self._remote_depth, reverse=True):
            below = children.get(key, [])
            if all(child in going for child in below):
                going[key] = sum(going[child] for child in below)
        return [
            self._deletion(key, files)
            for key, files in going.items()
            if self._trees.remote[key].parent_id not in going
        ]

    def _deletion(self, key: str, files: int) -> DeleteRemote:
        path = self._remote_path(key)
        return DeleteRemote(self._trees.remote[key], path, files, self._entries_by_path().get(path))

    def _entries_by_path(self) -> dict[str, LocalEntry]:
        if self._by_path is None:
            self._by_path = {node.entry.path: node.entry for node in self._local.values()}
        return self._by_path

    # Making way -----------------------------------------------------------------------------

    def _making_way(self) -> list[Action]:
        """When nothing else can be done: break a ring of waits by putting one of it aside.

        A folder that goes into one that takes its name, a folder replaced by what was in it, and
        the like: no order of moves does it, and no exchange.
        """
        here = self._waiting_ring({key: self._waits_here(key) for key in self._fated(*_MOVING_HERE)})
        if here:
            node = self._local[here[0]]
            return [KeepCopy(node.entry, self._copy_path(node), None, parked=True)]
        there = self._waiting_ring({key: self._waits_there(key) for key in self._fated(*_MOVING_THERE)})
        return self._break_there(there) if there else []

    def _break_there(self, ring: list[str]) -> list[Action]:
        """Break a ring of waits on the server, in one transaction where it is moves alone.

        One move after the other would leave a name of the agent's own in between: a crash right
        after it, and this device would follow it as another's rename.
        """
        moves = [move for key in ring if (move := self._move_there(key)) is not None]
        if len(moves) == len(ring):
            return [RotateRemote(tuple(moves))]
        remote, local = self._trees.remote[ring[0]], self._local.get(ring[0])
        name = self._copy_name(remote.parent_id, remote.name)
        return [MoveRemote(remote, remote.parent_id, name, local.entry if local else None)]

    def _move_there(self, key: str) -> MoveRemote | None:
        """Return the move of a node to where it shall stand on the server, if it is one."""
        place, node = self._merge.places.get(key), self._local.get(key)
        if place is None or node is None or key not in self._trees.remote:
            return None
        if self._merge.standing(place.parent) is not Standing.LIVE:
            return None
        return MoveRemote(self._trees.remote[key], place.parent, place.name, node.entry)

    @staticmethod
    def _waiting_ring(waits: dict[str, tuple[str | None, list[str]]]) -> list[str]:
        """Return a ring of waits, each for the next; the first stands in the place of the last.

        That one is to be put aside: then the last can go, then the one before it, and so on.
        """
        ring = find_ring(
            {key: [*filter(None, [occupant]), *others] for key, (occupant, others) in waits.items()}
        )
        for index, key in enumerate(ring):
            if waits[ring[index - 1]][0] == key:
                return [*ring[index:], *ring[:index]]
        return []

    def _between(self, start: str, key: str, parent_of: Callable[[str], str | None]) -> list[str]:
        """Return the folders from `start` up to `key`, when it lies below that."""
        chain: list[str] = []
        current: str | None = start
        while current is not None and current != key and current not in chain:
            chain.append(current)
            current = parent_of(current)
        return chain if current == key else []

    def _parent_here(self, key: str) -> str | None:
        node = self._local.get(key)
        return None if node is None else node.parent_key

    def _parent_there(self, key: str) -> str | None:
        node = self._trees.remote.get(key)
        return None if node is None else node.parent_id

    def _waits_here(self, key: str) -> tuple[str | None, list[str]]:
        """Return what has to leave a node's new place on disk, and what else has to happen first."""
        place, node = self._merge.places.get(key), self._local.get(key)
        if place is None:
            return None, self._children_here.get(key, [])
        if node is not None and place.slot == self._merge.local_place(key).slot:
            return None, []
        occupant = self._local_slots.get(self._fold(place))
        others = [place.parent] if self._trees.local.path_of(place.parent) is None else []
        if node is not None:
            others += self._between(place.parent, key, self._parent_here)
        return (None if occupant == key else occupant), others

    def _waits_there(self, key: str) -> tuple[str | None, list[str]]:
        """Return what has to leave a node's new place on the server, and what else first."""
        place, node = self._merge.places.get(key), self._trees.remote.get(key)
        if place is None:
            return None, self._children_there.get(key, [])
        if self._merge.is_there_remotely(key):
            return None, []
        occupant = self._remote_slots.get(place.slot)
        others = [place.parent] if self._merge.standing(place.parent) is not Standing.LIVE else []
        if node is not None:
            others += self._between(place.parent, key, self._parent_there)
        return (None if occupant == key else occupant), others

    def _remote_depth(self, key: str) -> int:
        return self._remote_path(key).count("/")

    def _remote_path(self, key: str) -> str:
        names: list[str] = []
        while key != self._trees.root_id:
            node = self._trees.remote[key]
            names.append(node.name)
            key = node.parent_id
        return "/".join(reversed(names))


# Facts of one node ------------------------------------------------------------------------------


def _at_agreed_place(remote: RemoteNode, synced: SyncedNode) -> RemoteNode:
    """The node as an action on its content remembers it: a move is another matter."""
    return replace(remote, parent_id=synced.parent_id, name=synced.name)


def _edited_remotely(synced: SyncedNode, remote: RemoteNode) -> bool:
    return remote.content_hash != synced.content_hash or remote.symlink_target != synced.symlink_target


def _alike(remote: RemoteNode, entry: LocalEntry) -> bool:
    """Whether node and entry are of one kind and hold the same."""
    if remote.kind.value != entry.kind.value:
        return False
    match remote.kind:
        case Kind.FILE:
            return entry.content_hash is not None and entry.content_hash == remote.content_hash
        case Kind.SYMLINK:
            return entry.symlink_target == remote.symlink_target
        case Kind.FOLDER:
            return True


def _agree(synced: SyncedNode, remote: RemoteNode, entry: LocalEntry) -> bool:
    """Whether both sides hold the same but the memory holds something else."""
    if not _alike(remote, entry):
        return False
    if remote.version_id != synced.version_id or not same_content(synced, entry):
        return True
    # Made anew as it was: its next move is known by the inode that it has now.
    return _is_another_inode(synced, entry) and not _attributes_differ(synced, entry)


def _is_another_inode(synced: SyncedNode, entry: LocalEntry) -> bool:
    then, now = synced.stat, entry.stat
    return then is not None and (then.dev, then.ino, then.birth_ns) != (now.dev, now.ino, now.birth_ns)


def _both_edited(synced: SyncedNode, remote: RemoteNode, entry: LocalEntry) -> bool:
    if remote.kind is Kind.FOLDER or _alike(remote, entry):
        return False
    return _edited_remotely(synced, remote) and not same_content(synced, entry)


def _attributes_differ(synced: SyncedNode, entry: LocalEntry) -> bool:
    """Whether someone changed attributes on disk since they were read back."""
    if synced.stat is None or synced.kind is Kind.FOLDER:
        return False
    return synced.stat.mtime_ns != entry.stat.mtime_ns or synced.stat.executable != entry.stat.executable


def _by_parent(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {}
    for parent, key in pairs:
        children.setdefault(parent, []).append(key)
    return children


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def paths_of(action: Action) -> set[str]:
    """Return the local paths that an action is about; failures are kept under the first."""
    match action:
        case Forget() | SettlePlace():
            return set()
        case RotateLocal() | RotateRemote():
            return {path for move in action.moves for path in paths_of(move)}
        case MoveRemote():
            return {action.entry.path} if action.entry else {action.node.name}
        case MakeFolder() | Download() | DeleteRemote():
            return {action.path}
        case _:
            return {action.entry.path}
