"""Stories of whole agents whose course matters, each told once."""

import asyncio
import copy
import shutil
from collections.abc import Awaitable, Callable
from unittest.mock import patch

import pytest

from agent import app
from agent.actions import Plan
from agent.disk import BlockedError, Disk
from agent.executor.uploads import Uploads
from agent.model import LocalKind
from agent.planning import Planning
from agent.transfer import Transfer
from libs.contracts.errors import UnavailableError
from tests.simulation.engine.contents import large
from tests.simulation.engine.play import quiet
from tests.simulation.engine.world import DeviceKind, World, agent_context, simulate


def tell(story: Callable[[World], Awaitable[None]]) -> None:
    quiet()
    simulate((DeviceKind(), DeviceKind()), 1, story)


async def _end(world: World) -> dict[str, str]:
    await world.settle()
    world.check()
    return world.tree()


def _back_up(world: World) -> None:
    world.backup = copy.deepcopy(world.server.space)


# The server comes back from a backup ---------------------------------------------------------------


def test_an_edit_after_the_backup_outlives_a_move_of_the_older_file_after_the_restore() -> None:
    """B alone has the edit. By its sequence number the older version, moved since, looks like a newer one."""

    async def story(world: World) -> None:
        one, other = world.users
        one.create("f")
        await world.settle()
        _back_up(world)
        other.edit("f")
        await world.sync(world.devices[1])
        world.restore_backup()
        one.create("n")
        await world.sync(world.devices[0])
        one.move("f", "g")
        await world.sync(world.devices[0])
        assert len(await _end(world)) == 3

    tell(story)


def test_a_link_changed_after_the_backup_is_not_changed_back() -> None:
    async def story(world: World) -> None:
        world.users[0].create("l", kind=LocalKind.SYMLINK)
        world.users[0].create("z")
        await world.settle()
        _back_up(world)
        world.users[1].edit("l")
        now = world.told(world.devices[1])["l"]
        await world.sync(world.devices[1])
        world.restore_backup()
        await world.sync(world.devices[1])
        tree = await _end(world)
        assert set(tree) == {"l", "z"}
        assert tree["l"] == now

    tell(story)


def test_what_happened_before_the_backup_happens_on_a_device_that_was_away() -> None:
    """A renamed and a deleted file: its return brings neither the old name nor the file back."""

    async def story(world: World) -> None:
        one = world.users[0]
        for path in ("f", "h", "z"):  # one after the other: what was committed last tells what is intact
            one.create(path)
            await world.settle()
        one.move("f", "g")
        one.delete("h")
        await world.sync(world.devices[0])
        _back_up(world)
        one.create("n")
        await world.sync(world.devices[0])
        world.restore_backup()
        await world.sync(world.devices[1])
        assert set(await _end(world)) == {"g", "n", "z"}

    tell(story)


# Ignore rules --------------------------------------------------------------------------------------


def _rule(world: World, who: int, rules: str) -> None:
    (world.devices[who].disk.root / ".lockstepignore").write_text(rules)


def test_what_the_server_moves_out_of_an_ignored_place_comes_here() -> None:
    """What is here at the ignored place stays; when the rule goes it is something new."""

    async def story(world: World) -> None:
        one = world.users[0]
        one.mkdir("logs")
        one.mkdir("logs/deep")
        one.create("logs/deep/f")
        one.create("a.log")
        await world.settle()
        _rule(world, 1, "logs/\n*.log\n.lockstepignore\n")
        other = world.devices[1]
        await world.sync(other)
        one.move("logs", "notes")
        one.move("a.log", "a.txt")
        one.edit("notes/deep/f")
        await world.sync(world.devices[0])
        report = await world.sync(other)
        assert report is not None
        assert report.in_step
        here, there = world.told(other), world.tree()
        assert {path: here[path] for path in there} == there
        assert {"logs/deep/f", "a.log"} < set(here)
        _rule(world, 1, ".lockstepignore\n")
        await world.sync(other)
        assert {"logs/deep/f", "a.log", "notes/deep/f", "a.txt"} < set(world.tree())

    tell(story)


