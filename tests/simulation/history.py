"""Random histories: generated from a seed, played on a world, shrunk when they fail.

A step is a verb and numbers; what it means is found when it is played (the number picks one of the
paths that exist then), so that a history stays one when steps are left out of it.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from agent.model import LocalKind
from tests.simulation.device import Habits
from tests.simulation.disk import DiskKind, join, name_of, parent_of
from tests.simulation.world import User, World, restore, restore_version

NAMES = ("a", "b", "c", "d.txt", "A", "B", "\u00e9", "e\u0301", "ign")
NAME_WEIGHTS = (8, 8, 6, 4, 2, 1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Step:
    """`who` does `verb`; `pick`, `other` and `name` choose the paths, modulo what there is."""

    verb: str
    who: int
    pick: int
    other: int
    name: str


@dataclass(frozen=True, slots=True)
class History:
    """Everything a run depends on."""

    devices: tuple[tuple[DiskKind, Habits], ...]
    steps: tuple[Step, ...]


VERBS: dict[str, int] = {
    "create": 14, "mkdir": 8, "link": 2, "shared": 3, "edit": 12, "save": 5, "touch": 2, "chmod": 1,
    "delete": 9, "rename": 8, "move": 10, "over": 4, "swap": 3, "rotate": 1, "invert": 1, "lift": 2,
    "recase": 1, "copy": 2, "to_file": 2, "to_folder": 2, "to_link": 1, "hide": 1, "special": 1,
    "break": 1, "heal": 1, "restore": 1, "version": 1,
    "sync": 14, "crash": 6, "race": 5, "settle": 3,
}  # fmt: skip
"""What may happen, and how often."""


# Generating --------------------------------------------------------------------------------------


def generate(rng: random.Random, length: int) -> History:
    devices = tuple(_device(rng) for _ in range(rng.choice((2, 2, 3))))
    verbs = rng.choices(list(VERBS), list(VERBS.values()), k=length)
    return History(devices, tuple(_step(rng, verb, len(devices)) for verb in verbs))


def _device(rng: random.Random) -> tuple[DiskKind, Habits]:
    ignored = "ign" if rng.random() < 0.1 else None
    disk = DiskKind(
        reuses_inodes=rng.random() < 0.5,
        keeps_birth=rng.random() < 0.5,
        fold=str.casefold if rng.random() < 0.1 and not ignored else str,
        opaque_in_trouble=rng.random() < 0.5,
    )
    habits = Habits(
        reads_feed_lazily=rng.random() < 0.3,
        goes_on_after_refusal=rng.random() < 0.7,
        ignored=ignored,
    )
    return disk, habits


def _step(rng: random.Random, verb: str, devices: int) -> Step:
    name = rng.choices(NAMES, NAME_WEIGHTS)[0]
    return Step(verb, rng.randrange(devices), rng.randrange(1 << 16), rng.randrange(1 << 16), name)


# Playing -----------------------------------------------------------------------------------------


def play(history: History) -> World:
    """Play a history to its end, let all come to rest, check the invariants."""
    world = World(history.devices)
    for step in history.steps:
        apply(world, step)
    world.heal()
    world.settle()
    world.check()
    return world


def apply(world: World, step: Step) -> None:
    if step.verb in WORLD_VERBS:
        WORLD_VERBS[step.verb](world, step)
    else:
        USER_VERBS[step.verb](world.users[step.who], step)


def _pick(user: User, number: int, *kinds: LocalKind) -> str:
    """One of the paths on disk, or an impossible one."""
    paths = sorted(p for p, i in user.disk.entries.items() if not kinds or i.kind in kinds)
    return paths[number % len(paths)] if paths else "nowhere/nothing"


def _folder(user: User, number: int) -> str:
    folders = ["", *sorted(p for p, i in user.disk.entries.items() if i.kind is LocalKind.FOLDER)]
    return folders[number % len(folders)]


def _new_path(user: User, step: Step) -> str:
    return join(_folder(user, step.other), step.name)


def _beside(path: str, name: str) -> str:
    return join(parent_of(path), name)


def _over(user: User, step: Step) -> bool:
    return user.move(_pick(user, step.pick, LocalKind.FILE), _pick(user, step.other, LocalKind.FILE))


def _recase(user: User, step: Step) -> bool:
    path = _pick(user, step.pick)
    return user.move(path, _beside(path, name_of(path).swapcase()))


def _rotate(user: User, step: Step) -> bool:
    paths = [_pick(user, number) for number in (step.pick, step.other, step.pick // 7)]
    return user.rotate(paths)


def _invert(user: User, step: Step) -> bool:
    """Turn `x/y` inside out: the child takes the folder's name, the folder goes into it."""
    child = _pick(user, step.pick, LocalKind.FOLDER)
    folder = parent_of(child)
    if not folder:
        return False
    name = name_of(child)
    aside = _beside(folder, "aside")
    if not user.move(child, aside):
        return False
    return user.move(folder, join(aside, name)) and user.move(aside, folder)


def _lift(user: User, step: Step) -> bool:
    """Replace a folder by something that was in it."""
    child = _pick(user, step.pick)
    folder = parent_of(child)
    if not folder:
        return False
    aside = _beside(folder, "aside")
    return user.move(child, aside) and user.delete(folder) and user.move(aside, folder)


def _move_into(user: User, step: Step) -> bool:
    path = _pick(user, step.pick)
    return user.move(path, join(_folder(user, step.other), name_of(path)))


def _break(user: User, step: Step) -> bool:
    user.device.broken.add(_pick(user, step.pick))
    return True


