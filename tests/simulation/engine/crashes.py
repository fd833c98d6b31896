"""Scripts cut off at a step: the run that dies, the one after it, and what must be in the end."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from agent.executor.nearby import Nearby
from tests.simulation.engine.scripts import SCRIPTS, Script
from tests.simulation.engine.world import Device, DeviceKind, World, meddle_with, simulate
from tests.simulation.world import User

KINDS: Final = {"exchanging": DeviceKind(), "plain": DeviceKind(exchanges=False, keeps_birth=False)}
Tree = dict[str, str]


async def begin(world: World, script: Script) -> None:
    """Bring it about that everything of a script was done, and nothing of the last part was synced."""
    for deeds in (script.before, script.since):
        for deed in deeds:
            assert deed(world.users[0])
        await world.settle()
        world.forgive()
    for deed in script.here:
        assert deed(world.users[0])
    for deed in script.there:
        assert deed(world.users[1])
    for path in script.restored:
        _restore(world, path)


def _restore(world: World, path: str) -> None:
    node = world.server.by_path()[path]
    versions = world.server.space.versions.values()
    (older,) = (v.id for v in versions if v.node_id == node.id and v.id != node.version_id)
    world.restore_version(older)


async def _one_run(world: World, device: Device, dies_at: int) -> int:
    device.machine.begin()
    device.machine.dies_at = dies_at
    await world.sync(device)
    world.check_whole(device)
    return device.machine.steps


async def _end(world: World) -> Tree:
    world.heal()
    await world.settle()
    world.check()
    return world.tree()


def _told(kind: DeviceKind, story: Callable[[World], Awaitable[object]]) -> None:
    simulate((kind, kind), 1, story)


def uncut(script: Script, kind: DeviceKind, who: int) -> tuple[int, Tree]:
    """Return how many steps the run of a device has, and the tree in the end."""
    found: list[tuple[int, Tree]] = []

    async def story(world: World) -> None:
        await begin(world, script)
        await _one_run(world, world.devices[1 - who], -1)
        steps = await _one_run(world, world.devices[who], -1)
        found.append((steps, await _end(world)))

    _told(kind, story)
    return found[0]


def _cut(script: Script, kind: DeviceKind, who: int, at: int) -> Tree:
    """The other device is done; this one dies at the step, and again somewhat later, then both go on."""
    found: list[Tree] = []

    async def story(world: World) -> None:
        await begin(world, script)
        await _one_run(world, world.devices[1 - who], -1)
        await _one_run(world, world.devices[who], at)
        await _one_run(world, world.devices[who], at // 2)
        found.append(await _end(world))

    _told(kind, story)
    return found[0]


def _meddled(script: Script, kind: DeviceKind, who: int, at: int) -> None:
    """Right before one system call of the agent its user saves, moves or makes something."""

    async def story(world: World) -> None:
        await begin(world, script)
        await _one_run(world, world.devices[1 - who], -1)
        device, user = world.devices[who], world.users[who]
        device.machine.begin()
        device.machine.acts[at] = lambda: meddle_with(user, device.machine.about, at)
        await world.sync(device)
        world.check_whole(device)
        await _end(world)

    _told(kind, story)


def meddle(script: Script, kind: DeviceKind, who: int, stride: int) -> int:
    """Let the user act right before every `stride`th call of an agent; return before how many."""
    calls: list[int] = []

    async def story(world: World) -> None:
        await begin(world, script)
        await _one_run(world, world.devices[1 - who], -1)
        await _one_run(world, world.devices[who], -1)
        calls.append(world.devices[who].machine.calls)

    _told(kind, story)
    cuts = range(len(script.here) % stride, calls[0], stride)
    for at in cuts:
        try:
            _meddled(script, kind, who, at)
        except BaseException as error:
            error.add_note(f"the user acts before call {at} of {calls[0]}")
            raise
    return len(cuts)


@dataclass(frozen=True, slots=True)
class Window:
    """While B works on a file of its own: in which script, in which method, on which path (its start)."""

    script: str
    method: str
    path: str


WINDOWS: Final = {
    "a copy": Window("a copy, and a changed one, of a large file", "_copied", "k"),
    "a delta": Window("edits of large files", "_by_delta", "k"),
    "a delta from another file": Window("a large file saved under another name", "_by_delta", "g/m"),
    "a delta by way of a lost edit": Window("two edits of a large file", "_by_delta", "k (conflicted copy"),
}


async def _until_window(world: World, window: Window) -> None:
    world.server.whim = lambda _whim: False
    await begin(world, SCRIPTS[window.script])
    await _one_run(world, world.devices[0], -1)


def _calls_of(window: Window) -> range:
    """Return the numbers of the system calls that B makes meanwhile."""
    found: list[int] = []

    async def story(world: World) -> None:
        await _until_window(world, window)
        machine, real = world.devices[1].machine, getattr(Nearby, window.method)

        def noted(*args: Any) -> Any:
            found.append(machine.calls)
            result = real(*args)
            if not inspect.iscoroutine(result):
                found.append(machine.calls)
                return result
            return awaited(result)

        async def awaited(result: Awaitable[object]) -> object:
            try:
                return await result
            finally:
                found.append(machine.calls)

        with patch.object(Nearby, window.method, noted):
            await _one_run(world, world.devices[1], -1)

    _told(DeviceKind(), story)
    return range(min(found), max(found))


def _starting_with(user: User, start: str) -> str:
    return next((path for path in sorted(user.disk.entries) if path.startswith(start)), start)


def edit_meanwhile(window: Window, most: int = 10_000) -> int:
    """Let the user edit the file before each of those calls, or about so many; return before how many."""
    calls = _calls_of(window)
    calls = calls[:: max(1, len(calls) // most)]
    for at in calls:

        async def story(world: World, at: int = at) -> None:
            await _until_window(world, window)
            device, user = world.devices[1], world.users[1]
            device.machine.begin()
            device.machine.acts[at] = lambda: user.edit(_starting_with(user, window.path))
            await world.sync(device)
            world.check_whole(device)
            await _end(world)

        try:
            _told(DeviceKind(), story)
        except BaseException as error:
            error.add_note(f"the user edits before call {at}, of {calls}")
            raise
    return len(calls)


def cut_off(script: Script, kind: DeviceKind, who: int, stride: int) -> int:
    """Cut a script off at every `stride`th step; return at how many.

    In the end the tree is the one of the run that was not cut off. Without a conditional rename a
    file has two names for an instant: there both may be met, and only nothing may be lost.
    """
    steps, wanted = uncut(script, kind, who)
    assert steps > 1
    cuts = range(len(script.before) % stride, steps, stride)
    for at in cuts:
        try:
            tree = _cut(script, kind, who, at)
            assert tree == wanted or not kind.exchanges, f"{tree} is not {wanted}"
        except BaseException as error:
            error.add_note(f"it dies at step {at} of {steps}")
            raise
    return len(cuts)
