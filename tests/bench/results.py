"""Medians, ratios and the table; the same numbers for machines."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from tests.bench.child import Cost

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: what was done, by which tool, how many payload bytes it moved."""

    task: str
    tool: str
    size: int
    cost: Cost


class Report(Protocol):
    """What a benchmark gives: notes on how it was measured, a table, and all numbers for machines."""

    @property
    def notes(self) -> list[str]:
        """Said before the table."""

    def table(self) -> str:
        """For people."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""


@dataclass
class Results:
    """Of one benchmark. `yardstick` is the tool that others are compared with."""

    name: str
    yardstick: str
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    phases: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    """What a tool's time went into, by task, for each run; in seconds."""

    def rows(self) -> list[dict[str, Any]]:
        """Medians of each task and tool, with ratios to the yardstick: below 1 is less."""
        groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        for sample in self.samples:
            groups[sample.task, sample.tool].append(sample)
        rows = {key: _row(*key, group) for key, group in groups.items()}
        for (task, _), row in rows.items():
            other = rows.get((task, self.yardstick))
            if other is not None:
                row["seconds_ratio"] = row["seconds"] / other["seconds"]
                row["cpu_ratio"] = row["cpu_seconds"] / other["cpu_seconds"]
        return list(rows.values())

    def medians_of_phases(self) -> dict[str, dict[str, float]]:
        """Task → phase → median seconds."""
        return {
            task: {name: median(run[name] for run in runs) for name in runs[0]}
            for task, runs in self.phases.items()
        }

    def table(self) -> str:
        """The rows for people."""
        head = f"{'':10}{'tool':26}{'s':>8}{'MiB/s':>8}{'CPU s':>8}{'MB':>7}{'s ratio':>9}{'CPU ratio':>11}"
        lines = [
            f"{row['task']:10}{row['tool']:26}{row['seconds']:8.2f}{row['mib_per_second']:8.0f}"
            f"{row['cpu_seconds']:8.2f}{row['peak_bytes'] / 1e6:7.0f}"
            f"{row.get('seconds_ratio', 1):9.2f}{row.get('cpu_ratio', 1):11.2f}"
            for row in self.rows()
        ]
        phases = [
            f"{task}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
            for task, parts in self.medians_of_phases().items()
        ]
        return "\n".join([f"{self.name} (medians; ratios to {self.yardstick})", head, *lines, *phases])

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "name": self.name,
            "yardstick": self.yardstick,
            "notes": self.notes,
            "rows": self.rows(),
            "phases": self.medians_of_phases(),
            "samples": [asdict(sample) for sample in self.samples],
        }


def write_json(path: Path, all_results: Sequence[Report]) -> None:
    """Write what programs read, with the machine it was measured on."""
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    found = {"machine": machine, "benchmarks": [results.as_json() for results in all_results]}
    path.write_text(json.dumps(found, indent=1) + "\n")


def _row(task: str, tool: str, group: list[Sample]) -> dict[str, Any]:
    seconds = median(sample.cost.seconds for sample in group)
    return {
        "task": task,
        "tool": tool,
        "runs": len(group),
        "size": group[0].size,
        "seconds": seconds,
        "mib_per_second": group[0].size / MIB / seconds,
        "cpu_seconds": median(sample.cost.cpu_seconds for sample in group),
        "peak_bytes": max(sample.cost.peak_bytes for sample in group),
    }
