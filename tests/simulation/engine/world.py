"""The simulated world around real agents: a server, devices with their users, and what is owed.

The ledger and the users' verbs are those of the planner's simulation (`tests.simulation.world`).
"""

import asyncio
import contextvars
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from typing_extensions import override

from agent import app
from agent.actions import Plan
from agent.credentials import CredentialStore, DeviceCredentials
from agent.engine import Engine
from agent.model import Kind, LocalKind
from agent.narrowing import Narrowing
from agent.planning import Planning
from agent.remote import Api
from agent.remote.transport import Transport
from agent.settings import Settings
from agent.status import SyncReport
from agent.transfer import Transfer
from libs.contracts.api import PushChanges
from libs.contracts.paths import name_key, original_stem, split_extension
from tests.simulation.disk import is_below, parent_of
from tests.simulation.engine.contents import bytes_of, edition_of, hash_of, large
from tests.simulation.engine.folder import Folder
from tests.simulation.engine.loop import Inline, VirtualLoop
from tests.simulation.engine.machine import CURRENT, Killed, Machine, played
from tests.simulation.engine.server import Server, Whim, tokens
from tests.simulation.engine.small import stand_ins
from tests.simulation.engine.wire import SERVER, Network, Session
from tests.simulation.world import SHARED, Ledger, User
from tests.support.metadata_space import ROOT, Space

WALL = 1_764_000_000.0
"""Where the wall clock begins."""
_FORGETS = 0.2
"""How often the server does not know (any more) in which parts a file was sent."""
_WHIMS: Final[dict[Whim, float]] = {
    Whim.NO_BASE: 0.1, Whim.REFUSES: 0.15, Whim.NO_DELTA: 0.15, Whim.LIES: 0.15, Whim.BABBLES: 0.05,
}  # fmt: skip
"""How often the server does what costs a delta."""
_UNLIKE: Final = 4
"""One of so many edits leaves nothing of what was there."""
_SHM = Path("/dev/shm")  # noqa: S108 - a disk in memory, where the system has one


@dataclass
class Device:
    """One linked device."""

    name: str
    machine: Machine
    disk: Folder
    settings: Settings
    reports: list[SyncReport] = field(default_factory=list)
    engine: Engine | None = None
    """Of a running agent."""
    hints: "asyncio.Queue[set[str] | None]" = field(default_factory=asyncio.Queue)
    """What the watcher saw; None: it has lost events."""
    pushes: "asyncio.Queue[PushChanges]" = field(default_factory=asyncio.Queue)
    unrecorded: set[str] = field(default_factory=set)
    """Contents of which the device may not know that the server has them, or that it has them."""

    @property
    def problems(self) -> set[str]:
        """Paths that the running agent, or else the last run, reports."""
        if self.engine is not None:
            return {*self.engine.troubles, *self.engine.work.state.problems}
        return {problem.path for problem in self.reports[-1].problems} if self.reports else set()


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """What may differ between devices, and must not matter."""

    exchanges: bool = True
    keeps_birth: bool = True


