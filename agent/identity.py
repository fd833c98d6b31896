"""Which node is it? Pure: binds the entries of a scan to the nodes of the last agreed state.

A known inode at a new path with the same birth or content is a move. An unknown inode at a known
path is an edit in place: editors write a new file and rename it over the old one. A known inode
with other content and no birth time is something new: inodes are reused at once. What vanished,
with exactly one new entry of equal content, has moved.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.model import Kind, LocalEntry, LocalKind, SyncedNode
from libs.contracts.paths import name_key

NEW = "+"
"""First character of the key of an entry that no node is bound to; the path follows."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """An entry with its place in the tree of keys."""

    key: str
    parent_key: str
    entry: LocalEntry

    @property
    def is_new(self) -> bool:
        """Whether the server does not know it."""
        return self.key.startswith(NEW)


@dataclass(frozen=True, slots=True)
class LocalTree:
    """The local tree by key.

    `opaque`: paths of folders that could not be listed; `held`: synced nodes that may be in them.
    """

    root_id: str
    nodes: dict[str, LocalNode] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    opaque: frozenset[str] = frozenset()

    def path_of(self, key: str) -> str | None:
        """Return the path of a key; the root's is empty; None when it is not on disk."""
        if key == self.root_id:
            return ""
        node = self.nodes.get(key)
        return None if node is None else node.entry.path

    def open_path_of(self, key: str) -> str | None:
        """Return the path of a folder in which something may be put, or None."""
        path = self.path_of(key)
        return None if path in self.opaque else path


def identify(
    entries: Mapping[str, LocalEntry],
    synced: Mapping[str, SyncedNode],
    root_id: str,
    opaque: Iterable[str] = (),
) -> LocalTree:
    """Bind entries to nodes and return the local tree.

    `opaque` holds folders that could not be listed: nothing below them counts as gone. The same
    goes for folders in trouble, which a scan does not enter.
    """
    binding = _Binding(entries, synced, root_id)
    binding.by_inode()
    binding.by_place()
    unlisted = frozenset(opaque) | _troubled_folders(entries.values())
    held = binding.held(unlisted)
    binding.by_content(held)
    return binding.tree(held, unlisted)


