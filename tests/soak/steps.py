"""What users will do: a pure function of a seed.

A step is a verb and numbers; what it means is found when it is played (the number picks one of the
paths that exist then), so that a list of steps stays one when some are left out.
"""

import random
from dataclasses import dataclass
from typing import Final

from tests.soak.content import MIB

NAMES: Final = (
    "a", "b", "c", "d.txt", "e.tar.gz", "A", "B", "D.TXT", "\u00e9", "e\u0301", "\u03a9 x.md",
    "CON", "dot. ", "\U0001f600", ".hidden", "\u05d0\u05d1", "a" * 240 + ".txt",
)  # fmt: skip
_NAME_WEIGHTS: Final = (9, 9, 8, 6, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)

VERBS: Final[dict[str, int]] = {
    "create": 14, "mkdir": 7, "link": 2, "shared": 3, "edit": 7, "rewrite": 5, "append": 6,
    "truncate": 2, "mmap": 2, "save": 5, "backup": 4, "copy": 3, "hardlink": 2, "rename": 8,
    "move": 9, "over": 4, "swap": 3, "rotate": 2, "invert": 2, "lift": 2, "recase": 1, "respell": 1,
    "delete": 8, "deltree": 2, "recreate": 3, "to_file": 2, "to_folder": 2, "to_link": 1, "chmod": 2,
    "readonly": 1, "touch": 3, "deep": 1, "hole": 1, "fifo": 1, "unpack": 1, "slow": 1,
}  # fmt: skip
"""What may happen, and how often."""


@dataclass(frozen=True, slots=True)
class Step:
    """User `who` does `verb`; `pick`, `other` and `name` choose the paths, modulo what there is."""

    number: int
    verb: str
    who: int
    pick: int
    other: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Round:
    """The steps of all users, and the order of what the agents do afterwards."""

    number: int
    steps: tuple[Step, ...]
    agents: tuple[int, ...]
    """Devices, as they sync one after the other (or are killed)."""


def generate(seed: str, devices: int, rounds: int, length: int) -> tuple[Round, ...]:
    """Return the rounds of a run; each has up to `length` steps of each user."""
    return tuple(
        _round(random.Random(f"{seed}/{number}"), number, devices, length) for number in range(rounds)
    )


def _round(rng: random.Random, number: int, devices: int, length: int) -> Round:
    count = rng.randrange(devices, devices * length + 1)
    verbs = rng.choices(list(VERBS), list(VERBS.values()), k=count)
    steps = tuple(_step(rng, number * 10_000 + i, verb, devices) for i, verb in enumerate(verbs))
    agents = tuple(rng.randrange(devices) for _ in range(rng.randrange(0, 2 * devices + 1)))
    return Round(number, steps, agents)


def _step(rng: random.Random, number: int, verb: str, devices: int) -> Step:
    name = rng.choices(NAMES, _NAME_WEIGHTS)[0]
    return Step(
        number, verb, rng.randrange(devices), rng.randrange(1 << 20), rng.randrange(1 << 20), name, _size(rng)
    )


def _size(rng: random.Random) -> int:
    """Return the bytes of a file: most are small, some need a stream, a few need parts."""
    kind = rng.random()
    if kind < 0.86:
        return rng.randrange(0, 3000)
    if kind < 0.95:
        return rng.randrange(60_000, 400_000)
    if kind < 0.985:
        return rng.randrange(1 * MIB, 5 * MIB)
    return rng.randrange(10 * MIB + 1, 24 * MIB)
