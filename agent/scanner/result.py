"""What a scan found."""

from dataclasses import dataclass, field
from typing import Final

from agent.model import LocalEntry, Trouble

_PASSING: Final = frozenset({"in_use", "too_many_open_files"})
"""Troubles that pass by themselves, of which no event tells."""


@dataclass(slots=True)
class ScanResult:
    """What a scan found in its scope. The new local tree is `known` less `gone`, with `entries` on top.

    An unchanged entry is the very object of `known`.
    """

    entries: dict[str, LocalEntry] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """Known paths that certainly do not exist any more."""
    opaque: set[str] = field(default_factory=set)
    """Folders that could not be listed: nothing is known of what is below them."""
    ignored: set[str] = field(default_factory=set)
    """Paths that a rule leaves out, topmost ones only, and known ones that a rule now leaves out."""
    problems: dict[str, Trouble] = field(default_factory=dict)
    """Why paths cannot be read or synced; the same troubles that their entries carry."""
    recheck: set[str] = field(default_factory=set)
    """Paths to be scanned once more at `recheck_at`: they were written to a moment ago."""
    recheck_at: float | None = None
    """Seconds since 1970."""
    hashed: int = 0
    """How many files were read."""
    hashed_bytes: int = 0

    def report(self, path: str, trouble: Trouble) -> None:
        """Note why a path cannot be read; one that is likely to be readable soon is looked at again."""
        self.problems[path] = trouble
        if trouble.code in _PASSING:
            self.recheck.add(path)
