"""What travels of an edit of a large file when nothing disturbs it: the difference."""

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


async def _run(world: World, who: int) -> Travelled:
    store = world.server.store
    sent, given = store.sent, store.given
    await world.sync(world.devices[who])
    return Travelled(store.sent - sent, store.given - given)


def _told(script: str, runs: tuple[int, ...]) -> list[Travelled]:
    """Tell a script with these devices' runs, in order, and a server without whims."""
    found: list[Travelled] = []

    async def story(world: World) -> None:
        world.server.whim = lambda _whim: False
        await crashes.begin(world, SCRIPTS[script])
        found.extend([await _run(world, who) for who in runs])
        await world.settle()
        world.check()

    quiet()
    simulate((DeviceKind(), DeviceKind()), 1, story)
    return found


def test_of_edits_of_large_files_less_than_half_travels_either_way() -> None:
    here, there = _told("edits of large files", (0, 1))
    assert 0 < here.sent < SIZE  # of two files
    assert 0 < there.fetched < SIZE
    assert here.fetched == there.sent == 0


def test_of_two_edits_of_one_file_the_first_travels_as_a_difference() -> None:
    """Of the other one a conflicted copy is made. It is a new file, and what was at its path is not there."""
    first, second = _told("two edits of a large file", (0, 1))
    assert 0 < first.sent < SIZE / 2
    assert second.sent > 0


def test_a_copy_costs_nothing_and_of_a_changed_one_the_difference_is_sent() -> None:
    """The other device makes the copy of its own file; for the changed one, a new file, it has nothing."""
    here, there = _told("a copy, and a changed one, of a large file", (0, 1))
    assert 0 < here.sent < SIZE / 2
    assert SIZE / 2 < there.fetched < 2 * SIZE - SIZE / 2


def test_of_an_older_version_the_difference_to_the_present_one_is_fetched() -> None:
    for run in _told("an older version of a large file", (0, 1)):
        assert run.sent == 0
        assert 0 < run.fetched < SIZE / 2
