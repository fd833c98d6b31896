"""Which random cases run: blocks of seeds, so that a failure can name its seed.

`LOCKSTEP_SIM_SEED=n` runs that seed alone, of every property; `LOCKSTEP_SIM_CASES=f` runs f times
as many cases as usual; `LOCKSTEP_SIM_FIRST=n` starts at another seed.
"""

import os
import random
from collections.abc import Iterator

BLOCK = 250


def blocks(cases: int) -> list[range]:
    """Cut a property's cases into blocks, one per test."""
    only = os.environ.get("LOCKSTEP_SIM_SEED")
    if only is not None:
        return [range(int(only), int(only) + 1)]
    first = int(os.environ.get("LOCKSTEP_SIM_FIRST", "0"))
    total = round(cases * float(os.environ.get("LOCKSTEP_SIM_CASES", "1")))
    return [range(start, min(start + BLOCK, first + total)) for start in range(first, first + total, BLOCK)]


def name(seeds: range) -> str:
    return f"{seeds.start}-{seeds.stop - 1}"


def generators(seeds: range) -> Iterator[tuple[int, random.Random]]:
    """Yield each seed with its source of randomness."""
    for seed in seeds:
        yield seed, random.Random(seed)


def again(seed: int, test: str) -> str:
    """Say how to run one case again."""
    return f"LOCKSTEP_SIM_SEED={seed} pytest {test}"