class World:
    """A server and some devices; `users[i]` acts on `devices[i]`'s folder."""

    def __init__(
        self, kinds: Sequence[DeviceKind], rng: random.Random, root: Path, loop: VirtualLoop
    ) -> None:
        self.rng = rng
        self.loop = loop
        self.jump = 0.0
        self.server = Server(clock=loop.time)
        self.server.commit_later = self._commit_later
        self.server.on_change = self._push
        self.server.forgets = lambda: rng.random() < _FORGETS
        self.server.whim = lambda whim: rng.random() < _WHIMS[whim]
        self.network = Network(self.server, rng, on_lost=self._lost)
        self.ledger = Ledger()
        self._ticks = count(1)
        self._contents = count(1)
        self.contents: dict[str, str] = {}
        """SHA-256 → content."""
        self.devices = [self._device(chr(ord("A") + i), kind, root) for i, kind in enumerate(kinds)]
        self.users = [Writer(device, self.ledger, self._content) for device in self.devices]  # type: ignore[arg-type]
        self.slow_commits = 0.0
        self.hint_loss = 0.0
        self.backup: Space | None = None

    def _device(self, name: str, kind: DeviceKind, root: Path) -> Device:
        machine = Machine(name, kind.exchanges, kind.keeps_birth)
        settings = Settings(home=root / f"{name}.home", part_parallel=2, url_batch=2)
        settings.folder.mkdir()
        CredentialStore(settings).save(DeviceCredentials.of(SERVER, tokens(name)))
        folder = root / name
        folder.mkdir()
        return Device(name, machine, Folder(folder, machine, self._tick), settings)

    def _tick(self) -> int:
        """Return the wall clock in nanoseconds, never twice the same."""
        return int(self.wall() * 1e9) + next(self._ticks)

    def wall(self) -> float:
        return WALL + self.loop.time() + self.jump

    def _content(self) -> str:
        content = f"c{next(self._contents)}"
        self.contents[hash_of(content)] = content
        return content

    def large_content(self) -> str:
        """Return a new content of which an edit travels as a difference."""
        content = large(f"b{next(self._contents)}")
        self.contents[hash_of(content)] = content
        return content

    def text(self, content_hash: str) -> str:
        """Return the content of a hash."""
        if content_hash not in self.contents:
            self.contents.update((hash_of(c), c) for c in self.ledger.written)
        return self.contents.get(content_hash, f"unknown {content_hash}")

    def _commit_later(self, commit: Callable[[], None]) -> bool:
        if self.rng.random() >= self.slow_commits:
            return False
        self.loop.call_later(self.rng.random() * 20, commit)
        return True

    # Agents -----------------------------------------------------------------------------------

    async def sync(self, device: Device) -> SyncReport | None:
        """Run `lockstep sync` once; None: the device died, or the run failed as a program."""
        task = self.loop.create_task(self._run(device), context=agent_context(device.machine))
        try:
            report = await task
        except BaseException as error:  # noqa: BLE001 - raised again, as what a search catches
            if not _is_death(error):
                raise _as_finding(error) from None
            self._died(device)
            return None
        finally:
            device.machine.end()
        device.reports.append(report)
        return report

    async def _run(self, device: Device) -> SyncReport:
        return await app.run_sync(device.settings, device.disk.root, allow_mass_delete=True)

    # Running agents ---------------------------------------------------------------------------

    async def agent(self, device: Device) -> None:
        """Run `lockstep start` until cancelled or dead."""
        device.hints, device.pushes = asyncio.Queue(), asyncio.Queue()
        task = self.loop.create_task(
            app.run_agent(device.settings, device.disk.root, allow_mass_delete=True),
            context=agent_context(device.machine),
        )
        try:
            await task
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        except BaseException as error:  # noqa: BLE001 - raised again, as what a search catches
            if not _is_death(error):
                raise _as_finding(error) from None
            self._died(device)
        finally:
            device.machine.end()
            device.engine = None

    def running(self, engine: Engine) -> Device:
        """Return the device whose agent calls, and note its engine."""
        machine = CURRENT.get()
        device = next(device for device in self.devices if device.machine is machine)
        device.engine = engine
        return device

    def act(self, who: int, verb: Callable[[User], object]) -> None:
        """Let a user act on a folder that is watched; hints may come late, or never."""
        device = self.devices[who]
        before = device.disk.signs()
        verb(self.users[who])
        after = device.disk.signs()
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        for path in sorted(changed):
            if parent_of(path) in changed:
                continue  # a watcher tells of a folder that moved, not of what is in it
            if self.rng.random() < self.hint_loss:
                continue
            hint = None if self.rng.random() < self.hint_loss else {path}
            self.loop.call_later(self.rng.random(), device.hints.put_nowait, hint)

    def _push(self, before: int, after: int) -> None:
        """Push a change to every device: late, twice, in another order, or not at all."""
        push = PushChanges(
            namespace_id=ROOT, epoch=self.server.space.epoch, from_seq=before, to_seq=after,
            rows=self.server.rows_between(before, after),
        )  # fmt: skip
        for device in self.devices:
            for _ in range(self.rng.choices((0, 1, 2), (1, 8, 1))[0]):
                self.loop.call_later(
                    self.rng.random() * self.network.delay * 4, device.pushes.put_nowait, push
                )

    def _died(self, device: Device) -> None:
        """What was under way may be done, or not: the device does not know."""
        device.unrecorded.update(self.live_contents())
        device.unrecorded.update(device.disk.contents_below(""))
        pending = [session for session in self.server.sessions.values() if session.pending]
        device.unrecorded.update(self.text(e.content_hash) for session in pending for e in session.entries)

    def _lost(self, name: str) -> None:
        for device in self.devices:
            if device.name == name:
                self._died(device)

    def check_converged(self, device: Device) -> None:
        """Check that a folder equals the server's tree, less what is reported."""
        here, there = self._local_view(device), self._remote_view()
        reported = {name_key(path) for path in device.problems}
        for path in here.keys() | there.keys():
            if not any(is_below(path, root) for root in reported):
                assert here.get(path) == there.get(path), f"{device.name} differs from the server at {path!r}"

    async def settle(self) -> None:
        """Sync all until none has anything to do, then check that a further sync is idle."""
        reports: list[SyncReport] = []
        for _ in range(40):
            before = self.server.seq
            reports = [await self._synced(device) for device in self.devices]
            if self.server.seq == before and not any(map(moved_anything, reports)):
                return await self._check_idle()
        raise AssertionError(f"the devices never come to rest: {reports}")

    async def _synced(self, device: Device) -> SyncReport:
        device.machine.begin()
        report = await self.sync(device)
        assert report is not None
        assert report.failure is None, f"{device.name}: {report.failure}"
        assert report.halted is None, f"{device.name}: {report.halted}"
        return report

    async def _check_idle(self) -> None:
        seq, puts, gets = self.server.seq, self.server.store.puts, self.server.store.gets
        for device in self.devices:
            report = await self._synced(device)
            assert not moved_anything(report), f"{device.name} is not idle: {report}"
        assert (self.server.seq, self.server.store.puts, self.server.store.gets) == (seq, puts, gets)

    def heal(self) -> None:
        """End every failure."""
        self.network.faults = self.network.delay = self.slow_commits = 0.0
        self.network.down = False
        for device in self.devices:
            device.machine.begin()
        self.reveal()

    def reveal(self) -> None:
        """End what users did to keep the agents from something."""
        for device in self.devices:
            device.machine.hidden.clear()
            for path, entry in device.disk.entries.items():
                if entry.kind is LocalKind.OTHER:
                    device.disk.remove(path)

    def forget_certainty(self, device: Device, *, deletions: bool = False) -> None:
        """A device may not know what it did: contents may stand twice, deleted ones come back."""
        self._died(device)
        if deletions:
            self.ledger.copied.update(self.ledger.destroyed)

    # The server's own changes -----------------------------------------------------------------

    def restore(self, node_id: str) -> None:
        """Restore a deleted node, as its trash does."""
        nodes = self.server.space.nodes
        below = [n for n in nodes.values() if n.id == node_id or self._descends(n.parent_id, node_id)]
        if self.server.restore_node(node_id):
            texts = [self.text(n.content_hash) if n.content_hash else n.symlink_target or "" for n in below]
            self.ledger.set_free(texts)
            self.ledger.names.add(nodes[node_id].name)

    def _descends(self, node_id: str, folder: str) -> bool:
        while node_id != ROOT:
            if node_id == folder:
                return True
            node_id = self.server.space.nodes[node_id].parent_id
        return False

    def restore_version(self, version_id: str) -> None:
        """Make an old version of a file the latest."""
        version = self.server.space.versions[version_id]
        node = self.server.space.nodes.get(version.node_id)
        if node is None:
            return
        content, before = self.text(version.content_hash), self.text(node.content_hash or "")
        if self.server.restore_version(node.id, version_id):
            self.ledger.copied.add(content)
            if before != content:
                self.ledger.destroyed.add(before)

    def restore_backup(self) -> None:
        """Put yesterday's tree back under a new epoch; the store still has every object.

        What was committed since is known to the devices alone, and what was deleted since is back.
        """
        assert self.backup is not None
        space, self.backup = self.backup, None
        space.epoch = self.server.space.epoch + 1
        space.ids = self.server.space.ids
        self.server.space = space
        self.server.sessions.clear()
        self.server.purged_seq = 0
        self.ledger.copied.update(self.ledger.written)
        self.ledger.destroyed.update(self.ledger.written - self._on_disks())

    def _on_disks(self) -> set[str]:
        return set().union(*(device.disk.contents_below("") for device in self.devices))

    # Telling ----------------------------------------------------------------------------------

    def told(self, device: Device) -> dict[str, str]:
        """Return a folder: path → content."""
        return {path: entry.content or entry.kind.value for path, entry in device.disk.entries.items()}

    def tree(self) -> dict[str, str]:
        """Return the server's live tree: path → content."""
        return {path: str(facts[1] or facts[0]) for path, facts in self._remote_view().items()}

    # Invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the invariants of a world at rest."""
        for device in self.devices:
            self.check_converged(device)
            if all(path.isascii() for path in device.disk.entries):
                assert not device.problems, f"{device.name}: {device.reports[-1].problems}"
        self._check_contents()
        if self._rename_at_once():
            self._check_names()
        self._check_server()

    def check_whole(self, device: Device) -> None:
        """No partial or mixed file is ever under a name that its user sees."""
        for path, entry in device.disk.entries.items():
            if entry.kind is LocalKind.FILE:
                assert not entry.content.startswith("CORRUPT"), f"{device.name}/{path}: {entry.content}"

    def _local_view(self, device: Device) -> dict[str, tuple[object, ...]]:
        view: dict[str, tuple[object, ...]] = {}
        for path, entry in device.disk.entries.items():
            attributes = (entry.mtime_ns, entry.executable) if entry.kind is LocalKind.FILE else ()
            view[name_key(path)] = (entry.kind.value, entry.content, *attributes)
        return view

    def _remote_view(self) -> dict[str, tuple[object, ...]]:
        view: dict[str, tuple[object, ...]] = {}
        for path, node in self.server.by_path().items():
            attributes = (node.mtime_ns, node.executable) if node.kind is Kind.FILE else ()
            content = self.text(node.content_hash or "") if node.kind is Kind.FILE else node.symlink_target
            view[name_key(path)] = (node.kind.value, content or "", *attributes)
        return view

    def live_contents(self) -> list[str]:
        nodes = [node for node in self.server.live() if node.kind is not Kind.FOLDER]
        return [
            self.text(n.content_hash or "") if n.kind is Kind.FILE else n.symlink_target or "" for n in nodes
        ]

    def _rename_at_once(self) -> bool:
        """Whether no file ever has two names for an instant, in which a crash or a user may meet both."""
        return all(device.machine.exchanges for device in self.devices)

    def _check_contents(self) -> None:
        ledger, live = self.ledger, self.live_contents()
        kept = set(live).union(*(d.disk.contents_below("") for d in self.devices))
        lost = ledger.written - ledger.destroyed - kept
        assert not lost, f"lost: {sorted(lost)}"
        assert set(live) <= ledger.written, f"invented: {sorted(set(live) - ledger.written)}"
        if not self._rename_at_once():
            return
        unrecorded: set[str] = set().union(*(d.unrecorded for d in self.devices))
        doubled = {c for c in live if live.count(c) > 1 and not c.startswith(SHARED)}
        doubled -= ledger.copied | unrecorded
        assert not doubled, f"doubled: {sorted(doubled)}"
        back = {c for c in ledger.destroyed & set(live) if not c.startswith(SHARED)}
        back = {c for c in back if ledger.origin(c) not in ledger.free} - ledger.copied - unrecorded
        assert not back, f"came back: {sorted(back)}"

    def _check_names(self) -> None:
        known = {name_key(name) for name in self.ledger.names}
        for node in self.server.live():
            stem, extension = split_extension(node.name)
            origin = original_stem(stem) + extension
            assert known & {name_key(origin), name_key(node.name)}, f"an invented name: {node.name}"

    def _check_server(self) -> None:
        """Sequence numbers have no gap for readers; the store holds what every version says."""
        seqs = sorted(node.seq for node in self.server.space.nodes.values())
        assert len(seqs) == len(set(seqs))
        assert not seqs or seqs[-1] <= self.server.seq
        for version in self.server.space.versions.values():
            item = self.server.space.objects[version.object_id]
            content = self.server.store.objects[item.key]
            assert content == bytes_of(self.text(version.content_hash)), "another content than was committed"

    def forgive(self) -> None:
        """From a rest on, nothing of before is in flight."""
        self.ledger.free.clear()
        live = self.live_contents()
        self.ledger.destroyed.difference_update(live)
        self.ledger.copied.update(content for content in live if live.count(content) > 1)
        for device in self.devices:
            device.unrecorded.clear()


