"""Three arbitrary trees: whatever the memory says, a plan is made, ends, converges, loses nothing."""

import random

import pytest

from agent.identity import identify
from agent.merge import Trees
from agent.model import LocalKind, SyncedNode
from agent.planner import plan
from tests.simulation import seeds
from tests.simulation.device import Device
from tests.simulation.disk import DiskKind
from tests.simulation.server import ROOT
from tests.simulation.three_trees import random_device, random_disk, random_rows
from tests.simulation.world import check_converged

TEST = "tests/simulation/test_three_trees.py"


def _files(device: Device) -> set[str]:
    return {i.content for i in device.disk.entries.values() if i.kind is LocalKind.FILE}


def check(device: Device) -> None:
    server = device.server
    device.read_feed()
    written, first = _files(device), device.plan()
    agreed = {node.content_hash for node in device.memory.synced.values()}
    assert first == device.plan(), "the plan is not determined by the trees"
    device.run()
    # Attributes are judged against what the disk read back, which arbitrary memory has wrong.
    check_converged(device, attributes=False)
    assert not device.troubles
    kept = {content for contents in server.versions.values() for content in contents}
    # What was agreed on has been on the server once: it may go as the server says.
    assert written <= kept | set(device.memory.trash) | agreed, "a content is lost"
    before = (server.seq, server.uploads, server.downloads)
    device.run()
    assert (server.seq, server.uploads, server.downloads) == before, "a further sync is not idle"


@pytest.mark.parametrize("block", seeds.blocks(4500), ids=seeds.name)
def test_any_three_trees_converge_without_loss(block: range) -> None:
    for seed, rng in seeds.generators(block):
        try:
            check(random_device(rng))
        except Exception as error:  # noqa: BLE001 - any error at all is the finding
            pytest.fail(f"seed {seed}: {error!r}\n{seeds.again(seed, TEST)}")


def _wild_trees(rng: random.Random) -> Trees:
    disk = random_disk(rng, DiskKind(True, rng.random() < 0.5))
    rows = random_rows(rng)
    seen = {row.id: row for row in random_rows(rng).values() if rng.random() < 0.7}
    synced = {
        row.id: SyncedNode(
            row.id, row.parent_id, row.name, row.kind, row.version_id, row.content_hash,
            symlink_target=row.symlink_target,
            stat=disk.look(rng.choice(list(disk.entries))).stat if disk.entries else None,
        )
        for row in seen.values()
    }  # fmt: skip
    entries, opaque = disk.scan(set())
    held = {key: None for key in synced if rng.random() < 0.1}
    hidden = {path for path in entries if rng.random() < 0.05}
    return Trees(ROOT, rows, identify(entries, synced, ROOT, opaque | hidden), synced, held)


@pytest.mark.parametrize("block", seeds.blocks(2000), ids=seeds.name)
def test_trees_that_no_server_has_are_planned_without_an_error(block: range) -> None:
    rules = random_device(random.Random(0)).rules
    for seed, rng in seeds.generators(block):
        try:
            trees = _wild_trees(rng)
            assert plan(trees, rules) == plan(trees, rules)
        except Exception as error:  # noqa: BLE001 - any error at all is the finding
            pytest.fail(f"seed {seed}: {error!r}\n{seeds.again(seed, TEST)}")
