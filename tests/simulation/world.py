"""The simulated world: a server, devices with their users, and the ledger of what users wrote.

Contents are unique texts, so that each can be followed: what a user wrote and no user overwrote or
deleted must be live in the end, once. Times come from one counter; nothing is random here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from agent.model import Kind, LocalKind, RemoteNode
from libs.contracts.paths import name_key, original_stem, split_extension
from tests.simulation.device import Device, Habits
from tests.simulation.disk import Disk, DiskKind, is_below, name_of, parent_of
from tests.simulation.folders import Folders, Nodes, folders_above, folders_below, no_nodes
from tests.simulation.server import ROOT, RefusedError, Server

SHARED = "shared:"
"""First characters of contents that more than one user may write."""


@dataclass(slots=True)
class Ledger:
    """What is owed to the users."""

    written: set[str] = field(default_factory=set)
    destroyed: set[str] = field(default_factory=set)
    """Overwritten or deleted by a user who had it."""
    destroyers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Content → the devices whose users did so."""
    free: set[str] = field(default_factory=set)
    """Origins that may be live although destroyed: moved or restored by another user meanwhile."""
    origins: dict[str, str] = field(default_factory=dict)
    """Content → the first content of its file: an edit of what another moved away is moved too."""
    copied: set[str] = field(default_factory=set)
    """May be live more than once."""
    folders: Folders = field(default_factory=Folders)
    names: set[str] = field(default_factory=set)

    def origin(self, content: str) -> str:
        return self.origins.get(content, content)

    def set_free(self, contents: Iterable[str]) -> None:
        self.free.update(self.origin(content) for content in contents)

    def may_outlive(self, content: str) -> bool:
        """Whether it may be live although destroyed: it, or a folder deleted with it, went elsewhere.

        A folder excuses only who deleted it: what another destroyed by itself stays away.
        """
        origin, destroyers = self.origin(content), self.destroyers.get(content, set())
        return origin in self.free or (bool(destroyers) and destroyers <= self.folders.robbed(origin))

    def forget_moves(self) -> None:
        """From a rest on, what was moved before excuses nothing."""
        self.free.clear()
        self.folders.clear()