class Writer(User):
    """Edits as people do: mostly a few bytes of what is there, sometimes all of it."""

    @override
    def _next(self, path: str) -> str:
        before = self.disk.entries[path].content
        content, plain = self._content(), not before.startswith("c")
        if not before.startswith(SHARED) and (plain or int(content[1:]) % _UNLIKE):
            content = edition_of(before, content)
        self._ledger.origins[content] = self._ledger.origin(before)
        return content


def meddle_with(user: User, name: str, number: int) -> object:
    """Do something to what the agent is about right now, or make something of that name."""
    paths = sorted(path for path in user.disk.entries if path.rpartition("/")[2] == name)
    if not paths:
        return user.create(name or "a")
    path = paths[number % len(paths)]
    deeds: tuple[Callable[[], object], ...] = (
        lambda: user.edit(path),
        lambda: user.safe_save(path) or user.create(f"{path}/new"),
        lambda: user.edit(path) and user.move(path, f"{path}.moved"),
        lambda: user.edit(path) or user.delete(path),
        lambda: user.delete(path) and user.create(path),
        lambda: user.turn(path, LocalKind.FOLDER) or user.create(f"{path}/inside"),
    )
    return deeds[number // 3 % len(deeds)]()


def moved_anything(report: SyncReport) -> bool:
    """Whether a run did something, or sent or fetched a byte."""
    counts = (report.uploaded_bytes, report.downloaded_bytes, report.moved, report.deleted, report.conflicts)
    return any(counts)


def agent_context(machine: Machine) -> contextvars.Context:
    """Return the context in which a task is the agent of this machine."""
    context = contextvars.copy_context()
    context.run(CURRENT.set, machine)
    return context


def _as_finding(error: BaseException) -> BaseException:
    """Return an error that a search catches: a run without an end comes in a group that it does not."""
    if isinstance(error, BaseExceptionGroup) and not isinstance(error, ExceptionGroup):
        return AssertionError(f"{error.exceptions[0]}")
    return error


def _is_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_death, error.exceptions))
    return isinstance(error, Killed)


