"""Random histories of whole agents: the invariants of the design hold at every rest.

`make sim` plays many more.
"""

import os
import subprocess
import sys

import pytest

from tests.simulation import seeds
from tests.simulation.engine.play import describe, failure, generate, play, quiet, shrink

TEST = "tests/simulation/engine/test_engine_histories.py"
_BLOCK = 20
_TRACED = 7
"""A seed whose history has devices that race, die and are meddled with."""


def _blocks() -> list[range]:
    return [
        range(b.start + n, min(b.start + n + _BLOCK, b.stop))
        for b in seeds.blocks(160)
        for n in range(0, len(b), _BLOCK)
    ]


@pytest.mark.parametrize("block", _blocks(), ids=seeds.name)
def test_histories_of_whole_agents_keep_the_invariants(block: range) -> None:
    quiet()
    for seed in block:
        history = generate(seed)
        error = failure(history)
        if error is not None:
            small = shrink(history)
            pytest.fail(
                f"seed {seed}: {error}\n{failure(small)}\n{describe(small)}\n{seeds.again(seed, TEST)}"
            )


def _traced(hash_seed: str) -> str:
    """Play one history in a process of its own; return its trace."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import trace; print(trace())"],
        capture_output=True, text=True, check=True, timeout=120, env=environment,
    )  # fmt: skip
    return done.stdout


def trace() -> str:
    """Return what happened in one history: every request, every byte count, the trees in the end."""
    quiet()
    world = play(generate(_TRACED, 30))
    steps = [device.machine.log for device in world.devices]
    return "\n".join([*world.network.trace, str(steps), str(sorted(world.tree().items()))])


def test_one_seed_gives_one_trace_in_any_process() -> None:
    first = _traced("1")
    assert len(first.splitlines()) > 50
    assert first == _traced("2")
