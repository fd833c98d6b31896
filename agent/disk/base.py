"""What every part of the disk has in common."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.disk.errors import BlockedError
from agent.disk.root import Root

_UMASK_LINE: Final = re.compile(r"^Umask:\s*([0-7]+)", re.MULTILINE)


class Rooted:
    """Knows the root, the umask, which temporary files are in use, and whether the agent is stopping."""

    def __init__(self, root: Path, *, trash_days: float = 30) -> None:
        self.root = Root(root)
        self.trash_days = trash_days
        self.folds_names = False
        """Whether the disk takes other spellings of a name for the same; `prepare` tries it out."""
        self.keeps_modes = True
        """Whether the disk keeps an executable bit; `prepare` tries it out."""
        self._umask = _read_umask()
        self._stopping = threading.Event()
        self._claims: set[str] = set()
        self._claims_lock = threading.Lock()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let long reads end soon with `BlockedError` "stopping"."""
        self._stopping.set()

    @contextmanager
    def _claimed(self, name: str) -> Iterator[None]:
        """Keep a temporary file to the body: who writes into it, or installs it, does so alone.

        Raises `BlockedError` "in_use" while another task or thread has it.
        """
        with self._claims_lock:
            if name in self._claims:
                raise BlockedError("Another transfer uses the temporary file", code="in_use", path=name)
            self._claims.add(name)
        try:
            yield
        finally:
            with self._claims_lock:
                self._claims.remove(name)


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