@asynccontextmanager
async def _api(settings: Settings, *, network: Network) -> AsyncIterator[Api]:
    machine = CURRENT.get()
    assert machine is not None
    transport = Transport(Session(network, machine), SERVER, settings, CredentialStore(settings))  # type: ignore[arg-type]
    yield Api(transport, settings)


@asynccontextmanager
async def _transfer(settings: Settings, api: Api, *, network: Network) -> AsyncIterator[Transfer]:
    machine = CURRENT.get()
    assert machine is not None
    yield Transfer(Session(network, machine), api, settings)  # type: ignore[arg-type]


def simulate(kinds: Sequence[DeviceKind], seed: int, story: Callable[[World], Any]) -> World:
    """Build a world and let a story (a coroutine function) happen in it. One seed, one trace."""
    loop = VirtualLoop()
    root = Path(tempfile.mkdtemp(prefix="lockstep-sim-", dir=_SHM if _SHM.is_dir() else None))
    ids = random.Random(f"ids {seed}")
    random.seed(f"jitter {seed}")
    try:
        world = World(kinds, random.Random(seed), root, loop)
        with ExitStack() as stack:
            stack.enter_context(played(loop.time, world.wall))
            for name, stand_in in _stand_ins(world, ids).items():
                stack.enter_context(patch(name, stand_in))
            loop.run_until_complete(story(world))
        return world
    finally:
        loop.close()
        shutil.rmtree(root, ignore_errors=True)


