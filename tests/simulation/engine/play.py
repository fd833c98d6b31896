"""Random histories of whole agents: made from a seed, played, shrunk when they fail."""

import asyncio
import copy
import errno
import logging
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from agent.model import LocalKind
from libs.contracts.errors import LockstepError
from tests.simulation.engine.contents import bytes_of
from tests.simulation.engine.machine import EndlessError
from tests.simulation.engine.world import Device, DeviceKind, World, meddle_with, simulate
from tests.simulation.history import NAME_WEIGHTS, NAMES, USER_VERBS, Step
from tests.simulation.world import User

USERS: Final[dict[str, int]] = {
    "create": 14, "mkdir": 8, "link": 2, "shared": 3, "edit": 12, "save": 5, "touch": 2, "chmod": 1,
    "delete": 9, "rename": 8, "move": 10, "over": 4, "swap": 3, "rotate": 1, "invert": 1, "lift": 2,
    "recase": 1, "copy": 2, "to_file": 2, "to_folder": 2, "to_link": 1, "hide": 1, "special": 1,
}  # fmt: skip
"""What a user does, and how often."""
WORLDS: Final[dict[str, int]] = {
    "sync": 12, "crash": 10, "act": 10, "fail": 5, "faulty": 6, "race": 8, "settle": 3, "verify": 1,
    "restore": 1, "version": 1, "lose_state": 1, "old_state": 1, "damage_state": 1, "epoch": 1, "purge": 1,
    "clock": 1, "slow": 1, "live": 4, "revise": 5,
}  # fmt: skip
"""What happens around users, and how often."""
ERRORS: Final = (errno.EIO, errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EBUSY, errno.EMFILE, errno.ESTALE)
_DAY: Final = 86_400.0
_LONG: Final = 4000.0
"""Seconds after which an agent has looked at everything without a hint."""
LARGE: Final = 300
"""Bytes from which on an edit travels as a difference."""
_KIND: Final = 46
"""Characters of a failure by which it is the same one."""


@dataclass(frozen=True, slots=True)
class History:
    """Everything a run depends on."""

    seed: int
    devices: tuple[DeviceKind, ...]
    steps: tuple[Step, ...]


# Generating --------------------------------------------------------------------------------------


def generate(seed: int, length: int | None = None) -> History:
    rng = random.Random(f"history {seed}")
    devices = tuple(
        DeviceKind(exchanges=rng.random() < 0.8, keeps_birth=rng.random() < 0.6)
        for _ in range(rng.choice((2, 2, 3)))
    )
    count = length or rng.randrange(3, 26)
    return History(seed, devices, tuple(_step(rng, len(devices)) for _ in range(count)))


def _step(rng: random.Random, devices: int, verbs: dict[str, int] | None = None) -> Step:
    known = {**USERS, **WORLDS} if verbs is None else verbs
    verb = rng.choices(list(known), list(known.values()))[0]
    name = rng.choices(NAMES, NAME_WEIGHTS)[0]
    return Step(verb, rng.randrange(devices), rng.randrange(1 << 16), rng.randrange(1 << 16), name)


# Playing -----------------------------------------------------------------------------------------


def play(history: History) -> World:
    """Play a history to its end, let all come to rest, check the invariants."""

    async def story(world: World) -> None:
        for step in history.steps:
            await apply(world, step, random.Random(f"{history.seed} {step}"))
        world.heal()
        await world.settle()
        world.check()

    return simulate(history.devices, history.seed, story)


async def apply(world: World, step: Step, rng: random.Random) -> None:
    if step.verb in USER_VERBS:
        USER_VERBS[step.verb](world.users[step.who], step)
    else:
        await VERBS[step.verb](world, world.devices[step.who], step, rng)
    for device in world.devices:
        world.check_whole(device)


async def _sync(world: World, device: Device, _step_: Step, _rng: random.Random) -> None:
    device.machine.begin()
    await _tolerant(world, device)


