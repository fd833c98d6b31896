"""What travels of an edit of a large file when nothing disturbs it: the difference."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.simulation.engine import crashes
from tests.simulation.engine.contents import bytes_of, large
from tests.simulation.engine.play import quiet
from tests.simulation.engine.scripts import SCRIPTS
from tests.simulation.engine.world import DeviceKind, World, simulate

SIZE = min(len(bytes_of(large(name))) for name in ("book k", "book f/l"))


@dataclass(frozen=True, slots=True)
class Travelled:
    """Payload bytes of one device's run."""

    sent: int
    fetched: int


Meanwhile = Callable[[World], Awaitable[None]]


async def _nothing(_world: World) -> None:
    """Go on at once."""


async def _run(world: World, who: int) -> Travelled:
    store = world.server.store
    sent, given = store.sent, store.given
    await world.sync(world.devices[who])
    return Travelled(store.sent - sent, store.given - given)


def _told(script: str, runs: tuple[int, ...], meanwhile: Meanwhile = _nothing) -> list[Travelled]:
    """Tell a script with these devices' runs, in order, and a server without whims.

    There are as many devices as run. `meanwhile` is done after the first run.
    """
    found: list[Travelled] = []

    async def story(world: World) -> None:
        world.server.whim = lambda _whim: False
        await crashes.begin(world, SCRIPTS[script])
        found.append(await _run(world, runs[0]))
        await meanwhile(world)
        found.extend([await _run(world, who) for who in runs[1:]])
        await world.settle()
        world.check()

    quiet()
    simulate((DeviceKind(),) * max(2, len(set(runs))), 1, story)
    return found


def test_of_edits_of_large_files_less_than_half_travels_either_way() -> None:
    here, there = _told("edits of large files", (0, 1))
    assert 0 < here.sent < SIZE  # of two files
    assert 0 < there.fetched < SIZE
    assert here.fetched == there.sent == 0


def test_of_two_edits_of_one_file_only_differences_travel_to_whoever_lacks_them() -> None:
    """Who has lost has an edit of what was agreed on, who has won the other one, the third one neither."""
    first, second, third, back = _told("two edits of a large file", (0, 1, 2, 0))
    assert 0 < first.sent < SIZE / 2
    assert 0 < second.sent < SIZE / 2, "the conflicted copy, to the version agreed on before"
    assert 0 < second.fetched < SIZE / 2, "what was committed first, by the chunks of what is gone"
    assert 0 < third.fetched < SIZE, "both, of what it has"
    assert 0 < back.fetched < SIZE / 2, "the copy, of a later version of that from which it was made"
    assert third.sent == back.sent == first.fetched == 0


def test_an_edit_that_is_several_versions_behind_is_sent_as_a_difference_too() -> None:
    async def edit_on(world: World) -> None:
        for _ in range(3):
            assert world.users[0].edit("k")
            await world.sync(world.devices[0])

    _, second = _told("two edits of a large file", (0, 1), edit_on)
    assert 0 < second.sent < SIZE / 2
    assert 0 < second.fetched < SIZE


def test_where_the_version_agreed_on_is_gone_from_the_server_the_whole_travels() -> None:
    """Nobody is told of a problem: it costs bytes."""

    async def purge(world: World) -> None:
        space, node = world.server.space, world.server.by_path()["k"]
        for version in [v for v in space.versions.values() if v.node_id == node.id]:
            if version.id != node.version_id:
                del space.versions[version.id]
                world.server.store.objects.pop(space.objects.pop(version.object_id).key)

    _, second = _told("two edits of a large file", (0, 1), purge)
    assert SIZE <= second.sent < SIZE + SIZE / 2
    assert SIZE <= second.fetched < SIZE + SIZE / 2


def test_of_copies_and_changed_ones_the_difference_travels_either_way() -> None:
    """The other device makes the copy of its own file, and the changed one, a new file, of that too."""
    here, there = _told("a copy, and a changed one, of a large file", (0, 1))
    assert 0 < here.sent < SIZE / 2
    assert 0 < there.fetched < SIZE / 2


def test_of_a_copy_of_a_changed_copy_the_difference_travels_either_way() -> None:
    here, there = _told("a copy of a changed copy of a large file", (0, 1))
    assert 0 < here.sent < SIZE
    assert 0 < there.fetched < SIZE


def test_a_file_saved_under_another_name_comes_as_a_difference_before_the_old_one_goes() -> None:
    here, there = _told("a large file saved under another name", (0, 1))
    assert 0 < here.sent < SIZE / 2
    assert 0 < there.fetched < SIZE / 2


def test_of_an_older_version_the_difference_to_the_present_one_is_fetched() -> None:
    for run in _told("an older version of a large file", (0, 1)):
        assert run.sent == 0
        assert 0 < run.fetched < SIZE / 2
