"""What the check that deleted stays deleted excuses when folders were moved, and what it does not."""

from collections.abc import Callable

import pytest

from tests.simulation.world import World


def world_with_folders() -> World:
    """Return two devices in step, with the folders `d`, `d/sub`, `d/sub/in`."""
    world = World()
    for path in ("d", "d/sub", "d/sub/in"):
        world.users[0].mkdir(path)
    world.settle()
    return world


def send(world: World, who: int) -> None:
    """Carry out one plan of a device that has not read the feed again."""
    device = world.devices[who]
    for _ in device.execute(device.plan()):
        pass


def undelete(world: World) -> None:
    """Bring back all that was deleted, as no user did."""
    for row in sorted(world.server.rows.values(), key=lambda row: world.server.path_of(row.id)):
        if row.deleted:
            world.server.restore(row.id)
    world.settle()


def test_what_was_put_in_a_folder_goes_where_it_was_moved_though_its_maker_deletes_the_old_place() -> None:
    """The mover had not got the file yet: it is moved on the server alone."""
    world = world_with_folders()
    maker, mover = world.users
    maker.create("d/sub/in/f")
    world.sync(world.devices[0])
    mover.move("d/sub/in", "d/aside")
    send(world, 1)
    maker.delete("d")
    world.sync(world.devices[0])
    world.settle()
    assert world.tree() == {"d": "/", "d/aside": "/", "d/aside/f": "c1"}
    world.check()


def test_what_was_put_in_a_folder_after_it_was_moved_goes_there_too() -> None:
    world = world_with_folders()
    maker, mover = world.users
    mover.move("d/sub/in", "d/aside")
    world.sync(world.devices[1])
    maker.create("d/sub/in/f")
    send(world, 0)
    maker.delete("d")
    world.settle()
    assert world.tree() == {"d": "/", "d/aside": "/", "d/aside/f": "c1"}
    world.check()


def _deleted_by_itself(world: World) -> None:
    maker, mover = world.users
    maker.create("d/sub/in/f")
    world.sync(world.devices[0])
    mover.move("d/sub/in", "d/aside")
    send(world, 1)
    maker.delete("d/sub/in/f")


def _deleted_by_the_mover_too(world: World) -> None:
    maker, mover = world.users
    maker.create("d/sub/in/f")
    world.sync()
    mover.delete("d/sub/in/f")
    mover.move("d/sub/in", "d/aside")
    maker.delete("d")


def _moved_by_who_deletes_it(world: World) -> None:
    maker, _ = world.users
    maker.move("d/sub/in", "d/aside")
    maker.create("d/aside/f")
    world.sync(world.devices[0])
    maker.delete("d")


def _renamed_in_its_place(world: World) -> None:
    maker, mover = world.users
    maker.create("d/sub/in/f")
    world.sync(world.devices[0])
    mover.move("d/sub/in", "d/sub/other")
    send(world, 1)
    maker.delete("d")


def _moved_before_all_were_in_step(world: World) -> None:
    maker, mover = world.users
    mover.move("d/sub/in", "d/aside")
    world.settle()
    world.ledger.forget_moves()
    maker.create("d/aside/f")
    world.sync(world.devices[0])
    maker.delete("d")


@pytest.mark.parametrize(
    "story",
    [
        _deleted_by_itself,
        _deleted_by_the_mover_too,
        _moved_by_who_deletes_it,
        _renamed_in_its_place,
        _moved_before_all_were_in_step,
    ],
)
def test_what_comes_back_for_another_reason_is_found(story: Callable[[World], None]) -> None:
    world = world_with_folders()
    story(world)
    world.settle()
    world.check()
    undelete(world)
    with pytest.raises(AssertionError, match="came back"):
        world.check()