async def _tolerant(world: World, device: Device) -> None:
    """Run a sync that may fail as a whole; what it did not do the next one does."""
    try:
        await world.sync(device)
    except* LockstepError as error:
        world.network.trace.append(f"{device.name} failed: {type(error.exceptions[0]).__name__}")


def _early(rng: random.Random, most: int) -> int:
    """A number below `most`, small ones more often."""
    return int(most ** rng.random()) - 1


def _instant(rng: random.Random) -> int:
    """The number of a system call of a run: most runs have some hundred."""
    return rng.randrange(rng.choice((100, 300, 300, 900)))


async def _crash(world: World, device: Device, _s: Step, rng: random.Random) -> None:
    device.machine.begin()
    device.machine.dies_at = _early(rng, 160)
    await _tolerant(world, device)


def _acting(world: World, who: int, rng: random.Random) -> Callable[[], object]:
    """Return what a user does in the middle of the agent's work, mostly to what that is about."""
    step = replace(_step(rng, len(world.devices), USERS), who=who)
    user, machine = world.users[who], world.devices[who].machine
    if rng.random() < 0.6:
        return lambda: meddle_with(user, machine.about, step.pick)
    return lambda: USER_VERBS[step.verb](user, step)


async def _act(world: World, device: Device, step: Step, rng: random.Random) -> None:
    """The user acts in the middle of the agent's work; sometimes it dies after that, too."""
    device.machine.begin()
    for _ in range(rng.choice((1, 1, 2, 4))):
        device.machine.acts[_instant(rng)] = _acting(world, step.who, rng)
    if rng.random() < 0.3:
        device.machine.dies_at = _early(rng, 160)
    await _tolerant(world, device)


async def _fail(world: World, device: Device, _s: Step, rng: random.Random) -> None:
    device.machine.begin()
    for _ in range(rng.choice((1, 1, 2, 5))):
        device.machine.fails[_instant(rng)] = rng.choice(ERRORS)
    await _tolerant(world, device)
    world.forget_certainty(device)


async def _faulty(world: World, device: Device, _s: Step, rng: random.Random) -> None:
    device.machine.begin()
    world.network.faults = rng.choice((0.02, 0.1, 0.3))
    world.slow_commits = rng.choice((0.0, 0.5))
    await _tolerant(world, device)
    world.network.faults = world.slow_commits = 0.0


async def _race(world: World, device: Device, step: Step, rng: random.Random) -> None:
    """All devices sync at once while users go on; some die."""
    world.network.delay = rng.choice((0.0, 0.05, 2.0))
    world.network.faults = rng.choice((0.0, 0.0, 0.05))
    world.slow_commits = rng.choice((0.0, 0.3))
    for other in world.devices:
        other.machine.begin()
        if rng.random() < 0.3:
            other.machine.acts[_instant(rng)] = _acting(world, world.devices.index(other), rng)
        if rng.random() < 0.2:
            other.machine.dies_at = _early(rng, 160)
    tasks = [world.loop.create_task(_tolerant(world, other)) for other in world.devices]
    for task in tasks:
        await task
    world.network.faults = world.slow_commits = 0.0
    world.network.delay = 0.05


async def _revise(world: World, device: Device, step: Step, rng: random.Random) -> None:
    """A large file that all have is edited, and the edit goes round, whatever happens to the agents."""
    user = world.users[step.who]
    entries = user.disk.entries.items()
    large = sorted(p for p, e in entries if e.kind is LocalKind.FILE and len(bytes_of(e.content)) >= LARGE)
    if not large:
        user.create(step.name, world.large_content())
    elif step.other % 2:
        user.edit(large[step.pick % len(large)])
    else:
        user.safe_save(large[step.pick % len(large)])
    others = [other for other in world.devices if other is not device]
    for each in (device, *others):
        each.machine.begin()
        _endanger(world, each, rng)
        await _tolerant(world, each)
        world.network.faults = world.slow_commits = 0.0


