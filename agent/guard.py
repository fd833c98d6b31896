"""The guards between plan and execution: named, pure predicates that halt with a reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.actions import Action, DeleteRemote, Download, RemoveLocal
from agent.model import Kind

MASS_DELETE_FILES: Final = 100
MASS_DELETE_SHARE: Final = 0.5
EMPTIED_FILES: Final = 5
"""A root without any entry halts when at least this many files had been in it."""
DISK_RESERVE_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Halt:
    """Why nothing is done: a stable code and a sentence."""

    code: str
    detail: str


_ROOTS: Final = {
    "missing": Halt("root_missing", "The sync folder is missing; is its disk mounted?"),
    "not_a_folder": Halt("root_not_a_folder", "The sync folder is not a folder"),
    "unreadable": Halt("root_unreadable", "The sync folder cannot be read"),
}


def root_halt(kind: str, *, marker: str | None, expected: str) -> Halt | None:
    """Halt when the folder is not the one that was synced before (a disk not mounted, say).

    `kind` is what stands there: "folder", "missing", "not_a_folder" or "unreadable"; `marker`
    what the agent's own file in it says, `expected` what it should say.
    """
    if kind in _ROOTS:
        return _ROOTS[kind]
    if marker is None:
        return Halt("root_emptied", "The sync folder was emptied, replaced, or its disk is not mounted")
    if marker != expected:
        return Halt("root_replaced", "The sync folder is another one than before")
    return None


def emptied_halt(entries: int, synced_files: int, *, allowed: bool) -> Halt | None:
    """Halt when everything is gone from a folder that had files in it."""
    if allowed or entries > 0 or synced_files < EMPTIED_FILES:
        return None
    return Halt("root_emptied", f"Everything is gone from the sync folder ({synced_files} files)")


def mass_deletion_halt(
    actions: Iterable[Action], *, local_files: int, remote_files: int, allowed: bool
) -> Halt | None:
    """Halt when a plan deletes more than max(100, half) of the files of either side."""
    if allowed:
        return None
    here = there = 0
    for action in actions:
        if isinstance(action, RemoveLocal) and action.synced.kind is not Kind.FOLDER:
            here += 1
        elif isinstance(action, DeleteRemote):
            there += action.files
    for count, total, where in (
        (here, local_files, "in this folder"),
        (there, remote_files, "on the server"),
    ):
        if count > max(MASS_DELETE_FILES, MASS_DELETE_SHARE * total):
            return Halt("mass_deletion", f"{count} of {total} files would be deleted {where}")
    return None


def disk_full_halt(actions: Iterable[Action], *, free_bytes: int) -> Halt | None:
    """Halt when what is to be fetched next does not fit on the disk, with a reserve."""
    largest = max((a.node.size for a in actions if isinstance(a, Download)), default=0)
    if largest and free_bytes < largest + DISK_RESERVE_BYTES:
        return Halt("disk_full", f"{free_bytes} bytes are free; a file of {largest} bytes is to be fetched")
    return None
