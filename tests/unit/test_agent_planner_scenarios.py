"""The rules of the merge, one row each, played by two or three devices of a simulated world.

Numbers are those of the acceptance scenarios. Every row is played twice, with each device being
the first to commit; `expect` is the tree when A is first, `reverse` when the last device is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from agent.model import LocalKind
from tests.simulation.device import Habits
from tests.simulation.disk import DiskKind
from tests.simulation.world import User, World

Act = tuple[str, ...]
Tree = dict[str, str]

COPY = " (conflicted copy, {}, 2026-11-23)"


def copy_of(stem: str, device: str, extension: str = "") -> str:
    return stem + COPY.format(device) + extension


@dataclass(frozen=True)
class Row:
    """`start` is done by A and synced everywhere; then each device acts alone."""

    name: str
    start: Sequence[Act]
    acts: Sequence[Sequence[Act]]
    expect: Tree
    reverse: Tree | None = None
    moves_no_bytes: bool = False


def act(user: User, steps: Sequence[Act]) -> None:
    for verb, *paths in steps:
        assert DO[verb](user, *paths), f"{verb} {paths} makes no sense"


DO: dict[str, Callable[..., bool]] = {
    "write": lambda u, path, text: u.create(path, text),
    "link": lambda u, path, target: u.create(path, target, LocalKind.SYMLINK),
    "mkdir": lambda u, path: u.mkdir(path),
    "edit": lambda u, path, text: u.edit(path, text),
    "delete": lambda u, path: u.delete(path),
    "move": lambda u, path, to: u.move(path, to),
    "rotate": lambda u, *paths: u.rotate(paths),
    "to_folder": lambda u, path: u.turn(path, LocalKind.FOLDER),
    "to_link": lambda u, path: u.turn(path, LocalKind.SYMLINK),
    "to_file": lambda u, path: u.turn(path, LocalKind.FILE),
}

F = ("write", "f", "old")
FOLDER = (("mkdir", "d"), ("write", "d/f", "old"), ("write", "d/g", "other"))

ROWS = [
    # Edit and delete
    Row("11 two edits: one keeps the name, the other is a copy", [F],
        [[("edit", "f", "a")], [("edit", "f", "b")]],
        {"f": "a", copy_of("f", "B"): "b"}, {"f": "b", copy_of("f", "A"): "a"}),
    Row("11 the copy keeps its extension", [("write", "f.tar.gz", "old")],
        [[("edit", "f.tar.gz", "a")], [("edit", "f.tar.gz", "b")]],
        {"f.tar.gz": "a", copy_of("f.tar", "B", ".gz"): "b"},
        {"f.tar.gz": "b", copy_of("f.tar", "A", ".gz"): "a"}),
    Row("12 the same edit twice is no conflict", [F],
        [[("edit", "f", "same")], [("edit", "f", "same")]], {"f": "same"}),
    Row("12 the same edit here, and with a rename there", [F],
        [[("edit", "f", "same")], [("edit", "f", "same"), ("move", "f", "g")]], {"g": "same"}),
    Row("13 an edit beats a deletion", [F], [[("edit", "f", "a")], [("delete", "f")]], {"f": "a"}),
    Row("14 deleted by both", [F], [[("delete", "f")], [("delete", "f")]], {}),
    Row("16 three edits: one winner and two copies", [F],
        [[("edit", "f", "a")], [("edit", "f", "b")], [("edit", "f", "c")]],
        {"f": "a", copy_of("f", "B"): "b", copy_of("f", "C"): "c"},
        {"f": "c", copy_of("f", "A"): "a", copy_of("f", "B"): "b"}),
    Row("21 one name made twice with different content", [],
        [[("write", "f", "a")], [("write", "f", "b")]],
        {"f": "a", copy_of("f", "B"): "b"}, {"f": "b", copy_of("f", "A"): "a"}),
    Row("22 one name made twice with the same content", [],
        [[("write", "f", "same")], [("write", "f", "same")]], {"f": "same"}),
    Row("23 a new file where another is renamed to", [("write", "g", "moved")],
        [[("write", "f", "new")], [("move", "g", "f")]],
        {"f": "new", copy_of("f", "B"): "moved"}, {"f": "moved", copy_of("f", "A"): "new"}),
    Row("24 edited here, moved there", [*FOLDER],
        [[("edit", "d/f", "a")], [("move", "d/f", "h")]], {"d": "/", "d/g": "other", "h": "a"}),
    Row("24 edited and moved here, edited there", [F],
        [[("edit", "f", "a")], [("edit", "f", "b"), ("move", "f", "h")]],
        {"f": "a", copy_of("h", "B"): "b"}, {"h": "b", copy_of("f", "A"): "a"}),
    Row("24 moved by both: the first move counts", [F],
        [[("move", "f", "x")], [("move", "f", "y")]], {"x": "old"}, {"y": "old"}, moves_no_bytes=True),
    Row("24 moved by both to one place", [F],
        [[("move", "f", "x")], [("move", "f", "x")]], {"x": "old"}, moves_no_bytes=True),
    Row("14 deleted here, renamed there stays deleted", [F],
        [[("delete", "f")], [("move", "f", "x")]], {}),
    # Types
    Row("26 file to folder against an edit: the folder, and the edit as a copy", [F],
        [[("to_folder", "f"), ("write", "f/new", "n")], [("edit", "f", "b")]],
        {"f": "/", "f/new": "n", copy_of("f", "B"): "b"}, {"f": "/", "f/new": "n", copy_of("f", "A"): "b"}),
    Row("26 folder to file against a new file in it", [*FOLDER],
        [[("to_file", "d")], [("write", "d/new", "n")]],
        {"d": "/", "d/new": "n", copy_of("d", "B"): "c1"}, {"d": "/", "d/new": "n", copy_of("d", "A"): "c1"}),
    Row("28 file to link", [F], [[("to_link", "f")], []], {"f": "-> c1"}),
    Row("28 file to link against an edit", [F],
        [[("to_link", "f")], [("edit", "f", "b")]],
        {"f": "-> c1", copy_of("f", "B"): "b"}, {"f": "b", copy_of("f", "A"): "-> c1"}),
    Row("28 two targets for one link", [("link", "l", "old")],
        [[("edit", "l", "a")], [("edit", "l", "b")]],
        {"l": "-> a", copy_of("l", "B"): "-> b"}, {"l": "-> b", copy_of("l", "A"): "-> a"}),
    Row("28 a link retargeted here, deleted there", [("link", "l", "old")],
        [[("edit", "l", "a")], [("delete", "l")]], {"l": "-> a"}),
    Row("a folder keeps its name against a file", [],
        [[("mkdir", "n"), ("write", "n/x", "x")], [("write", "n", "file")]],
        {"n": "/", "n/x": "x", copy_of("n", "B"): "file"}, {"n": "/", "n/x": "x", copy_of("n", "A"): "file"}),
    Row("two new folders of one name are one", [],
        [[("mkdir", "n"), ("write", "n/a", "a")], [("mkdir", "n"), ("write", "n/b", "b")]],
        {"n": "/", "n/a": "a", "n/b": "b"}),
    # Folders and moves
    Row("31 a folder renamed here, a file added there", [*FOLDER],
        [[("move", "d", "e")], [("write", "d/new", "n")]],
        {"e": "/", "e/f": "old", "e/g": "other", "e/new": "n"}),
    Row("32 a folder deleted here, a file added there", [*FOLDER],
        [[("delete", "d")], [("write", "d/new", "n")]], {"d": "/", "d/new": "n"}),
    Row("32 a folder deleted here, a folder with a file added there", [*FOLDER],
        [[("delete", "d")], [("mkdir", "d/e"), ("write", "d/e/new", "n")]],
        {"d": "/", "d/e": "/", "d/e/new": "n"}),
    Row("32 a folder deleted here, another file moved into it there", [*FOLDER, ("write", "h", "moved")],
        [[("delete", "d")], [("move", "h", "d/h")]], {"d": "/", "d/h": "moved"}),
    Row("32 a folder deleted here, a file moved out of it there", [*FOLDER],
        [[("delete", "d")], [("move", "d/f", "f")]], {"f": "old"}),
    Row("32 a folder deleted here, a folder moved out of it there with all in it",
        [("mkdir", "d"), ("mkdir", "d/e"), ("write", "d/e/f", "old"), ("write", "d/g", "other")],
        [[("delete", "d")], [("move", "d/e", "e")]], {"e": "/", "e/f": "old"}),
    Row("33 a folder deleted here, a file in it edited there", [*FOLDER],
        [[("delete", "d")], [("edit", "d/f", "b")]], {"d": "/", "d/f": "b"}),
    Row("33 a folder deleted here, a file deep in it edited there",
        [("mkdir", "d"), ("mkdir", "d/e"), ("mkdir", "d/e/h"), ("write", "d/e/h/f", "old")],
        [[("delete", "d")], [("edit", "d/e/h/f", "b")]],
        {"d": "/", "d/e": "/", "d/e/h": "/", "d/e/h/f": "b"}),
    Row("32 a folder deleted by both, added to by both", [*FOLDER],
        [[("delete", "d"), ("mkdir", "d"), ("write", "d/a", "a")], [("write", "d/b", "b")]],
        {"d": "/", "d/a": "a", "d/b": "b"}, {"d": "/", "d/a": "a", "d/b": "b"}),
    Row("34 each of two folders moved into the other",
        [("mkdir", "x"), ("write", "x/f", "f"), ("mkdir", "y"), ("write", "y/g", "g")],
        [[("move", "x", "y/x")], [("move", "y", "x/y")]],
        {"y": "/", "y/x": "/", "y/x/f": "f", "y/g": "g"}, {"x": "/", "x/y": "/", "x/y/g": "g", "x/f": "f"},
        moves_no_bytes=True),
    Row("35 two names swapped", [("write", "x", "1"), ("write", "y", "2")],
        [[("rotate", "x", "y")], []], {"x": "2", "y": "1"}, moves_no_bytes=True),
    Row("35 two folders swapped", [*FOLDER, ("mkdir", "e"), ("write", "e/h", "h")],
        [[("rotate", "d", "e")], []], {"e": "/", "e/f": "old", "e/g": "other", "d": "/", "d/h": "h"},
        moves_no_bytes=True),
    Row("36 three names rotated", [("write", "x", "1"), ("write", "y", "2"), ("write", "z", "3")],
        [[("rotate", "x", "y", "z")], []], {"y": "1", "z": "2", "x": "3"}, moves_no_bytes=True),
    Row("39 a folder moved up", [("mkdir", "p"), ("mkdir", "p/d"), ("write", "p/d/f", "f")],
        [[("move", "p/d", "d")], []], {"p": "/", "d": "/", "d/f": "f"}, moves_no_bytes=True),
    Row("39 a folder turned inside out", [("mkdir", "p"), ("mkdir", "p/d"), ("write", "p/d/f", "f")],
        [[("move", "p/d", "x"), ("move", "p", "x/d"), ("move", "x", "p")], []],
        {"p": "/", "p/d": "/", "p/f": "f"}, moves_no_bytes=True),
    Row("39 a folder replaced by what was in it", [("mkdir", "p"), ("write", "p/f", "f")],
        [[("move", "p/f", "x"), ("delete", "p"), ("move", "x", "p")], []], {"p": "f"}, moves_no_bytes=True),
    Row("39 a file moved into a new folder of its name", [F],
        [[("move", "f", "x"), ("mkdir", "f"), ("move", "x", "f/f")], []],
        {"f": "/", "f/f": "old"}, moves_no_bytes=True),
    Row("42 moved onto another file", [("write", "x", "1"), ("write", "y", "2")],
        [[("move", "x", "y")], []], {"y": "1"}, moves_no_bytes=True),
    Row("42 moved onto a file edited there: both kept", [("write", "x", "1"), ("write", "y", "2")],
        [[("move", "x", "y")], [("edit", "y", "b")]],
        {"y": "1", copy_of("y", "B"): "b"}, {"y": "b", copy_of("y", "A"): "1"}),
    Row("45 Archives, Drafts and January each moved into the next",
        [("mkdir", "Archives"), ("mkdir", "Drafts"), ("mkdir", "January"), ("write", "January/f", "f")],
        [[("move", "Drafts", "Archives/Drafts")], [("move", "January", "Drafts/January")],
         [("move", "Archives", "January/Archives")]],
        {"Archives": "/", "Archives/Drafts": "/", "Archives/Drafts/January": "/",
         "Archives/Drafts/January/f": "f"},
        {"Drafts": "/", "Drafts/January": "/", "Drafts/January/f": "f", "Drafts/January/Archives": "/"},
        moves_no_bytes=True),
    # Names
    Row("46 names that differ in case are two", [], [[("write", "a", "1")], [("write", "A", "2")]],
        {"a": "1", "A": "2"}),
    Row("46 a change of case alone is a rename", [("write", "readme", "1")],
        [[("move", "readme", "README")], []], {"README": "1"}, moves_no_bytes=True),
    Row("49 two spellings of one name with one content are one file", [],
        [[("write", "\u00e9", "same")], [("write", "e\u0301", "same")]],
        {"\u00e9": "same"}, {"e\u0301": "same"}),
]  # fmt: skip


def play(row: Row, *, last_first: bool) -> World:
    world = World(((DiskKind(), Habits()),) * len(row.acts))
    act(world.users[0], row.start)
    world.settle()
    moved = (world.server.uploads, world.server.downloads)
    for user, steps in zip(world.users, row.acts, strict=True):
        act(user, steps)
    world.sync(*(reversed(world.devices) if last_first else world.devices))
    world.settle()
    world.check()
    if row.moves_no_bytes:
        assert (world.server.uploads, world.server.downloads) == moved
    return world


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_scenario(row: Row) -> None:
    assert play(row, last_first=False).tree() == row.expect


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_scenario_when_the_last_device_commits_first(row: Row) -> None:
    assert play(row, last_first=True).tree() == (row.reverse or row.expect)


# What a table does not say -----------------------------------------------------------------------


def started(*acts: Act, devices: int = 2) -> World:
    world = World(((DiskKind(), Habits()),) * devices)
    act(world.users[0], acts)
    world.settle()
    return world


def test_12_the_second_of_two_equal_edits_uploads_nothing() -> None:
    world = started(F)
    for user in world.users:
        act(user, [("edit", "f", "same")])
    world.settle()
    assert world.server.uploads == 2


def test_22_the_second_of_two_equal_new_files_uploads_nothing() -> None:
    world = started()
    for user in world.users:
        act(user, [("write", "f", "same")])
    world.settle()
    assert world.server.uploads == 1
    assert world.copies() == []


def test_17_a_commit_refused_while_it_uploads_becomes_a_copy() -> None:
    world = started(F)
    a, b = world.devices
    act(world.users[0], [("edit", "f", "a")])
    act(world.users[1], [("edit", "f", "b")])
    uploading = b.sync()
    next(uploading)
    a.run()
    for _ in uploading:
        pass
    world.settle()
    world.check()
    assert world.tree() == {"f": "a", copy_of("f", "B"): "b"}


def test_21_an_edit_that_loses_on_a_copy_is_named_from_the_original() -> None:
    world = started(("write", copy_of("f", "A"), "old"))
    act(world.users[0], [("edit", copy_of("f", "A"), "a")])
    act(world.users[1], [("edit", copy_of("f", "A"), "b")])
    world.settle()
    assert world.tree() == {copy_of("f", "A"): "a", copy_of("f", "B"): "b"}


def test_16_a_copy_whose_name_is_taken_is_numbered() -> None:
    world = started(F, ("write", copy_of("f", "B"), "other"))
    act(world.users[0], [("edit", "f", "a")])
    act(world.users[1], [("edit", "f", "b")])
    world.settle()
    assert world.tree() == {"f": "a", copy_of("f", "B"): "other", copy_of("f", "B") + " 2": "b"}


def test_33_an_edit_in_a_folder_deleted_with_a_newer_content_brings_only_itself_back() -> None:
    world = started(*FOLDER)
    act(world.users[1], [("edit", "d/f", "b")])
    act(world.users[0], [("edit", "d/f", "a")])
    world.sync(world.devices[0])
    act(world.users[0], [("delete", "d")])
    world.settle()
    world.check()
    assert world.tree() == {"d": "/", "d/f": "b"}


@pytest.mark.parametrize("dies", [False, True])
def test_35_a_folder_whose_exchange_another_move_stops_gets_a_name_of_its_users(dies: bool) -> None:
    """The server refuses the last of the exchange, for its folder now lies in the one that waits."""
    world = started(("mkdir", "d"), ("mkdir", "e"), ("write", "e/f", "1"))
    first, second = world.devices
    act(world.users[0], [("rotate", "d", "e/f")])
    exchange = first.execute(first.plan())
    act(world.users[1], [("move", "e", "d/e")])
    world.sync(second)
    next(exchange)
    assert "000000000000000000000001.lockstep-moving" in world.tree()
    if not dies:
        for _ in exchange:
            pass
    world.settle()
    world.check()
    assert world.tree() == {"d": "1", "f": "/", "f/e": "/"}


def test_40_a_renamed_folder_is_one_change_and_no_upload() -> None:
    files = [("write", f"d/{n}", f"content {n}") for n in range(50)]
    world = started(("mkdir", "d"), *files)
    seq, uploads = world.server.seq, world.server.uploads
    act(world.users[0], [("move", "d", "e")])
    world.settle()
    assert (world.server.seq - seq, world.server.uploads - uploads) == (1, 0)
    assert len(world.tree()) == 51


def test_42_what_was_at_the_name_is_in_history() -> None:
    world = started(("write", "x", "1"), ("write", "y", "2"))
    act(world.users[0], [("move", "x", "y")])
    world.settle()
    assert "2" in {content for contents in world.server.versions.values() for content in contents}


def test_64_a_safe_save_keeps_node_and_history() -> None:
    world = started(F)
    node = world.server.by_path()["f"]
    world.users[0].safe_save("f")
    world.settle()
    after = world.server.by_path()["f"]
    assert after.id == node.id
    assert len(world.server.versions[node.id]) == 2
    assert after.version_id != node.version_id


def test_122_a_restored_folder_comes_back_with_its_ids() -> None:
    world = started(*FOLDER)
    before = {path: node.id for path, node in world.server.by_path().items()}
    act(world.users[0], [("delete", "d")])
    world.settle()
    world.server.restore(before["d"])
    world.settle()
    assert {path: node.id for path, node in world.server.by_path().items()} == before
    assert all(device.disk.entries["d/f"].content == "old" for device in world.devices)