def _endanger(world: World, device: Device, rng: random.Random) -> None:
    who, machine = world.devices.index(device), device.machine
    match rng.randrange(6):
        case 0:
            machine.dies_at = _early(rng, 160)
        case 1:
            machine.acts[_instant(rng)] = _acting(world, who, rng)
        case 2:
            machine.fails[_instant(rng)] = rng.choice(ERRORS)
            world.forget_certainty(device)
        case 3:
            world.network.faults, world.slow_commits = rng.choice((0.02, 0.1)), rng.choice((0.0, 0.5))


async def _live(world: World, _d: Device, _s: Step, rng: random.Random) -> None:
    """All agents run while users act; some are killed and started again. Left alone, all come to rest."""
    world.network.delay = rng.choice((0.0, 0.05, 1.0))
    world.network.faults = rng.choice((0.0, 0.02, 0.1))
    world.slow_commits = rng.choice((0.0, 0.3))
    world.hint_loss = rng.choice((0.0, 0.1, 0.5))
    agents = [_Agent(world, device) for device in world.devices]
    for _ in range(rng.randrange(2, 9)):
        await asyncio.sleep(rng.random() * rng.choice((0.2, 3.0, 40.0)))
        who = rng.randrange(len(agents))
        step = replace(_step(rng, len(agents), USERS), who=who)
        world.act(who, partial(_deed, step))
        if rng.random() < 0.15:
            agents[who].die_soon(rng)
        for agent in agents:
            agent.run_again()
    world.network.faults = world.slow_commits = world.hint_loss = 0.0
    for agent in agents:
        agent.spare()
    world.reveal()
    await asyncio.sleep(_LONG)
    try:
        for device in world.devices:
            world.check_converged(device)
    finally:
        for agent in agents:
            await agent.stop()
    world.network.delay = 0.05


def _deed(step: Step, user: User) -> object:
    return USER_VERBS[step.verb](user, step)


class _Agent:
    """A running agent, and whoever starts it again."""

    def __init__(self, world: World, device: Device) -> None:
        self._world = world
        self._device = device
        device.machine.begin()
        self._task = world.loop.create_task(world.agent(device))

    def die_soon(self, rng: random.Random) -> None:
        machine = self._device.machine
        machine.dies_at = machine.steps + _early(rng, 60)

    def run_again(self) -> None:
        if self._task.done():
            self._task.result()
            self._device.machine.begin()
            self._task = self._world.loop.create_task(self._world.agent(self._device))

    def spare(self) -> None:
        """Let it live from now on."""
        self._device.machine.dies_at = -1
        self.run_again()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()


async def _settle(world: World, _d: Device, _s: Step, _r: random.Random) -> None:
    world.heal()
    await world.settle()
    world.check()
    world.forgive()


async def _verify(world: World, _d: Device, _s: Step, _r: random.Random) -> None:
    world.server.verify_all()


async def _restore(world: World, _d: Device, step: Step, _r: random.Random) -> None:
    gone = sorted(node.id for node in world.server.space.nodes.values() if node.deleted)
    if gone:
        world.restore(gone[step.pick % len(gone)])


async def _version(world: World, _d: Device, step: Step, _r: random.Random) -> None:
    versions = sorted(world.server.space.versions)
    if versions:
        world.restore_version(versions[step.pick % len(versions)])


async def _lose_state(world: World, device: Device, _s: Step, _r: random.Random) -> None:
    for path in device.settings.folder.glob("state.db*"):
        path.unlink()
    world.forget_certainty(device)


async def _damage_state(world: World, device: Device, step: Step, _r: random.Random) -> None:
    """Something overwrites a part of the database, or cuts it."""
    path = device.settings.state_path
    if not path.exists():
        return
    content = bytearray(path.read_bytes())
    at = step.pick % max(1, len(content))
    if step.other % 2:
        content[at : at + 512] = b"\xa5" * 512
    else:
        del content[at:]
    path.write_bytes(content)
    world.forget_certainty(device)