class World:
    """A server and some devices; `users[i]` acts on `devices[i]`'s disk."""

    def __init__(self, kinds: Sequence[tuple[DiskKind, Habits]] = ((DiskKind(), Habits()),) * 2) -> None:
        clock = count(1)
        self.server = Server()
        self.ledger = Ledger()
        self.devices = [
            Device(chr(ord("A") + i), self.server, Disk(kind, lambda: next(clock)), habits)
            for i, (kind, habits) in enumerate(kinds)
        ]
        self.users = [User(d, self.ledger, self._content, d.node_of) for d in self.devices]
        self._contents = count(1)

    def _content(self) -> str:
        return f"c{next(self._contents)}"

    # Syncing ----------------------------------------------------------------------------------

    def sync(self, *devices: Device) -> None:
        for device in devices or self.devices:
            device.run()

    def settle(self) -> None:
        """Sync all until none has anything to do, then check that a further sync is idle."""
        for _ in range(30):
            before = self.server.seq
            self.sync()
            if self.server.seq == before and all(d.memory.cursor == before for d in self.devices):
                return self._check_idle()
        raise AssertionError("the devices never come to rest")

    def _check_idle(self) -> None:
        before = (self.server.seq, self.server.uploads, self.server.downloads)
        for device in self.devices:
            device.done.clear()
        self.sync()
        assert (self.server.seq, self.server.uploads, self.server.downloads) == before
        for device in self.devices:
            assert device.done == [], f"{device.name} is not idle: {device.done}"

    def heal(self) -> None:
        """End every failure: broken paths, missing permissions, special files."""
        for device in self.devices:
            device.broken.clear()
            device.suspended = frozenset()
            disk = device.disk
            for path, inode in list(disk.entries.items()):
                inode.hidden = False
                if inode.kind is LocalKind.OTHER:
                    disk.remove(path)

    # Invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the invariants of a world at rest."""
        for device in self.devices:
            check_converged(device)
            if self._is_plain():
                assert not device.troubles, f"{device.name}: {device.troubles}"
                assert not device.suspended, f"{device.name}: {device.suspended}"
        self._check_contents()
        self._check_names()

    def _is_plain(self) -> bool:
        """Whether nothing here can keep a path out of step for good."""
        disks = [device.disk for device in self.devices]
        odd = any(d.habits.ignored or d.disk.kind.fold is not str for d in self.devices)
        return not odd and all(path.isascii() for disk in disks for path in disk.entries)

    def live_contents(self) -> list[str]:
        nodes = [n for n in self.server.live() if n.kind is not Kind.FOLDER]
        return [(n.content_hash if n.kind is Kind.FILE else n.symlink_target) or "" for n in nodes]

    def _check_contents(self) -> None:
        ledger, live = self.ledger, self.live_contents()
        kept = set(live).union(*(d.disk.contents_below("") for d in self.devices))
        lost = ledger.written - ledger.destroyed - kept
        assert not lost, f"lost: {sorted(lost)}"
        assert set(live) <= ledger.written, f"invented: {sorted(set(live) - ledger.written)}"
        unrecorded: set[str] = set().union(*(d.unrecorded for d in self.devices))
        doubled = {c for c in live if live.count(c) > 1 and not c.startswith(SHARED)}
        doubled -= ledger.copied | unrecorded
        assert not doubled, f"doubled: {sorted(doubled)}"
        if any(device.habits.ignored for device in self.devices):
            return  # what is deleted in an ignored folder stays where it is not ignored
        back = {c for c in ledger.destroyed & set(live) if not c.startswith(SHARED)}
        back = {c for c in back if not ledger.may_outlive(c)} - ledger.copied - unrecorded
        assert not back, f"came back: {sorted(back)}"

    def _check_names(self) -> None:
        known = {name_key(name) for name in self.ledger.names}
        for node in self.server.live():
            stem, extension = split_extension(node.name)
            origin = original_stem(stem) + extension
            assert name_key(origin) in known, f"an invented name: {node.name}"

    def copies(self) -> list[str]:
        """The paths of conflicted copies on the server."""
        return sorted(p for p in self.server.by_path() if "(conflicted copy, " in name_of(p))

    def tree(self) -> dict[str, str]:
        """The server's live tree: path → content, `/` for folders, `-> target` for links."""
        return {path: _shown(node.kind, _content_of(node)) for path, node in self.server.by_path().items()}


def check_converged(device: Device, *, attributes: bool = True) -> None:
    """Check that a disk equals the server's tree, less what is reported or ignored."""
    here, there = _local_view(device), _remote_view(device)
    if not attributes:
        here, there = ({p: facts[:2] for p, facts in view.items()} for view in (here, there))
    reported = {name_key(path) for path in (*device.troubles, *device.suspended)}
    for path in here.keys() | there.keys():
        if any(is_below(path, root) for root in reported) or _ignored(device, path):
            continue
        assert here.get(path) == there.get(path), f"{device.name} differs from the server at {path!r}"


def _ignored(device: Device, path: str) -> bool:
    return device.habits.ignored is not None and device.habits.ignored in path.split("/")


def _local_view(device: Device) -> dict[str, tuple[object, ...]]:
    view: dict[str, tuple[object, ...]] = {}
    for path, inode in device.disk.entries.items():
        attributes = (inode.mtime_ns, inode.executable) if inode.kind is LocalKind.FILE else ()
        view[name_key(path)] = (inode.kind.value, inode.content, *attributes)
    return view


