"""Random histories of several devices: the invariants of the design hold at every rest.

Convergence, termination (a further sync does nothing and moves no bytes), no loss, nothing
invented but named conflicted copies, deleted stays deleted: see `World.check`.
"""

import random
from dataclasses import replace

import pytest

from agent.model import LocalKind
from tests.simulation import seeds
from tests.simulation.device import Habits
from tests.simulation.disk import DiskKind
from tests.simulation.history import History, Step, apply, describe, failure, generate, shrink
from tests.simulation.server import Server
from tests.simulation.world import World


def _fail(history: History, seed: int, error: str) -> None:
    small = shrink(history)
    test = "tests/simulation/test_histories.py"
    pytest.fail(f"seed {seed}: {error}\n{describe(small)}\n{failure(small)}\n{seeds.again(seed, test)}")


@pytest.mark.parametrize("block", seeds.blocks(3500), ids=seeds.name)
def test_short_histories_with_crashes_and_races_keep_the_invariants(block: range) -> None:
    for seed, rng in seeds.generators(block):
        history = generate(rng, rng.randrange(2, 24))
        error = failure(history)
        if error is not None:
            _fail(history, seed, error)


@pytest.mark.parametrize("block", seeds.blocks(150), ids=seeds.name)
def test_long_histories_with_crashes_and_races_keep_the_invariants(block: range) -> None:
    for seed, rng in seeds.generators(block):
        history = generate(rng, rng.randrange(30, 80))
        error = failure(history)
        if error is not None:
            _fail(history, seed, error)


# One user at a time ------------------------------------------------------------------------------

MOVES = ("rename", "move", "over", "swap", "rotate", "invert", "lift", "recase", "delete")
WRITES = ("create", "mkdir", "link", "edit", "save", "touch", "chmod", "copy", "to_file", "to_folder")


def _one_at_a_time(rng: random.Random) -> History:
    kinds = [DiskKind(rng.random() < 0.5, rng.random() < 0.5) for _ in range(2)]
    steps = [_calm_step(rng) for _ in range(rng.randrange(2, 16))]
    return History(tuple((kind, Habits(rng.random() < 0.5)) for kind in kinds), tuple(steps))


def _calm_step(rng: random.Random) -> Step:
    verb = rng.choice(MOVES + WRITES * 2)
    name = rng.choice(("a", "b", "c", "d.txt", "A"))
    return Step(verb, rng.randrange(2), rng.randrange(1 << 16), rng.randrange(1 << 16), name)


def _ids(server: Server) -> dict[str, str]:
    """Content → node, of contents that stand once."""
    nodes = [node for node in server.live() if node.content_hash]
    contents = [node.content_hash for node in nodes]
    return {str(n.content_hash): n.id for n in nodes if contents.count(n.content_hash) == 1}


def _check_calm_step(world: World, step: Step) -> None:
    before, uploads, downloads = _ids(world.server), world.server.uploads, world.server.downloads
    apply(world, step)
    disk = world.devices[step.who].disk
    wanted = {path: (inode.kind, inode.content) for path, inode in disk.entries.items()}
    world.settle()
    world.check()
    assert {path: (inode.kind, inode.content) for path, inode in disk.entries.items()} == wanted
    assert world.copies() == [], f"{step}: a conflict of one user with himself"
    after = _ids(world.server)
    moved = {content for content in before.keys() & after.keys() if before[content] != after[content]}
    assert not moved, f"{step}: {moved} are other nodes now"
    sent, fetched = world.server.uploads - uploads, world.server.downloads - downloads
    assert sent <= (step.verb not in MOVES), f"{step}: bytes were sent"
    assert fetched == sent * (len(world.devices) - 1), f"{step}: bytes were fetched"
    world.ledger.forget_moves()
    world.ledger.destroyed.difference_update(world.live_contents())


@pytest.mark.parametrize("block", seeds.blocks(450), ids=seeds.name)
def test_one_user_at_a_time_makes_no_conflict_and_moves_carry_no_bytes(block: range) -> None:
    for seed, rng in seeds.generators(block):
        history = _one_at_a_time(rng)
        world = World(history.devices)
        for number, step in enumerate(history.steps):
            try:
                _check_calm_step(world, step)
            except Exception as error:  # noqa: BLE001 - any error at all is the finding
                played = replace(history, steps=history.steps[: number + 1])
                test = "tests/simulation/test_histories.py"
                pytest.fail(f"seed {seed}: {error!r}\n{describe(played)}\n{seeds.again(seed, test)}")


def test_a_history_that_loses_content_is_found_and_shrunk() -> None:
    """The search itself: a world in which one step destroys unseen fails, and shrinks to that step."""
    lossy = Step("create", 0, 0, 0, "a")
    history = History(((DiskKind(), Habits()),) * 2, (Step("mkdir", 1, 0, 0, "b"), lossy, lossy))
    world = World(history.devices)
    apply(world, lossy)
    world.devices[0].disk.remove("a")
    with pytest.raises(AssertionError, match="lost"):
        world.check()
    assert failure(history) is None
    assert world.users[0].create("a", kind=LocalKind.FILE)
