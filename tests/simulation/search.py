"""Look for seeds that break an invariant: `python -m tests.simulation.search --seeds 1000`.

Plays histories of whole agents, of the planner alone, and every cut-off of the scripts, in two
processes. Prints the first failure of each kind as a story that was shrunk, with its seed.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

from tests.simulation import history as planner
from tests.simulation import test_three_trees as trees
from tests.simulation.engine import crashes, play
from tests.simulation.engine.machine import EndlessError
from tests.simulation.engine.scripts import SCRIPTS
from tests.simulation.three_trees import random_device

_BLOCK = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What one block of cases gave."""

    kind: str
    cases: int
    failure: str | None = None


def engine_block(first: int, *, shrink: bool) -> Found:
    """Play some histories of whole agents."""
    play.quiet()
    for seed in range(first, first + _BLOCK):
        history = play.generate(seed)
        error = play.failure(history)
        if error is not None:
            small = play.shrink(history) if shrink else history
            story = f"{play.failure(small)}\n{play.describe(small)}"
            return Found("engine", seed - first + 1, f"seed {seed}: {error}\n{story}")
    return Found("engine", _BLOCK)


def planner_block(first: int, *, shrink: bool) -> Found:
    """Play some histories of the planner, long and short, and plans over any three trees."""
    for seed in range(first, first + _BLOCK):
        rng = random.Random(seed)
        history = planner.generate(rng, rng.randrange(2, 60))
        error = planner.failure(history)
        if error is not None:
            small = planner.shrink(history) if shrink else history
            return Found("planner", seed - first + 1, f"seed {seed}: {error}\n{planner.describe(small)}")
        trees.check(random_device(random.Random(seed)))
    return Found("planner", _BLOCK)


def crash_block(name: str, stride: int) -> Found:
    """Cut one script off at many steps, on each kind of disk, for each device."""
    play.quiet()
    cases = 0
    for kind in crashes.KINDS:
        for who in (0, 1):
            try:
                cases += crashes.cut_off(SCRIPTS[name], crashes.KINDS[kind], who, stride)
                cases += crashes.meddle(SCRIPTS[name], crashes.KINDS[kind], who, 2 * stride)
            except (Exception, EndlessError) as error:  # noqa: BLE001 - any error at all is the finding
                return Found("crashes", cases, f"{name}, {kind}, device {who}: {error!r} {error.__notes__}")
    return Found("crashes", cases)


def window_block(name: str) -> Found:
    """Edit a file in every instant in which the agent makes another one of it."""
    play.quiet()
    try:
        return Found("windows", crashes.edit_meanwhile(crashes.WINDOWS[name]))
    except (Exception, EndlessError) as error:  # noqa: BLE001 - any error at all is the finding
        return Found("windows", 0, f"{name}: {error!r} {error.__notes__}")


def jobs(options: argparse.Namespace) -> Iterator[Callable[[], Found]]:
    """Yield blocks of every kind in turn."""
    scripts = iter(SCRIPTS)
    for name in crashes.WINDOWS:
        yield partial(window_block, name)
    for start in range(options.first, options.first + options.seeds, _BLOCK):
        yield partial(engine_block, start, shrink=not options.plain)
        yield partial(planner_block, start, shrink=not options.plain)
        for name in islice(scripts, 1):
            yield partial(crash_block, name, options.stride)
    for name in scripts:
        yield partial(crash_block, name, options.stride)


def search(options: argparse.Namespace) -> dict[str, int]:
    """Run all jobs; return the cases per kind. Exits with 1 at a failure."""
    cases: dict[str, int] = {}
    begun = time.monotonic()
    with ProcessPoolExecutor(options.workers) as pool:
        for found in pool.map(_call, jobs(options)):
            cases[found.kind] = cases.get(found.kind, 0) + found.cases
            if found.failure is not None:
                for process in pool._processes.values():
                    process.terminate()
                print(f"{found.kind}, after {cases}:\n{found.failure}", flush=True)
                sys.exit(1)
    print(f"{cases} in {time.monotonic() - begun:.0f} s: no failure")
    return cases


def _call(job: Callable[[], Found]) -> Found:
    return job()


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="histories of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--stride", type=int, default=1, help="every how many steps a script is cut off")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="tell a failing history as it is, not shrunk")
    return parser.parse_args()


if __name__ == "__main__":
    search(read_options())