class _Binding:
    """One run of `identify`: node id ↔ path, filled rule by rule, the strongest first."""

    def __init__(
        self, entries: Mapping[str, LocalEntry], synced: Mapping[str, SyncedNode], root_id: str
    ) -> None:
        self._entries = entries
        self._synced = synced
        self._root_id = root_id
        self._path_of: dict[str, str] = {}
        self._id_of: dict[str, str] = {}
        self._slots = {(e.parent, name_key(e.name)): path for path, e in _untroubled_last(entries)}
        self._children: dict[str, list[SyncedNode]] = defaultdict(list)
        for node in synced.values():
            self._children[node.parent_id].append(node)
        self._known_inodes = {_inode(node) for node in synced.values() if node.kind is Kind.FOLDER}
        self._synced_paths = self._paths_when_synced()

    def _paths_when_synced(self) -> dict[str, str]:
        paths = {self._root_id: ""}
        for node in self._top_down():
            if node.parent_id in paths:
                paths[node.id] = join(paths[node.parent_id], node.name)
        return paths

    def _top_down(self) -> Iterable[SyncedNode]:
        """Yield parents before children; last what hangs in a ring.

        Rings are there for a moment, when folders that change places are recorded one by one.
        """
        seen: set[str] = set()
        level = self._children.get(self._root_id, [])
        while level:
            yield from level
            seen.update(node.id for node in level)
            level = [child for node in level for child in self._children.get(node.id, ())]
        yield from (node for node in self._synced.values() if node.id not in seen)

    def _bind(self, node_id: str, path: str) -> None:
        self._path_of[node_id] = path
        self._id_of[path] = node_id

    def by_inode(self) -> None:
        """Bind nodes to the entry that has their inode: first those that are where they were.

        A removed folder's inode may have been given to one that was made since; that one is known
        by its own path, before its inode can be taken for a move of the other.
        """
        paths_of: dict[tuple[int, int], list[str]] = defaultdict(list)
        for path in sorted(self._entries):
            stat = self._entries[path].stat
            paths_of[stat.dev, stat.ino].append(path)
        known = [node for node in self._synced.values() if node.stat is not None]
        for node in known:
            own = self._synced_paths.get(node.id)
            self._bind_first(node, [path for path in paths_of.get(_inode(node), ()) if path == own])
        self._stay(known, paths_of)
        for node in known:
            if node.id not in self._path_of:
                self._bind_first(node, paths_of.get(_inode(node), ()))

    def _stay(self, known: Iterable[SyncedNode], paths_of: Mapping[tuple[int, int], list[str]]) -> None:
        """Bind what is plainly where it was, whatever inode it has, where no time of birth tells.

        Some disks give other inodes at each mount, and one may get the number that another had.
        What is in a folder comes before the folder.
        """
        waiting = [(self._synced_paths.get(n.id, ""), n) for n in known if n.id not in self._path_of]
        for own, node in sorted(waiting, key=lambda item: -item[0].count("/")):
            entry = self._entries.get(own)
            if entry is None or own in self._id_of:
                continue
            if _is_alike_without_birth(node, entry) and self._stays(node, entry, paths_of):
                self._bind(node.id, own)

    def _stays(
        self, node: SyncedNode, entry: LocalEntry, paths_of: Mapping[tuple[int, int], list[str]]
    ) -> bool:
        """Whether what was in a folder is in the one at its place rather than in the one with its inode."""
        if node.kind is not Kind.FOLDER:
            return same_content(node, entry)
        children = self._children.get(node.id, ())
        here = sum(self._path_of.get(child.id) == join(entry.path, child.name) for child in children)
        there = [self._children_by_inode(node, path) for path in paths_of.get(_inode(node), ())]
        return 0 < here >= max(there, default=0)

    def _children_by_inode(self, node: SyncedNode, path: str) -> int:
        """Return how many of a folder's children are, unchanged and by inode, in the one at `path`."""
        children = self._children.get(node.id, ())
        found = [(child, self._entries.get(join(path, child.name))) for child in children]
        return sum(
            entry is not None
            and (entry.stat.dev, entry.stat.ino) == _inode(child)
            and same_content(child, entry)
            for child, entry in found
        )

    def _bind_first(self, node: SyncedNode, paths: Iterable[str]) -> None:
        for path in paths:
            if path not in self._id_of and self._same_thing(node, self._entries[path]):
                self._bind(node.id, path)
                return

    def _same_thing(self, node: SyncedNode, entry: LocalEntry) -> bool:
        """Whether an entry with the node's inode is the node."""
        own = self._synced_paths.get(node.id)
        if entry.kind.value != node.kind.value or node.stat is None:
            return False
        if node.stat.birth_ns is not None and entry.stat.birth_ns is not None:
            return node.stat.birth_ns == entry.stat.birth_ns
        if entry.path == own:
            return True
        if node.kind is Kind.FOLDER:
            return self._has_left(own) or self._shares_a_child(node, entry)
        return same_content(node, entry) or node.stat.same_content_signs(entry.stat)

    def _has_left(self, own: str | None) -> bool:
        """Whether no folder that could be the one known there stands at a folder's own path."""
        entry = None if own is None else self._entries.get(own)
        if entry is None or entry.kind is not LocalKind.FOLDER:
            return True
        return (entry.stat.dev, entry.stat.ino) in self._known_inodes

    def _shares_a_child(self, node: SyncedNode, entry: LocalEntry) -> bool:
        """Whether something that was in the folder is, by its inode, in the folder at `entry`."""
        for child in self._children.get(node.id, ()):
            found = self._entries.get(join(entry.path, child.name))
            if found is not None and (found.stat.dev, found.stat.ino) == _inode(child):
                return True
        return False

    def by_place(self) -> None:
        """Bind nodes that are left to the entry that stands where they are expected."""
        for node in self._top_down():
            if node.id in self._path_of:
                continue
            parent = "" if node.parent_id == self._root_id else self._path_of.get(node.parent_id)
            path = None if parent is None else self._slots.get((parent, name_key(node.name)))
            if path is None or path in self._id_of:
                continue
            if self._entries[path].kind.value == node.kind.value:
                self._bind(node.id, path)

    def by_content(self, held: frozenset[str]) -> None:
        """Bind vanished files to the one new entry of equal content; held ones did not vanish."""
        lost: dict[str, list[str]] = defaultdict(list)
        for node in self._synced.values():
            if node.id in self._path_of or node.id in held:
                continue
            if node.kind is Kind.FILE and node.size and node.content_hash:
                lost[node.content_hash].append(node.id)
        found: dict[str, list[str]] = defaultdict(list)
        for path, entry in self._entries.items():
            if path not in self._id_of and entry.kind is LocalKind.FILE and entry.content_hash in lost:
                found[entry.content_hash].append(path)
        for content_hash, paths in found.items():
            if len(paths) == 1 and len(lost[content_hash]) == 1:
                self._bind(lost[content_hash][0], paths[0])

    def held(self, opaque: frozenset[str]) -> frozenset[str]:
        """Return the nodes that may still be there unseen, below folders that were not listed."""
        held: set[str] = set()
        for node in self._top_down() if opaque else ():
            if node.id in self._path_of:
                continue
            parent = "" if node.parent_id == self._root_id else self._path_of.get(node.parent_id)
            if node.parent_id in held or parent in opaque or self._was_below(node, opaque):
                held.add(node.id)
        return frozenset(held)

    def tree(self, held: frozenset[str], opaque: frozenset[str]) -> LocalTree:
        """Return the tree."""
        nodes = {}
        for path, entry in self._entries.items():
            key = self._key(path)
            nodes[key] = LocalNode(key, self._key(entry.parent), entry)
        return LocalTree(self._root_id, nodes, held, opaque)

    def _key(self, path: str) -> str:
        if path == "":
            return self._root_id
        return self._id_of.get(path) or NEW + path

    def _was_below(self, node: SyncedNode, opaque: frozenset[str]) -> bool:
        path = self._synced_paths.get(node.id, "")
        return any(path.startswith(folder + "/") or folder == "" for folder in opaque)