async def _old_state(world: World, device: Device, _s: Step, _r: random.Random) -> None:
    """The device's database is put back from a copy; made now, when there is none."""
    saved = device.settings.folder / "saved.db"
    if saved.exists():
        for path in device.settings.folder.glob("state.db*"):
            path.unlink()
        saved.rename(device.settings.state_path)
        world.forget_certainty(device, deletions=True)
    elif device.settings.state_path.exists():
        shutil.copy(device.settings.state_path, saved)


async def _epoch(world: World, _d: Device, step: Step, _r: random.Random) -> None:
    """The server is restored from its last backup; the first time, the backup is made."""
    if world.backup is None:
        world.backup = copy.deepcopy(world.server.space)
        return
    world.restore_backup()


async def _purge(world: World, _d: Device, _s: Step, _r: random.Random) -> None:
    """Old tombstones go, so that cursors before them are refused."""
    space = world.server.space
    gone = {node.id for node in space.nodes.values() if not world.server.is_live(node)}
    if gone:
        world.server.purged_seq = space.seq
        for node_id in gone:
            del space.nodes[node_id]


async def _clock(world: World, _d: Device, step: Step, _r: random.Random) -> None:
    world.jump += (step.pick % 41 - 20) * _DAY / 4


async def _slow(world: World, _d: Device, step: Step, _r: random.Random) -> None:
    world.network.delay = (0.0, 0.05, 5.0)[step.pick % 3]


VERBS: Final[dict[str, Callable[[World, Device, Step, random.Random], Awaitable[None]]]] = {
    "sync": _sync, "crash": _crash, "act": _act, "fail": _fail, "faulty": _faulty, "race": _race,
    "settle": _settle, "verify": _verify, "restore": _restore, "version": _version,
    "lose_state": _lose_state, "old_state": _old_state, "damage_state": _damage_state, "epoch": _epoch,
    "purge": _purge, "clock": _clock, "slow": _slow, "live": _live, "revise": _revise,
}  # fmt: skip


# Failing and shrinking ---------------------------------------------------------------------------


def quiet() -> None:
    """Let the agents' logs be silent: thousands of runs in which everything goes wrong."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def failure(history: History, run: Callable[[History], object] = play) -> str | None:
    """Play a history; return what went wrong."""
    try:
        run(history)
    except (Exception, EndlessError) as error:  # noqa: BLE001 - any error at all is the finding
        return f"{type(error).__name__}: {_told(error)}"
    return None


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return f"{error}: {', '.join(_told(inner) for inner in error.exceptions)}"
    return f"{error!r}"


def shrink(history: History, run: Callable[[History], object] = play) -> History:
    """Leave out steps while the history still fails."""
    kind = (failure(history, run) or "")[:_KIND]
    size = max(1, len(history.steps) // 2)
    while size:
        start = 0
        while start < len(history.steps):
            shorter = replace(history, steps=history.steps[:start] + history.steps[start + size :])
            if (failure(shorter, run) or "").startswith(kind):
                history = shorter
            else:
                start += size
        size //= 2
    for plain in _plainer(history):
        if (failure(plain, run) or "").startswith(kind):
            history = plain
    return history


def _plainer(history: History) -> Iterator[History]:
    yield replace(history, devices=tuple(DeviceKind() for _ in history.devices))


def describe(history: History) -> str:
    """Tell a history so that a person can follow it."""
    lines = [f"  seed {history.seed}, {history.devices}"]

    async def story(world: World) -> None:
        for step in history.steps:
            lines.append(f"  {step}")
            done = len(world.network.trace)
            await apply(world, step, random.Random(f"{history.seed} {step}"))
            lines.extend(f"      {line}" for line in world.network.trace[done:])
            lines.append(f"    {world.devices[step.who].name}: {world.told(world.devices[step.who])}")
        lines.append(f"    server: {world.tree()}")

    with suppress(Exception, EndlessError):
        simulate(history.devices, history.seed, story)
    return "\n".join(lines)
