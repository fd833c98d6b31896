"""Which part of the trees a plan has to look at. Pure.

Most nodes are at rest: server, disk and memory say the same of them. A plan over the others, what
lies below their folders, the folders above, and whoever has one of their names, or a conflicted copy's,
in a folder where they are or are going, is the plan over everything: fates depend on a node's own
rows and the folders above it, names on who has them in the folder.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from agent.identity import LocalNode
from agent.merge import Trees
from agent.model import Kind, RemoteNode, SyncedNode
from libs.contracts.paths import name_key

_COPY = " (conflicted copy, "


def focused(trees: Trees) -> Trees:
    """Return the part of the trees that a plan has to look at; nothing at rest in it is moved."""
    return focused_on(trees, restless(trees))


def restless(trees: Trees) -> list[str]:
    """Return the keys that are not at rest."""
    over = _Over(trees)
    return [key for key in _keys(trees) if not (_at_rest(trees, key) or over.is_over(key))]


def focused_on(trees: Trees, keys: Iterable[str]) -> Trees:
    """Return the part of the trees on which the plan for `keys`, all that is not at rest, depends."""
    kept = _Closure(trees, keys).kept
    return Trees(
        trees.root_id,
        {key: node for key, node in trees.remote.items() if key in kept},
        replace(
            trees.local,
            nodes={key: node for key, node in trees.local.nodes.items() if key in kept},
            held=trees.local.held & kept,
        ),
        {key: node for key, node in trees.synced.items() if key in kept},
        {key: reason for key, reason in trees.held.items() if key in kept},
    )


class _Over:
    """Finds what is long gone on the server and known to nothing else."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._dead: dict[str, bool] = {trees.root_id: False}

    def is_over(self, key: str) -> bool:
        """Whether a node is deleted on the server, itself or above, and nothing else knows of it."""
        if key in self._trees.synced or key in self._trees.local.nodes or key in self._trees.held:
            return False
        chain: list[str] = []
        while key not in self._dead:
            node = self._trees.remote.get(key)
            chain.append(key)
            if node is None or node.deleted or len(chain) > len(self._trees.remote):
                self._dead[key] = node is not None
                break
            key = node.parent_id
        for below in chain:
            self._dead[below] = self._dead[key]
        return self._dead[key]


class _Closure:
    """What is not at rest, and all that its plan depends on."""

    def __init__(self, trees: Trees, keys: Iterable[str]) -> None:
        self._trees = trees
        self._children = _children_of(trees)
        self.kept: set[str] = set()
        self._with_all_below(keys)
        names = {alike(name) for key in self.kept for name in self._names_of(key)}
        for folder in {folder for key in self.kept for folder in self._folders_of(key)}:
            self._with_namesakes(folder, names)
        for key in list(self.kept):
            self._with_folders_above(key)

    def _with_all_below(self, keys: Iterable[str]) -> None:
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in self.kept:
                self.kept.add(key)
                waiting += self._children.get(key, ())

    def _folders_of(self, key: str) -> set[str]:
        """Return every folder in which one of the trees has the node."""
        remote, local, synced = (
            self._trees.remote.get(key), self._trees.local.nodes.get(key), self._trees.synced.get(key),
        )  # fmt: skip
        folders = {node.parent_id for node in (remote, synced) if node is not None}
        return folders | ({local.parent_key} if local is not None else set())

    def _names_of(self, key: str) -> Iterator[str]:
        """Yield the names that the trees have for a node."""
        remote, local, synced = (
            self._trees.remote.get(key), self._trees.local.nodes.get(key), self._trees.synced.get(key),
        )  # fmt: skip
        yield from (node.name for node in (remote, synced) if node is not None)
        if local is not None:
            yield local.entry.name

    def _with_namesakes(self, folder: str, names: AbstractSet[str]) -> None:
        for key in self._children.get(folder, ()):
            if key not in self.kept and any(may_meet(name, names) for name in self._names_of(key)):
                self.kept.add(key)

    def _with_folders_above(self, key: str) -> None:
        waiting = self._folders_of(key)
        while waiting:
            folder = waiting.pop()
            if folder != self._trees.root_id and folder not in self.kept:
                self.kept.add(folder)
                waiting |= self._folders_of(folder)


def alike(name: str) -> str:
    """Return what all names share that any disk takes for one."""
    return name.lower() if name.isascii() else name_key(name).casefold()


def may_meet(name: str, names: AbstractSet[str]) -> bool:
    """Say whether a name may be, or become, one with any of `names` (each as `alike` gives it).

    A plan gives no other names than those that are there, and those of conflicted copies.
    """
    form = alike(name)
    return form in names or _COPY in form


def _keys(trees: Trees) -> Iterable[str]:
    return dict.fromkeys((*trees.synced, *trees.remote, *trees.local.nodes))


def _children_of(trees: Trees) -> dict[str, list[str]]:
    """Return folder → everything that any of the trees has in it."""
    children: dict[str, dict[str, None]] = defaultdict(dict)
    for nodes, parent_of in (
        (trees.remote, _parent_id),
        (trees.synced, _parent_id),
        (trees.local.nodes, _parent_key),
    ):
        _add_children(children, nodes, parent_of)
    return {folder: list(keys) for folder, keys in children.items()}


def _add_children(
    children: dict[str, dict[str, None]], nodes: Mapping[str, object], parent_of: Callable[..., str]
) -> None:
    for key, node in nodes.items():
        children[parent_of(node)][key] = None


def _parent_id(node: RemoteNode | SyncedNode) -> str:
    return node.parent_id


def _parent_key(node: LocalNode) -> str:
    return node.parent_key


def _at_rest(trees: Trees, key: str) -> bool:
    """Whether server, disk and memory say the same of a node, or it is long gone everywhere."""
    synced, remote, local = trees.synced.get(key), trees.remote.get(key), trees.local.nodes.get(key)
    if key in trees.held or key in trees.local.held:
        return False
    if synced is None or remote is None or local is None:
        return False
    return _same_remotely(synced, remote) and _same_locally(synced, local)


def _same_remotely(synced: SyncedNode, remote: RemoteNode) -> bool:
    return (
        not remote.deleted
        and remote.parent_id == synced.parent_id
        and remote.name == synced.name
        and remote.version_id == synced.version_id
        and remote.content_hash == synced.content_hash
        and remote.symlink_target == synced.symlink_target
        and remote.mtime_ns == synced.mtime_ns
        and remote.executable == synced.executable
    )


def _same_locally(synced: SyncedNode, local: LocalNode) -> bool:
    entry = local.entry
    if entry.trouble is not None or local.parent_key != synced.parent_id or entry.name != synced.name:
        return False
    if synced.stat is None or entry.stat.ino != synced.stat.ino or entry.stat.dev != synced.stat.dev:
        return False
    if synced.kind is Kind.FOLDER:
        return entry.stat.birth_ns == synced.stat.birth_ns
    if synced.kind is Kind.SYMLINK:
        return entry.symlink_target == synced.symlink_target
    return (
        entry.content_hash == synced.content_hash
        and entry.stat.birth_ns == synced.stat.birth_ns
        and entry.stat.mtime_ns == synced.stat.mtime_ns
        and entry.stat.executable == synced.stat.executable
    )