def _inode(node: SyncedNode) -> tuple[int, int]:
    return (0, 0) if node.stat is None else (node.stat.dev, node.stat.ino)


def _is_alike_without_birth(node: SyncedNode, entry: LocalEntry) -> bool:
    """Whether an entry is of the node's kind, and no time of birth says whether it is the node."""
    births = (None if node.stat is None else node.stat.birth_ns, entry.stat.birth_ns)
    return entry.kind.value == node.kind.value and None in births


def same_content(node: SyncedNode, entry: LocalEntry) -> bool:
    """Whether an entry has the content on which both sides last agreed."""
    if node.kind is Kind.SYMLINK:
        return entry.symlink_target == node.symlink_target
    if node.kind is Kind.FOLDER:
        return True
    return entry.content_hash is not None and entry.content_hash == node.content_hash


def join(parent: str, name: str) -> str:
    """Return the path of `name` in the folder `parent` (empty: the root)."""
    return f"{parent}/{name}" if parent else name


def _troubled_folders(entries: Iterable[LocalEntry]) -> frozenset[str]:
    return frozenset(e.path for e in entries if e.trouble is not None and e.kind is LocalKind.FOLDER)


def _untroubled_last(entries: Mapping[str, LocalEntry]) -> list[tuple[str, LocalEntry]]:
    """Order entries so that of two with one key the one that can be synced is found."""
    return sorted(entries.items(), key=lambda item: item[1].trouble is None)
