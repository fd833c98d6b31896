"""The guards are pure: numbers in, a halt or nothing out."""

import pytest

from agent.actions import Action, DeleteRemote, Download, MakeFolder, Plan, RemoveLocal
from agent.guard import (
    DISK_RESERVE_BYTES,
    Deletions,
    deletions_of,
    emptied_halt,
    fitting,
    mass_deletion_halt,
    root_halt,
)
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble

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


def download(path: str, size: int) -> Download:
    return Download(RemoteNode(path, "0", path, Kind.FILE, 1, size=size), path)


def paths_that_fit(*downloads: Download, free: int, arrived: int = 0) -> list[str]:
    found = fitting(Plan(downloads), free_bytes=free + DISK_RESERVE_BYTES, arrived=lambda _: arrived)
    kept = [action.path for action in found.actions if isinstance(action, Download)]
    left_out = {path for path, trouble in found.troubles.items() if trouble.code == "disk_full"}
    assert {*kept, *left_out} == {action.path for action in downloads}
    return kept


def test_a_download_without_room_is_left_out_and_what_has_arrived_counts_as_there() -> None:
    big = download("big", 50 * 2**30)
    assert paths_that_fit(big, free=50 * 2**30) == ["big"]
    assert paths_that_fit(big, free=50 * 2**30 - 1) == []
    assert paths_that_fit(big, free=20 * 2**30, arrived=30 * 2**30) == ["big"]
    assert paths_that_fit(big, free=0, arrived=50 * 2**30) == ["big"], "it only has to be put in its place"
    assert paths_that_fit(download("empty", 0), free=-1) == ["empty"]


def test_what_does_not_fit_holds_up_nothing_else() -> None:
    node = RemoteNode("1", "0", "gone", Kind.FILE, 1)
    trouble = Trouble("collision", "Two names are one")
    others = (MakeFolder(node, "folder"), DeleteRemote(node, "gone", 1))
    plan = Plan((others[0], download("big", 1000), download("small", 1), others[1]), {"other": trouble})
    found = fitting(plan, free_bytes=DISK_RESERVE_BYTES + 999, arrived=lambda _: 0)
    assert found.actions == (others[0], plan.actions[2], others[1])
    assert found.troubles["other"] is trouble
    assert found.troubles["big"].code == "disk_full"
    assert "1000 bytes" in found.troubles["big"].detail
    assert fitting(plan, free_bytes=2**40, arrived=lambda _: 0) is plan


def test_all_that_is_fetched_has_to_fit_together_and_as_much_as_possible_is() -> None:
    three = (download("b", 60), download("a", 50), download("c", 40))
    assert paths_that_fit(*three, free=150) == ["b", "a", "c"]
    assert paths_that_fit(*three, free=149) == ["a", "c"]
    assert paths_that_fit(*three, free=89) == ["c"]