async def _watch(engine: Engine, world: World) -> None:
    device = world.running(engine)
    engine.touch_all()
    while True:
        engine.touch(await device.hints.get())


async def _listen(engine: Engine, world: World) -> None:
    device = world.running(engine)
    while True:
        engine.pushed(await device.pushes.get())


_PLAN = Planning.plan


def _checked_plan(planning: Planning, suspended: frozenset[str]) -> Plan:
    """Plan as ever, and once more from nothing: what was narrowed down to must not have lost anything."""
    found = _PLAN(planning, suspended)
    narrowing = planning._narrowing
    planning._narrowing = Narrowing(ROOT, planning._held)
    whole = _PLAN(planning, suspended)
    planning._narrowing = narrowing
    assert (set(found.actions), found.troubles) == (set(whole.actions), whole.troubles), (
        "narrowing lost something"
    )
    return found


def _stand_ins(world: World, ids: random.Random) -> dict[str, Any]:
    network = world.network

    def token_hex(count: int) -> str:
        return f"{ids.getrandbits(8 * count):0{2 * count}x}"

    return {
        "agent.app.open_api": lambda settings: _api(settings, network=network),
        "agent.app.open_transfer": lambda settings, api: _transfer(settings, api, network=network),
        "agent.app.ThreadPoolExecutor": Inline,
        "agent.planning.Planning.plan": _checked_plan,
        "agent.app._watch": lambda _parts, engine, *_: _watch(engine, world),
        "agent.app._listen": lambda _parts, engine, *_: _listen(engine, world),
        **stand_ins(),
        "secrets.token_hex": token_hex,
    }