def _remote_view(device: Device) -> dict[str, tuple[object, ...]]:
    view: dict[str, tuple[object, ...]] = {}
    for path, node in device.server.by_path().items():
        attributes = (node.mtime_ns, node.executable) if node.kind is Kind.FILE else ()
        content = node.content_hash if node.kind is Kind.FILE else node.symlink_target
        view[name_key(path)] = (node.kind.value, content or "", *attributes)
    return view


class User:
    """The person at a device: changes the disk, and the ledger with it.

    Every method is a no-op returning False when it makes no sense in the present state, so that
    any part of a random history is a history. `nodes` tells which folders the device knows.
    """

    def __init__(
        self, device: Device, ledger: Ledger, content: Callable[[], str], nodes: Nodes = no_nodes
    ) -> None:
        self.device = device
        self.disk = device.disk
        self._ledger = ledger
        self._content = content
        self._nodes = nodes

    def _wrote(self, path: str, content: str) -> None:
        self._ledger.written.add(content)
        self._named(path)

    def _set_free(self, path: str, to: str) -> None:
        """What is moved may outlive its deletion elsewhere, and so may what is in it there alone.

        Out of the agent's sight it looks deleted, and new when it is seen again.
        """
        self._ledger.set_free(self.disk.contents_below(path))
        node = self._nodes(self.disk.entries[path])
        if node is not None and parent_of(path) != parent_of(to):
            self._ledger.folders.move(self.device.name, node)
        if any(inode.hidden or not p.isascii() for p, inode in self.disk.entries.items()):
            self._ledger.copied.update(self.disk.contents_below(path))

    def _next(self, path: str) -> str:
        """A new content of the same file."""
        content = self._content()
        self._ledger.origins[content] = self._ledger.origin(self.disk.entries[path].content)
        return content

    def _named(self, path: str) -> None:
        self._ledger.names.add(name_of(path))

    def _destroy(self, path: str) -> None:
        for content in self.disk.contents_below(path):
            self._ledger.destroyed.add(content)
            self._ledger.destroyers[content].add(self.device.name)

    def _put_down(self, path: str) -> None:
        """Note in which folders everything is that is about to be deleted."""
        folders, disk, name = self._ledger.folders, self.disk, self.device.name
        folders.delete(name, folders_below(disk, path, self._nodes))
        for below, inode in disk.entries.items():
            if is_below(below, path) and inode.kind in {LocalKind.FILE, LocalKind.SYMLINK}:
                above = folders_above(disk, below, self._nodes)
                folders.put_down(name, above, self._ledger.origin(inode.content))

    def _fits(self, path: str) -> bool:
        parent = path.rpartition("/")[0]
        return self.disk.is_folder(parent) and self.disk.find(path) is None

    def _kind(self, path: str) -> LocalKind | None:
        return self.disk.entries[path].kind if path in self.disk.entries else None

    def create(self, path: str, content: str | None = None, kind: LocalKind = LocalKind.FILE) -> bool:
        """Make a file, or a link to a unique target."""
        if not self._fits(path):
            return False
        content = self._content() if content is None else content
        self.disk.add(path, kind, content)
        self._wrote(path, content)
        return True

    def mkdir(self, path: str) -> bool:
        if not self._fits(path):
            return False
        self.disk.add(path, LocalKind.FOLDER)
        self._named(path)
        return True

    def special(self, path: str) -> bool:
        if not self._fits(path):
            return False
        self.disk.add(path, LocalKind.OTHER)
        self._named(path)
        return True

    def edit(self, path: str, content: str | None = None) -> bool:
        """Write a file in place, or give a link another target."""
        if self._kind(path) not in {LocalKind.FILE, LocalKind.SYMLINK}:
            return False
        self._destroy(path)
        content = self._next(path) if content is None else content
        self.disk.write(path, content)
        self._wrote(path, content)
        return True

    def safe_save(self, path: str) -> bool:
        """As editors do: a new file is written beside it and renamed over it."""
        if self._kind(path) is not LocalKind.FILE:
            return False
        self._destroy(path)
        content = self._next(path)
        self.disk.put_over(path, LocalKind.FILE, content)
        self._wrote(path, content)
        return True

    def touch(self, path: str, *, executable: bool = False) -> bool:
        if self._kind(path) is not LocalKind.FILE:
            return False
        inode = self.disk.entries[path]
        inode.mtime_ns = inode.ctime_ns = self.disk.tick()
        inode.executable ^= executable
        return True

    def hide(self, path: str) -> bool:
        """Take away, or give back, the permission to read."""
        if self._kind(path) not in {LocalKind.FILE, LocalKind.FOLDER}:
            return False
        self.disk.entries[path].hidden ^= True
        return True

    def delete(self, path: str) -> bool:
        if path not in self.disk.entries:
            return False
        self._put_down(path)
        self._destroy(path)
        self.disk.remove(path)
        return True

    def move(self, path: str, to: str) -> bool:
        """Rename or move; over an existing file when both are files."""
        if path not in self.disk.entries or is_below(to, path):
            return False
        over = self.disk.find(to)
        if over is not None and over != path:
            if {self._kind(path), self._kind(over)} != {LocalKind.FILE}:
                return False
            self._destroy(over)
            self.disk.remove(over)
        elif over is None and not self._fits(to):
            return False
        self._set_free(path, to)
        self.disk.rename(path, to)
        self._named(to)
        return True

    def rotate(self, paths: Sequence[str]) -> bool:
        """Each takes the next one's place, as by renames through a spare name."""
        known = all(path in self.disk.entries for path in paths) and len(set(paths)) == len(paths)
        if not known or any(is_below(p, q) for p in paths for q in paths if p != q):
            return False
        moves = dict(zip(paths, [*paths[1:], paths[0]], strict=True))
        for path, to in moves.items():
            self._set_free(path, to)
        self.disk.permute(moves)
        return True

    def copy(self, path: str, to: str) -> bool:
        if self._kind(path) is not LocalKind.FILE or not self._fits(to):
            return False
        content = self.disk.entries[path].content
        self._ledger.copied.add(content)
        return self.create(to, content)

    def turn(self, path: str, kind: LocalKind) -> bool:
        """Replace what is there by something of another kind under the same name."""
        if path not in self.disk.entries or self._kind(path) is kind:
            return False
        self.delete(path)
        return self.mkdir(path) if kind is LocalKind.FOLDER else self.create(path, kind=kind)