USER_VERBS: dict[str, Callable[[User, Step], bool]] = {
    "create": lambda u, s: u.create(_new_path(u, s)),
    "mkdir": lambda u, s: u.mkdir(_new_path(u, s)),
    "link": lambda u, s: u.create(_new_path(u, s), kind=LocalKind.SYMLINK),
    "shared": lambda u, s: u.create(_new_path(u, s), f"shared:{s.pick % 2}"),
    "edit": lambda u, s: u.edit(_pick(u, s.pick, LocalKind.FILE, LocalKind.SYMLINK)),
    "save": lambda u, s: u.safe_save(_pick(u, s.pick, LocalKind.FILE)),
    "touch": lambda u, s: u.touch(_pick(u, s.pick, LocalKind.FILE)),
    "chmod": lambda u, s: u.touch(_pick(u, s.pick, LocalKind.FILE), executable=True),
    "delete": lambda u, s: u.delete(_pick(u, s.pick)),
    "rename": lambda u, s: u.move(path := _pick(u, s.pick), _beside(path, s.name)),
    "move": _move_into,
    "over": _over,
    "swap": lambda u, s: u.rotate([_pick(u, s.pick), _pick(u, s.other)]),
    "rotate": _rotate,
    "invert": _invert,
    "lift": _lift,
    "recase": _recase,
    "copy": lambda u, s: u.copy(_pick(u, s.pick, LocalKind.FILE), _new_path(u, s)),
    "to_file": lambda u, s: u.turn(_pick(u, s.pick), LocalKind.FILE),
    "to_folder": lambda u, s: u.turn(_pick(u, s.pick), LocalKind.FOLDER),
    "to_link": lambda u, s: u.turn(_pick(u, s.pick), LocalKind.SYMLINK),
    "hide": lambda u, s: u.hide(_pick(u, s.pick, LocalKind.FILE, LocalKind.FOLDER)),
    "special": lambda u, s: u.special(_new_path(u, s)),
    "break": _break,
}


def _heal(world: World, step: Step) -> None:
    device = world.devices[step.who]
    device.broken.clear()
    device.suspended = frozenset()


def _crash(world: World, step: Step) -> None:
    """Sync for a few steps, then die: what was under way is forgotten."""
    _advance(world.devices[step.who].sync(bound=200), step.pick % 12)


def _race(world: World, step: Step) -> None:
    """Two devices sync at once, step by step, while a user goes on."""
    first, second = world.devices[step.who], world.devices[(step.who + 1) % len(world.devices)]
    rng = random.Random(step.pick)
    runs: list[Iterator[None]] = [first.sync(bound=200), second.sync(bound=200)]
    for _ in range(40):
        if not runs:
            return
        run = rng.choice(runs)
        if not _advance(run, 1):
            runs.remove(run)
        if rng.random() < 0.1:
            verb = rng.choice(list(USER_VERBS))
            apply(world, replace(_step(rng, verb, len(world.devices)), who=rng.choice((step.who, 0))))


def _advance(run: Iterator[None], steps: int) -> bool:
    """Let a sync go on for some steps; whether it has not ended."""
    return all(next(run, False) is None for _ in range(steps))


def _restore(world: World, step: Step) -> None:
    gone = sorted(row.id for row in world.server.rows.values() if row.deleted)
    if gone:
        restore(world, gone[step.pick % len(gone)])


def _version(world: World, step: Step) -> None:
    nodes = sorted(row.id for row in world.server.live() if row.version_id)
    if nodes:
        restore_version(world, nodes[step.pick % len(nodes)], step.other)


def _settle(world: World, step: Step) -> None:
    """All are in step: from here on, nothing of before is in flight."""
    world.heal()
    world.settle()
    world.check()
    world.ledger.forget_moves()
    live = world.live_contents()
    world.ledger.destroyed.difference_update(live)
    world.ledger.copied.update(content for content in live if live.count(content) > 1)
    for device in world.devices:
        device.unrecorded.clear()


WORLD_VERBS: dict[str, Callable[[World, Step], None]] = {
    "sync": lambda w, s: w.sync(w.devices[s.who]),
    "crash": _crash,
    "race": _race,
    "heal": _heal,
    "restore": _restore,
    "version": _version,
    "settle": _settle,
}


# Shrinking ---------------------------------------------------------------------------------------


def failure(history: History) -> str | None:
    """Play a history; return what went wrong."""
    try:
        play(history)
    except Exception as error:  # noqa: BLE001 - any error at all is the finding
        return f"{type(error).__name__}: {error}"
    return None


def shrink(history: History) -> History:
    """Leave out devices' oddities and steps while the history still fails."""
    size = max(1, len(history.steps) // 2)
    while size:
        history = _without_chunks(history, size)
        size //= 2
    return _plain_devices(history)


def _without_chunks(history: History, size: int) -> History:
    start = 0
    while start < len(history.steps):
        shorter = replace(history, steps=history.steps[:start] + history.steps[start + size :])
        if failure(shorter):
            history = shorter
        else:
            start += size
    return history


def _plain_devices(history: History) -> History:
    for index in range(len(history.devices)):
        devices = list(history.devices)
        devices[index] = (DiskKind(), Habits())
        plain = replace(history, devices=tuple(devices))
        if failure(plain):
            history = plain
    return history


def describe(history: History) -> str:
    """Tell a history so that a person can follow it."""
    lines = [f"  device {i}: {disk} {habits}" for i, (disk, habits) in enumerate(history.devices)]
    world = World(history.devices)
    for step in history.steps:
        lines.append(f"  {step}")
        try:
            apply(world, step)
        except Exception as error:  # noqa: BLE001 - the story of a failure ends in it
            lines.append(f"    failed: {error}")
            break
        lines.append(f"    disk {step.who}: {sorted(world.devices[step.who].disk.entries)}")
    return "\n".join(lines)
