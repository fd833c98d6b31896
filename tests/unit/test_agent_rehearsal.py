"""A rehearsal ends, and holds exactly the actions that carrying out would."""

import random
from collections import Counter
from pathlib import Path

import pytest

from agent.actions import Action, Plan
from agent.identity import identify
from agent.merge import Trees
from agent.planner import paths_of, plan
from agent.rehearsal import Rehearsal, Round
from agent.state import State
from tests.simulation.device import Device, Habits
from tests.simulation.server import ROOT
from tests.simulation.three_trees import random_device


def rehearsed(device: Device) -> list[Round]:
    """The rounds of a device, from a copy of what it knows."""
    state = State(Path("none"), copy=True)
    entries, _ = device.disk.scan(set())
    with state.transaction():
        state.put_remote(device.memory.remote.values())
        state.put_local(entries.values())
        state.put_synced(device.memory.synced.values())

    def make() -> Plan:
        tree = identify(state.local, state.synced, ROOT)
        return plan(Trees(ROOT, state.remote, tree, state.synced), device.rules)

    return list(Rehearsal(state, make).rounds())


def _kinds(actions: list[Action]) -> Counter[tuple[str, frozenset[str]]]:
    return Counter((type(action).__name__, frozenset(paths_of(action))) for action in actions)


class _Smooth(Device):
    """A device that remembers whether anything was refused under way."""

    smooth = True

    def _failed(self, action: Action) -> None:
        self.smooth = False
        super()._failed(action)


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_a_rehearsal_holds_the_actions_that_carrying_out_would(first: int) -> None:
    for seed in range(first, first + 250):
        found = random_device(random.Random(seed))
        device = _Smooth(found.name, found.server, found.disk, Habits())
        device.memory = found.memory
        device.read_feed()
        rounds = rehearsed(device)
        device.run()
        assert not rounds[-1].plan.actions, f"seed {seed}: it does not end"
        told = _kinds([action for each in rounds for action in each.done])
        assert told == _kinds(device.done) or not device.smooth, f"seed {seed}"
