"""The guards between plan and execution: named, pure predicates that halt, or leave out, with a reason."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agent.actions import Action, DeleteRemote, Download, Plan, RemoveLocal
from agent.model import Kind, Trouble

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


@dataclass(frozen=True, slots=True)
class Deletions:
    """Files deleted, or to be deleted, on this disk and on the server."""

    here: int = 0
    there: int = 0

    def __add__(self, other: "Deletions") -> "Deletions":
        """Return the sum of both."""
        return Deletions(self.here + other.here, self.there + other.there)


def deletions_by_node(actions: Iterable[Action]) -> dict[str, Deletions]:
    """Return how many files a plan deletes with each node, folders expanded."""
    found: dict[str, Deletions] = {}
    for action in actions:
        if isinstance(action, RemoveLocal) and action.synced.kind is not Kind.FOLDER:
            found[action.synced.id] = Deletions(here=1)
        elif isinstance(action, DeleteRemote):
            found[action.node.id] = Deletions(there=action.files)
    return found


def deletions_of(actions: Iterable[Action]) -> Deletions:
    """Return how many files a plan deletes, folders expanded."""
    return sum(deletions_by_node(actions).values(), Deletions())


def mass_deletion_halt(planned: Deletions, *, recent: Deletions, files: int, allowed: bool) -> Halt | None:
    """Halt when more than max(100, half) of the files would be deleted on either side.

    `files` is how many both sides agree on now; `recent` was deleted shortly before, so that a
    mass deletion that is seen piece by piece is one.
    """
    if allowed:
        return None
    total = planned + recent
    for new, count, where in (
        (planned.here, total.here, "in this folder"),
        (planned.there, total.there, "on the server"),
    ):
        before = files + count - new
        if new and count > max(MASS_DELETE_FILES, MASS_DELETE_SHARE * before):
            return Halt("mass_deletion", f"{count} of {before} files would be deleted {where}")
    return None


def fitting(found: Plan, *, free_bytes: int, arrived: Callable[[Download], int]) -> Plan:
    """Return a plan without the downloads that do not fit on the disk, each with its reason.

    What lacks least comes first, so that as many as possible fit; a reserve stays free. `arrived` tells
    the bytes of a download that are on the disk already.
    """
    downloads = [action for action in found.actions if isinstance(action, Download)]
    left, troubles = free_bytes - DISK_RESERVE_BYTES, dict[str, Trouble]()
    for missing, action in sorted(((a.node.size - arrived(a), a) for a in downloads), key=_by_size):
        if 0 < missing > left:
            detail = f"{missing} bytes are to be fetched, and {max(0, free_bytes)} are free on the disk"
            troubles[action.path] = Trouble("disk_full", detail)
        else:
            left -= max(0, missing)
    if not troubles:
        return found
    kept = (a for a in found.actions if not (isinstance(a, Download) and a.path in troubles))
    return Plan(tuple(kept), {**found.troubles, **troubles})


def _by_size(item: tuple[int, Download]) -> int:
    return item[0]