def test_rules_that_come_from_the_server_count_in_the_run_that_fetches_them() -> None:
    async def story(world: World) -> None:
        one, other = world.devices
        _rule(world, 0, "*.log\n")
        await world.sync(one)
        await world.sync(other)
        world.users[1].create("b.log")
        await world.sync(other)
        assert "b.log" not in world.tree()
        _rule(world, 0, "# none\n")
        await world.sync(one)
        await world.sync(other)
        assert "b.log" in world.tree()

    tell(story)


# A folder that was put back from a backup ------------------------------------------------------------


@pytest.mark.parametrize("why", ["ignored", "not listed"])
def test_what_a_folder_put_back_lacks_is_not_deleted_even_if_it_could_not_be_seen_then(why: str) -> None:
    """Absence means nothing in that run, nor later, when the rule is gone or the folder is listed."""

    async def story(world: World) -> None:
        user, device = world.users[0], world.devices[0]
        root = device.disk.root
        aside = root.parent / "backup"
        user.mkdir("d")
        await world.settle()
        shutil.copytree(root, aside)
        user.create("d/x")
        await world.settle()
        shutil.rmtree(root)
        shutil.copytree(aside, root)
        if why == "ignored":
            _rule(world, 0, "d/x\n.lockstepignore\n")
        else:
            device.disk.entries["d"].hidden = True
        await world.sync(device)
        world.reveal()
        (root / ".lockstepignore").unlink(missing_ok=True)
        assert set(await _end(world)) == {"d", "d/x"}

    tell(story)


# The disk does not answer --------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["lstat", "stands"])
def test_a_path_that_cannot_be_looked_at_does_not_end_the_run(call: str) -> None:
    """Not after it was sent, nor before it is deleted: it is a problem of that path."""

    async def story(world: World) -> None:
        user, device = world.users[0], world.devices[0]
        user.create("old")
        await world.settle()
        user.create("new")
        user.delete("old")
        with patch.object(Disk, call, side_effect=BlockedError("No answer", path="?")):
            report = await world.sync(device)
        assert report is not None
        path = "new" if call == "lstat" else "old"
        assert [(p.path, p.code) for p in report.problems] == [(path, "io_error")]
        assert set(await _end(world)) == {"new"}

    tell(story)


# Large transfers beside the loop -------------------------------------------------------------------


def test_a_problem_that_is_due_makes_no_busy_loop_while_large_files_travel() -> None:
    """Two travel, a third waits for its turn; what failed before has nothing to do any more."""
    plans: list[float] = []

    async def story(world: World) -> None:
        def counted(planning: Planning, suspended: frozenset[str]) -> Plan:
            plans.append(world.loop.time())
            return plan(planning, suspended)

        user, device = world.users[0], world.devices[0]
        for number in range(3):
            user.create(f"f{number}", large(f"large{number}"))
        plan = Planning.plan
        with (
            patch.object(Uploads, "send_large", lambda *_: asyncio.sleep(600)),
            patch.object(Planning, "plan", counted),
        ):
            task = world.loop.create_task(world.agent(device))
            await asyncio.sleep(30)
            assert device.engine is not None
            assert len(device.engine.executor.in_flight) == 2
            device.engine.work.problem("gone", "in_use", "It was in use")
            await asyncio.sleep(100)
        task.cancel()
        await asyncio.wait([task])
        assert len(plans) < 20

    tell(story)


# The guard of many deletions -----------------------------------------------------------------------


def test_deletions_that_are_planned_again_and_again_are_no_mass_deletion() -> None:
    """The store is away for a minute: each new try has the same few deletions in its plan."""

    async def story(world: World) -> None:
        user, device = world.users[0], world.devices[0]
        for number in range(90):
            user.create(f"f{number}")
        await world.settle()
        for number in range(30):
            user.delete(f"f{number}")
            user.create(f"n{number}")
        running = app.run_agent(device.settings, device.disk.root, allow_mass_delete=False)
        task = world.loop.create_task(running, context=agent_context(device.machine))
        with patch.object(Transfer, "upload_small", side_effect=UnavailableError("The store is away")):
            await asyncio.sleep(60)
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.wait([task])
        assert len(await _end(world)) == 90

    tell(story)
