"""A simulated device: its memory, and a reference executor of the planner's actions.

Carrying out an action is a generator: at each `yield` others may act, or the device may die. What
is on disk and in `Memory` survives that; nothing else does. Every check of the disk and the step
that rests on it stand between two yields.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import singledispatchmethod

from agent import actions as act
from agent.actions import Action, Plan
from agent.focus import focused
from agent.identity import identify
from agent.merge import Trees
from agent.model import Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble
from agent.narrowing import Narrowing, Observed
from agent.parking import parked_name
from agent.planner import Rules, paths_of, plan
from libs.contracts.paths import name_key
from tests.simulation.disk import Disk, Inode, VacancyError, join
from tests.simulation.server import ROOT, Move, RefusedError, Server

Steps = Iterator[None]
STALE_LIMIT = 6
DAY = date(2026, 11, 23)


class StaleError(Exception):
    """The disk is not as the plan says: observe and plan again."""


@dataclass(slots=True)
class Memory:
    """What survives a crash."""

    remote: dict[str, RemoteNode] = field(default_factory=dict)
    synced: dict[str, SyncedNode] = field(default_factory=dict)
    cursor: int = 0
    trash: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Habits:
    """In what the device differs from others, none of which may matter."""

    reads_feed_lazily: bool = False
    """The feed is read again only when an operation was refused or the plan is empty."""
    goes_on_after_refusal: bool = True
    ignored: str | None = None
    """A name that an ignore rule of this device covers, files and folders."""


class Device:
    """One folder in step with the server by `agent.planner`."""

    def __init__(self, name: str, server: Server, disk: Disk, habits: Habits) -> None:
        self.name = name
        self.server = server
        self.disk = disk
        self.habits = habits
        self.memory = Memory()
        self.broken: set[str] = set()
        """Paths at which every action fails."""
        self.suspended: frozenset[str] = frozenset()
        self.troubles: dict[str, Trouble] = {}
        self.unrecorded: set[str] = set()
        """Contents that were committed or put on disk while the device died before it knew."""
        self.done: list[Action] = []
        fold = disk.kind.fold
        self.rules = Rules(name, DAY, lambda text: fold(name_key(text)))
        self._narrowing = Narrowing(ROOT, self._held_in)
        self._entries: dict[str, LocalEntry] = {}
        self._created: dict[str, str] = {}
        self._stale: dict[str, int] = {}

    # Observing and planning -------------------------------------------------------------------

    def read_feed(self) -> bool:
        """Read the feed; whether it held anything."""
        rows, self.memory.cursor = self.server.feed(self.memory.cursor)
        self.memory.remote.update((row.id, row) for row in rows)
        return bool(rows)

    def plan(self) -> Plan:
        entries, opaque = self.disk.scan(set(_paths(self.memory.synced).values()))
        seen = {p: e for p, e in entries.items() if not self._is_ignored(p)}
        tree = identify(seen, self.memory.synced, ROOT, opaque)
        trees = Trees(ROOT, self.memory.remote, tree, self.memory.synced, self._held())
        found = plan(trees, self.rules, self.suspended)
        self._check_focus(trees, found)
        self._check_narrowing(seen, opaque, found)
        self.troubles = found.troubles
        return found

    def _check_focus(self, trees: Trees, found: Plan) -> None:
        """What the focus leaves out changes nothing in the plan."""
        part = focused(trees)
        if part is not trees:
            narrow = plan(part, self.rules, self.suspended)
            assert (set(narrow.actions), narrow.troubles) == (set(found.actions), found.troubles), (
                "focus lost something"
            )

    def _check_narrowing(self, seen: dict[str, LocalEntry], opaque: frozenset[str], found: Plan) -> None:
        """What was at rest before and was not touched changes nothing in the plan."""
        before = self._entries
        self._entries = {p: before[p] if before.get(p) == entry else entry for p, entry in seen.items()}
        memory = self.memory
        now = Observed(self._entries, memory.remote, memory.synced, frozenset(opaque), self.habits.ignored)
        narrow = plan(self._narrowing.trees(now), self.rules, self.suspended)
        assert (set(narrow.actions), narrow.troubles) == (set(found.actions), found.troubles), (
            "narrowing lost something"
        )

    def _is_ignored(self, path: str) -> bool:
        return self.habits.ignored is not None and self.habits.ignored in path.split("/")

    def _held(self) -> dict[str, Trouble | None]:
        return self._held_in(self.memory.synced, self.memory.remote)

    def _held_in(
        self, in_synced: Mapping[str, SyncedNode], in_remote: Mapping[str, RemoteNode]
    ) -> dict[str, Trouble | None]:
        if self.habits.ignored is None:
            return {}
        remote, synced = _paths(in_remote), _paths(in_synced)
        return {key: None for paths in (remote, synced) for key, p in paths.items() if self._is_ignored(p)}

    # The loop ---------------------------------------------------------------------------------

    def sync(self, bound: int = 60) -> Steps:
        """Run until nothing is left to do. Fails when that takes more plans than `bound`."""
        fresh = self.read_feed()
        for _ in range(bound):
            found = self.plan()
            if not found.actions:
                if not self.read_feed():
                    return
                continue
            fresh = yield from self.execute(found)
            if not fresh or not self.habits.reads_feed_lazily:
                self.read_feed()
        raise AssertionError(f"{self.name}: no end of planning; now {self.plan().actions}")

    def run(self) -> None:
        """Sync without anything happening in between."""
        for _ in self.sync():
            pass

    def execute(self, found: Plan) -> Generator[None, None, bool]:
        """Carry out a plan; return whether everything in it was as expected."""
        self._created = {}
        smooth = True
        for action in found.actions:
            if self._fails(action):
                self.suspended |= paths_of(action)
                continue
            try:
                yield from self._run(action)
                self.done.append(action)
            except (RefusedError, StaleError, VacancyError):
                smooth = False
                self._failed(action)
                if not self.habits.goes_on_after_refusal:
                    break
            yield
        return smooth

    def _failed(self, action: Action) -> None:
        """What is met with something else again and again is set aside."""
        for path in paths_of(action):
            self._stale[path] = self._stale.get(path, 0) + 1
            if self._stale[path] > STALE_LIMIT:
                self.suspended |= {path}
                del self._stale[path]

    def _fails(self, action: Action) -> bool:
        return not self.broken.isdisjoint(paths_of(action))

    def node_of(self, inode: Inode) -> str | None:
        """Return the node that the memory has of what is on disk, wherever it stands by now."""
        births = (None, inode.birth_ns)
        for node in self.memory.synced.values():
            known = node.stat is not None and node.stat.ino == inode.ino and node.stat.birth_ns in births
            if known and node.kind.value == inode.kind.value:
                return node.id
        return None

    # Recording --------------------------------------------------------------------------------

    def _learn(self, row: RemoteNode) -> RemoteNode:
        known = self.memory.remote.get(row.id)
        if known is None or known.seq <= row.seq:
            self.memory.remote[row.id] = row
        return row

    def _record(self, node: RemoteNode, entry: LocalEntry) -> None:
        """Remember that node and entry agree in place and content."""
        self.memory.synced[node.id] = SyncedNode(node.id, node.parent_id, node.name, node.kind)
        self._record_content(node, entry)

    def _record_content(self, node: RemoteNode, entry: LocalEntry) -> None:
        self.memory.synced[node.id] = replace(
            self.memory.synced[node.id],
            version_id=node.version_id,
            content_hash=node.content_hash,
            size=node.size,
            mtime_ns=node.mtime_ns,
            executable=node.executable,
            symlink_target=node.symlink_target,
            stat=entry.stat,
        )

    def _record_place(self, node: RemoteNode) -> None:
        synced = self.memory.synced.get(node.id)
        if synced is not None:
            self.memory.synced[node.id] = replace(synced, parent_id=node.parent_id, name=node.name)

    def _unrecorded_meanwhile(self, content: str) -> Steps:
        """What is done is done, but not yet recorded: the device may die here."""
        known = content in self.unrecorded
        self.unrecorded.add(content)
        yield
        if not known:
            self.unrecorded.discard(content)

    def _expect(self, entry: LocalEntry) -> None:
        if not self.disk.holds(entry):
            raise StaleError(entry.path)

    def _id(self, key: str) -> str:
        key = self._created.get(key, key)
        if key.startswith("+"):
            raise StaleError(key)
        return key

    # Actions ----------------------------------------------------------------------------------

    @singledispatchmethod
    def _run(self, action: Action) -> Steps:
        raise NotImplementedError(action)

    @_run.register
    def _(self, action: act.Bind) -> Steps:
        self._expect(action.entry)
        self._set_attributes(action.node, action.entry.path)
        yield
        self._expect(action.entry)
        self._record(action.node, self.disk.look(action.entry.path))
        if action.replaces is not None:
            self._rebind_children(action.replaces, action.node.id)

    def _set_attributes(self, node: RemoteNode, path: str) -> None:
        if node.kind is not Kind.FILE:
            return
        inode = self.disk.entries[path]
        inode.mtime_ns, inode.executable = node.mtime_ns, node.executable

    @_run.register
    def _(self, action: act.Forget) -> Steps:
        self.memory.synced.pop(action.node_id, None)
        yield

    @_run.register
    def _(self, action: act.SettlePlace) -> Steps:
        self._record_place(action.node)
        yield

    @_run.register
    def _(self, action: act.KeepCopy) -> Steps:
        self._expect(action.entry)
        if action.node_id is not None:
            self.memory.synced.pop(action.node_id, None)
        yield
        self._expect(action.entry)
        self.disk.rename(action.entry.path, action.to)

    @_run.register
    def _(self, action: act.MoveLocal) -> Steps:
        self._expect(action.entry)
        self.disk.rename(action.entry.path, action.to)
        yield
        self._record_place(action.node)

    @_run.register
    def _(self, action: act.RotateLocal) -> Steps:
        """Exchange the first one's place with each next one's in turn."""
        first, *others = action.moves
        for move in action.moves:
            self._expect(move.entry)
        here = first.entry.path
        for other in others:
            there = other.entry.path
            self._expect(other.entry)
            self.disk.permute({here: there, there: here})
            yield
        for move, taken in zip(action.moves, [*others, first], strict=True):
            if move.to != taken.entry.path:
                self.disk.rename(taken.entry.path, move.to)
            self._record_place(move.node)

    @_run.register
    def _(self, action: act.CreateFolder) -> Steps:
        self._expect(action.entry)
        row = self.server.create_folder(self._id(action.parent_key), action.name)
        yield
        self._learn(row)
        self._created[action.key] = row.id
        self._record(row, action.entry)
        if action.replaces is not None:
            self._rebind_children(action.replaces, row.id)

    def _rebind_children(self, old: str, new: str) -> None:
        self.memory.synced.pop(old, None)
        for node in list(self.memory.synced.values()):
            if node.parent_id == old:
                self.memory.synced[node.id] = replace(node, parent_id=new)

    @_run.register
    def _(self, action: act.CreateSymlink) -> Steps:
        self._expect(action.entry)
        assert action.entry.symlink_target is not None
        row = self.server.create_symlink(
            self._id(action.parent_key), action.name, action.entry.symlink_target
        )
        yield from self._unrecorded_meanwhile(action.entry.symlink_target)
        self._learn(row)
        self._record(row, action.entry)

    def _move_op(self, move: act.MoveRemote) -> Move:
        return Move(move.node.id, move.node.parent_id, move.node.name, self._id(move.parent_key), move.name)

    @_run.register
    def _(self, action: act.MoveRemote) -> Steps:
        row = self.server.move(self._move_op(action))
        yield
        self._learn(row)
        self._record_place(row)

    @_run.register
    def _(self, action: act.RotateRemote) -> Steps:
        """One batch: the first waits under a temporary name while the others move.

        Items are refused one by one, so each that was not is recorded: what is left under the
        temporary name is then moved on by the next plan.
        """
        ops = [self._move_op(move) for move in action.moves]
        first = ops[0]
        aside = replace(first, parent_id=first.expect_parent_id, name=parked_name(first.node_id))
        last = replace(first, expect_parent_id=aside.parent_id, expect_name=aside.name)
        rows: list[RemoteNode] = []
        refused: RefusedError | None = None
        for op in [aside, *reversed(ops[1:]), last]:
            try:
                rows.append(self.server.move(op))
            except RefusedError as error:
                refused = error
        yield
        for row in rows:
            self._learn(row)
            self._record_place(row)
        if refused is not None:
            raise refused

    @_run.register
    def _(self, action: act.Upload) -> Steps:
        self._expect(action.entry)
        yield
        self._expect(action.entry)
        content = action.entry.content_hash
        assert content is not None
        row = self._commit(action, content)
        yield from self._unrecorded_meanwhile(content)
        self._learn(row)
        if row.id in self.memory.synced:
            self._record_content(row, action.entry)
        else:
            self._record(row, action.entry)

    def _commit(self, action: act.Upload, content: str) -> RemoteNode:
        mtime, executable = action.entry.stat.mtime_ns, action.entry.stat.executable
        if action.node is None:
            parent = self._id(action.parent_key)
            return self.server.commit_new(parent, action.name, content, mtime, executable=executable)
        try:
            return self.server.commit(
                action.node, content, mtime, executable=executable, undelete=action.undelete
            )
        except RefusedError as error:
            if action.undelete and error.code in {"name_taken", "parent_deleted", "version_conflict"}:
                self.memory.synced.pop(action.node.id, None)
            raise

    @_run.register
    def _(self, action: act.SetRemote) -> Steps:
        self._expect(action.entry)
        if action.node.kind is Kind.SYMLINK:
            assert action.entry.symlink_target is not None
            row = self.server.set_link(action.node, action.entry.symlink_target)
        else:
            stat = action.entry.stat
            row = self.server.set_file(action.node, stat.mtime_ns, executable=stat.executable)
        yield from self._unrecorded_meanwhile(action.entry.symlink_target or "")
        self._learn(row)
        self._record_content(row, action.entry)

    @_run.register
    def _(self, action: act.MakeFolder) -> Steps:
        self.disk.add(action.path, LocalKind.FOLDER)
        entry = self.disk.look(action.path)
        yield
        self._record(action.node, entry)

    @_run.register
    def _(self, action: act.Download) -> Steps:
        node, path = action.node, action.path
        content = self.server.fetch(node) if node.kind is Kind.FILE else node.symlink_target or ""
        yield
        kind = LocalKind(node.kind.value)
        if action.expect is None:
            self.disk.add(path, kind, content)
        else:
            self._expect(action.expect)
            self.disk.put_over(path, kind, content)
        self._set_attributes(node, path)
        entry = self.disk.look(path)
        yield from self._unrecorded_meanwhile(content)
        self._record(node, entry)

    @_run.register
    def _(self, action: act.SetLocal) -> Steps:
        self._expect(action.entry)
        self._set_attributes(action.node, action.entry.path)
        entry = self.disk.look(action.entry.path)
        yield
        self._record(action.node, entry)

    @_run.register
    def _(self, action: act.DeleteRemote) -> Steps:
        if action.instead is not None:
            self._expect(action.instead)
        elif action.path in self.disk.entries:
            raise StaleError(action.path)
        row = self.server.delete(action.node.id, action.node.version_id, self.memory.cursor)
        yield
        self._learn(row)
        self.memory.synced.pop(action.node.id, None)

    @_run.register
    def _(self, action: act.RemoveLocal) -> Steps:
        self._expect(action.entry)
        path = action.entry.path
        if self.disk.below(path):
            raise StaleError(path)
        self.memory.trash.extend(self.disk.contents_below(path))
        self.disk.remove(path)
        yield
        self.memory.synced.pop(action.synced.id, None)


def _paths(nodes: Mapping[str, RemoteNode] | Mapping[str, SyncedNode]) -> dict[str, str]:
    """Return the path of each node, as far as it hangs on the root."""
    paths = {ROOT: ""}
    children: dict[str, list[str]] = {}
    for node in nodes.values():
        children.setdefault(node.parent_id, []).append(node.id)
    level = children.get(ROOT, [])
    while level:
        paths.update((key, join(paths[nodes[key].parent_id], nodes[key].name)) for key in level)
        level = [child for key in level for child in children.get(key, [])]
    return paths
