"""What was measured of differences: rows, ratios, goals, the table; the same numbers for machines."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.bench.rsync import Moved

NEVER_MORE: Final = 1.1
"""Times rsync's bytes, of any case: the goal."""


@dataclass(frozen=True, slots=True)
class Run:
    """One `lockstep sync`: payload to or from S3, bodies of API calls, and all that its connections moved."""

    payload: int
    api: int
    wire: int
    seconds: float

    @property
    def total(self) -> int:
        """The bytes that are compared: payload and bodies of API calls, both ways."""
        return self.payload + self.api


@dataclass(frozen=True, slots=True)
class Row:
    """A case. `goal` is the most that either direction should take, in rsync's bytes."""

    case: str
    size: int
    goal: float
    up: Run
    down: Run
    plain: Moved
    compressed: Moved

    @property
    def worst(self) -> float:
        """The greater of both directions' ratios to plain rsync."""
        return max(self.up.total, self.down.total) / self.plain.total

    @property
    def reached(self) -> bool:
        return self.worst <= self.goal

    def as_json(self) -> dict[str, Any]:
        """With the ratios of each direction to either rsync."""
        ratios = {
            f"{way}_to_{name}": run.total / other.total
            for way, run in (("up", self.up), ("down", self.down))
            for name, other in (("rsync", self.plain), ("rsync_z", self.compressed))
        }
        return {**asdict(self), "ratios": ratios, "reached": self.reached}


@dataclass
class Differences:
    """Of all cases. `idle`: a sync with nothing to do, by device, which every run pays too."""

    name: str
    idle: dict[str, Run] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Cases that could not be measured, with the reason."""

    def table(self) -> str:
        """The rows for people."""
        head = (
            f"{'bytes':42}{'up':>11}{'down':>11}{'rsync':>11}{'rsync -z':>11}"
            f"{'up/rsync':>9}{'down/r.':>9}{'goal':>6}       {'wire up':>11}{'wire down':>11}"
            f"{'s up':>7}{'s down':>7}{'s rsync':>8}{'s -z':>7}"
        )
        idle = [
            f"a sync with nothing to do, {name}: {run.api:,} bytes of API bodies, {run.wire:,} on the wire"
            for name, run in self.idle.items()
        ]
        return "\n".join([self.name, head, *map(_line, self.rows), *idle, *self.missing])

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "name": self.name,
            "notes": self.notes,
            "idle": {name: asdict(run) for name, run in self.idle.items()},
            "rows": [row.as_json() for row in self.rows],
            "missing": self.missing,
        }


def _line(row: Row) -> str:
    plain, packed = row.plain, row.compressed
    return (
        f"{row.case:42}{row.up.total:11,}{row.down.total:11,}{plain.total:11,}{packed.total:11,}"
        f"{row.up.total / plain.total:9.2f}{row.down.total / plain.total:9.2f}{row.goal:6.1f}"
        f"{' met   ' if row.reached else ' MISSED'}{row.up.wire:11,}{row.down.wire:11,}"
        f"{row.up.seconds:7.1f}{row.down.seconds:7.1f}{plain.seconds:8.1f}{packed.seconds:7.1f}"
    )
