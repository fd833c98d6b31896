"""The synced folder on disk: the only part of the agent that writes into it.

All paths are relative to the root and resolved component by component without following links.
Every step that destroys carries what it expects and finds out whether it was right before it is
too late to go back. Methods block; they are called in threads and keep no state between calls,
except for which temporary files are in use.
"""

from agent.disk.changes import Changes, Ready
from agent.disk.errors import (
    BlockedError,
    DiskError,
    DiskFullError,
    MismatchError,
    NameImpossibleError,
    OccupiedError,
    VanishedError,
)
from agent.disk.moves import Moves
from agent.disk.reads import Opened, RootKind, RootState
from agent.disk.rename import KeepName, kept_name
from agent.disk.temps import Leftover, Temp, Temps
from agent.disk.trash import Trash

__all__ = [
    "BlockedError",
    "Disk",
    "DiskError",
    "DiskFullError",
    "KeepName",
    "Leftover",
    "MismatchError",
    "NameImpossibleError",
    "OccupiedError",
    "Opened",
    "Ready",
    "RootKind",
    "RootState",
    "Temp",
    "VanishedError",
    "kept_name",
]


class Disk(Changes, Moves, Temps, Trash):
    """One synced folder: `reads`, `changes`, `moves`, `trash`, and the agent's own files, `temps`."""