def _content_of(node: RemoteNode) -> str:
    return (node.content_hash if node.kind is Kind.FILE else node.symlink_target) or ""


def _shown(kind: Kind, content: str) -> str:
    return {Kind.FILE: content, Kind.FOLDER: "/", Kind.SYMLINK: f"-> {content}"}[kind]


def _descends(server: Server, node_id: str, folder: str) -> bool:
    while node_id != ROOT:
        if node_id == folder:
            return True
        node_id = server.rows[node_id].parent_id
    return False


def restore(world: World, node_id: str) -> bool:
    """Restore a deleted node on the server, as its trash does."""
    rows = world.server.rows
    below = [r for r in rows.values() if r.id == node_id or _descends(world.server, r.parent_id, node_id)]
    if not world.server.restore(node_id):
        return False
    world.ledger.set_free(_content_of(row) for row in below)
    world.ledger.names.add(world.server.rows[node_id].name)
    return True


def restore_version(world: World, node_id: str, number: int) -> bool:
    """Make an old version of a file the latest."""
    server = world.server
    node, contents = server.rows[node_id], server.versions[node_id]
    if not contents:
        return False
    content = contents[number % len(contents)]
    try:
        server.commit(node, content, 1, executable=False, undelete=False)
    except RefusedError:
        return False
    world.ledger.copied.add(content)
    if node.content_hash != content:
        world.ledger.destroyed.add(node.content_hash or "")
    return True
