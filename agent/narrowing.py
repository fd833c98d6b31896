"""The trees that a plan needs, found from what changed since the last one. Pure.

Binding every entry to its node and asking every node whether it is at rest costs seconds in a
large folder. After a change of a few files it need not be done: what was at rest and was not
touched is bound to the entry at its own path whatever else happens, and still at rest. So only
what was not at rest, what changed, and namesakes in the same folders are looked at, with all
folders. As soon as a folder itself is concerned everything is looked at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from agent.focus import alike, focused_on, may_meet, restless
from agent.identity import NEW, LocalNode, identify
from agent.merge import Trees
from agent.model import Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble

_MANY: Final = 20_000
"""Changes from which on everything is looked at."""

T = TypeVar("T")
Nodes = Mapping[str, RemoteNode | SyncedNode]
Held = Callable[[Mapping[str, SyncedNode], Mapping[str, RemoteNode]], dict[str, Trouble | None]]
"""Says which of these nodes the ignore rules leave alone, and why."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The observations that a plan is made from. `rules`: another object when rules changed."""

    local: Mapping[str, LocalEntry]
    remote: Mapping[str, RemoteNode]
    synced: Mapping[str, SyncedNode]
    opaque: frozenset[str]
    rules: object


@dataclass(slots=True)
class _Last:
    """What was seen and found the last time."""

    seen: Observed
    key_at: dict[str, str]
    """Path → key of all that was on disk."""
    path_of: dict[str, str]
    restless: set[str] = field(default_factory=set)


class Narrowing:
    """Makes the trees of one plan after the other."""

    def __init__(self, root_id: str, held: Held) -> None:
        self._root_id = root_id
        self._held = held
        self._last: _Last | None = None

    def trees(self, now: Observed) -> Trees:
        """Return the part of the trees that a plan has to look at: `focused` of all of them."""
        part = None if self._last is None else self._part(self._last, now)
        if part is None:
            self._last = None
        seen = part or now
        tree = identify(seen.local, seen.synced, self._root_id, now.opaque)
        trees = Trees(self._root_id, seen.remote, tree, seen.synced, self._held(seen.synced, seen.remote))
        keys = restless(trees)
        self._remember(now, tree.nodes.values(), keys)
        return focused_on(trees, keys)

    def _remember(self, now: Observed, nodes: Iterable[LocalNode], keys: Iterable[str]) -> None:
        kept = Observed(dict(now.local), dict(now.remote), dict(now.synced), now.opaque, now.rules)
        last = self._last or _Last(kept, {}, {})
        last.seen, last.restless = kept, set(keys)
        for node in nodes:
            last.key_at[node.entry.path] = node.key
            last.path_of[node.key] = node.entry.path
        self._last = last

    def _part(self, last: _Last, now: Observed) -> Observed | None:
        """Return the part of the observations in which anything may be restless; None for all."""
        if now.opaque or last.seen.opaque or now.rules is not last.seen.rules:
            return None
        paths, ids = _Changes(last, now).found()
        if len(paths) + len(ids) > _MANY or self._is_about_folders(last, now, paths, ids):
            return None
        return _Part(self._root_id, last, now, paths, ids).observed()

    def _is_about_folders(self, last: _Last, now: Observed, paths: set[str], ids: set[str]) -> bool:
        """Whether a folder itself changed, or is not at rest."""
        before = last.seen
        for path in paths:
            was, found = before.local.get(path), now.local.get(path)
            if _is_folder_entry(was) or _is_folder_entry(found):
                return True
        trees: tuple[Nodes, ...] = (before.remote, before.synced, now.remote, now.synced)
        return any(key in nodes and nodes[key].kind is Kind.FOLDER for key in ids for nodes in trees)


class _Changes:
    """What differs from the last time, or was not at rest then: paths and ids of nodes."""

    def __init__(self, last: _Last, now: Observed) -> None:
        self._last = last
        self._now = now

    def found(self) -> tuple[set[str], set[str]]:
        """Return paths and ids; each path with its node's id, and the other way round."""
        before, now, last = self._last.seen, self._now, self._last
        paths = {p for p in _differing(before.local, now.local) if not self._is_same_folder(p)}
        paths |= {key[len(NEW) :] for key in last.restless if key.startswith(NEW)}
        ids = {key for key in last.restless if not key.startswith(NEW)}
        ids.update(_differing(before.remote, now.remote))
        ids.update(_differing(before.synced, now.synced))
        ids |= {key for path in paths if not (key := last.key_at.get(path, NEW)).startswith(NEW)}
        paths |= {last.path_of[key] for key in ids if key in last.path_of}
        return paths, ids

    def _is_same_folder(self, path: str) -> bool:
        """Whether only the times of a folder differ: something in it was made or removed."""
        was, now = self._last.seen.local.get(path), self._now.local.get(path)
        if was is None or now is None or not (_is_folder_entry(was) and _is_folder_entry(now)):
            return False
        if was.trouble is not None or now.trouble is not None:
            return False
        one, other = was.stat, now.stat
        return (one.dev, one.ino, one.birth_ns) == (other.dev, other.ino, other.birth_ns)


class _Part:
    """The changed things, their namesakes in the folders that they are in, and all folders."""

    def __init__(self, root_id: str, last: _Last, now: Observed, paths: set[str], ids: set[str]) -> None:
        self._now = now
        self._paths = paths
        self._ids = ids
        self._places = {path.rpartition("/")[0] for path in paths}
        self._folders = {nodes[key].parent_id for nodes in self._trees() for key in ids if key in nodes}
        self._names = {alike(path.rpartition("/")[2]) for path in paths}
        self._names |= {alike(nodes[key].name) for nodes in self._trees() for key in ids if key in nodes}
        # A folder is concerned by its id and by its path: whichever of both was found.
        known = [last.key_at.get(place) for place in self._places if place]
        self._folders |= {key for key in known if key is not None}
        self._places |= {last.path_of[key] for key in self._folders if key in last.path_of}
        if "" in self._places:
            self._folders.add(root_id)
        elif root_id in self._folders:
            self._places.add("")

    def _trees(self) -> tuple[Nodes, Nodes]:
        return self._now.remote, self._now.synced

    def observed(self) -> Observed:
        """Return the part."""
        now = self._now
        local = {
            path: entry
            for path, entry in now.local.items()
            if entry.kind is LocalKind.FOLDER or path in self._paths or self._is_met(path)
        }
        remote = {key: node for key, node in now.remote.items() if self._is_in(key, node)}
        synced = {key: node for key, node in now.synced.items() if self._is_in(key, node)}
        return Observed(local, remote, synced, now.opaque, now.rules)

    def _is_in(self, key: str, node: RemoteNode | SyncedNode) -> bool:
        if node.kind is Kind.FOLDER or key in self._ids:
            return True
        return node.parent_id in self._folders and may_meet(node.name, self._names)

    def _is_met(self, path: str) -> bool:
        place, _, name = path.rpartition("/")
        return place in self._places and may_meet(name, self._names)


def _is_folder_entry(entry: LocalEntry | None) -> bool:
    return entry is not None and entry.kind is LocalKind.FOLDER


def _differing(before: Mapping[str, T], now: Mapping[str, T]) -> Iterator[str]:
    """Yield the keys whose values are not the very same objects; observations are never changed."""
    yield from (key for key, value in now.items() if before.get(key) is not value)
    if len(before) > len(now) or any(key not in now for key in before):
        yield from (key for key in before if key not in now)
