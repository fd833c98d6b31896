"""The guards are pure: numbers in, a halt or nothing out."""

import pytest

from agent.actions import Action, DeleteRemote, Download, RemoveLocal
from agent.guard import (
    Deletions,
    deletions_of,
    disk_full_halt,
    emptied_halt,
    mass_deletion_halt,
    root_halt,
)
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode

STAT = FileStat(1, 2, 3, 4, 5, 0o644)
NONE = Deletions()


def halted(planned: Deletions, files: int, *, recent: Deletions = NONE, allowed: bool = False) -> bool:
    return mass_deletion_halt(planned, recent=recent, files=files, allowed=allowed) is not None


@pytest.mark.parametrize(
    ("count", "files", "halts"),
    [(100, 100, False), (101, 101, True), (150, 300, False), (151, 300, True), (5, 5, False)],
)
def test_more_than_a_hundred_and_more_than_half_halts_in_both_directions(
    *, count: int, files: int, halts: bool
) -> None:
    assert halted(Deletions(here=count), files) is halts
    assert halted(Deletions(there=count), files) is halts


def test_a_mass_deletion_seen_piece_by_piece_is_one() -> None:
    """A third each: no piece is more than half of what is left, all together they are."""
    assert not halted(Deletions(there=1000), 3000)
    assert halted(Deletions(there=1000), 2000, recent=Deletions(there=1000))


def test_what_was_deleted_before_does_not_hold_up_other_work() -> None:
    assert not halted(NONE, 10, recent=Deletions(there=500))
    assert not halted(Deletions(here=1), 10, recent=Deletions(there=500))


def test_it_can_be_let_pass() -> None:
    assert not halted(Deletions(there=5000), 5000, allowed=True)


def test_folders_are_expanded_on_the_server_and_not_counted_here() -> None:
    entry = LocalEntry("x", LocalKind.FILE, STAT, "0" * 64)
    actions: list[Action] = [
        DeleteRemote(RemoteNode("1", "0", "folder", Kind.FOLDER, 1), "folder", files=30),
        RemoveLocal(SyncedNode("2", "0", "x", Kind.FILE), entry),
        RemoveLocal(SyncedNode("3", "0", "y", Kind.FOLDER), entry),
    ]
    assert deletions_of(actions) == Deletions(here=1, there=30)


@pytest.mark.parametrize(
    ("kind", "marker", "code"),
    [
        ("folder", "mine", None),
        ("missing", None, "root_missing"),
        ("not_a_folder", None, "root_not_a_folder"),
        ("unreadable", None, "root_unreadable"),
        ("folder", None, "root_emptied"),
        ("folder", "other", "root_replaced"),
    ],
)
def test_only_the_marked_root_is_worked_in(kind: str, marker: str | None, code: str | None) -> None:
    halt = root_halt(kind, marker=marker, expected="mine")
    assert (None if halt is None else halt.code) == code


def test_an_emptied_folder_halts_unless_there_was_little_in_it_or_it_is_allowed() -> None:
    assert emptied_halt(0, 5, allowed=False) is not None
    assert emptied_halt(0, 4, allowed=False) is None
    assert emptied_halt(1, 500, allowed=False) is None
    assert emptied_halt(0, 500, allowed=True) is None


def test_a_disk_without_room_halts_and_what_has_arrived_counts_as_there() -> None:
    node = RemoteNode("1", "0", "big", Kind.FILE, 1, size=50 * 2**30)
    actions = [Download(node, "big")]
    assert disk_full_halt(actions, free_bytes=30 * 2**30, arrived=lambda _: 0) is not None
    assert disk_full_halt(actions, free_bytes=30 * 2**30, arrived=lambda _: 30 * 2**30) is None
    assert disk_full_halt([], free_bytes=0, arrived=lambda _: 0) is None
