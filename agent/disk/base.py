"""What every part of the disk has in common."""

import os
import re
import threading
from pathlib import Path
from typing import Final

from agent.disk.root import Root

_UMASK_LINE: Final = re.compile(r"^Umask:\s*([0-7]+)", re.MULTILINE)


class Rooted:
    """Knows the root, the process's umask, and whether the agent is stopping."""

    def __init__(self, root: Path, *, trash_days: float = 30) -> None:
        self.root = Root(root)
        self.trash_days = trash_days
        self.folds_names = False
        """Whether the disk takes other spellings of a name for the same; `prepare` tries it out."""
        self._umask = _read_umask()
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let long reads end soon with `BlockedError` "stopping"."""
        self._stopping.set()


def _read_umask() -> int:
    """Return the process's umask; only where /proc is missing it is set for an instant to read it."""
    try:
        found = _UMASK_LINE.search(Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        found = None
    if found:
        return int(found[1], 8)
    current = os.umask(0o077)
    os.umask(current)
    return current
