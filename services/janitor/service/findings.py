"""What a sweep found: counted by kind, with the first of each to look at."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from libs.contracts.internal import Finding

_SHOWN: Final = 100
"""Findings of one kind that a report lists; all are counted."""


@dataclass(slots=True)
class Report:
    """The findings of one sweep so far, and how much was looked at."""

    seen: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    shown: list[Finding] = field(default_factory=list)
    halted: str | None = None
    """Why the sweep did not go on: then what was found is no ground for repairs."""
    seconds: float = 0.0

    def add(self, findings: Iterable[Finding]) -> None:
        """Count findings."""
        for finding in findings:
            self.found[finding.kind] += 1
            self.repaired[finding.kind] += finding.repaired
            if self.found[finding.kind] <= _SHOWN:
                self.shown.append(finding)

    @property
    def clean(self) -> bool:
        """Whether everything was looked at and nothing was found."""
        return self.halted is None and not self.found

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "clean": self.clean,
            "halted": self.halted,
            "seen": dict(self.seen),
            "found": dict(self.found),
            "repaired": {kind: count for kind, count in self.repaired.items() if count},
            "findings": [finding.model_dump(mode="json") for finding in self.shown],
            "seconds": round(self.seconds, 3),
        }

    def as_text(self) -> str:
        """Return it for people."""
        seen = ", ".join(f"{count:,} {what}" for what, count in self.seen.items())
        lines = [f"looked at {seen or 'nothing'} in {self.seconds:.1f} s"]
        lines += [_line(finding) for finding in self.shown]
        lines += [
            f"{kind}: {count:,} found, {self.repaired[kind]:,} repaired" for kind, count in self.found.items()
        ]
        lines.append(f"halted: {self.halted}" if self.halted else "clean" if self.clean else "not clean")
        return "\n".join(lines)


def _line(finding: Finding) -> str:
    done = " (repaired)" if finding.repaired else ""
    return f"  {finding.kind} {finding.id}: {finding.detail}{done}"
