"""Scenarios "Folders and moves" and "Selection" where more than the tree counts: ids, bytes, changes."""

import random
import shutil
from pathlib import Path

import pytest

from tests.support.devices import Device, copies, hash_of
from tests.support.settling import changes_since, feed, head, settle, share, versions

Two = tuple[Device, Device]
Three = tuple[Device, Device, Device]
MANY = 200


def ids(device: Device) -> dict[str, str]:
    """Live nodes of the top folder by name."""
    return {row["name"]: row["id"] for row in feed(device) if not row["deleted"]}


# Moves --------------------------------------------------------------------------------------------


def test_40_a_renamed_folder_of_many_files_is_one_change_in_the_feed(two: Two) -> None:
    """200 files here, for 10,000 in the scenario: no row but the folder's, no byte, one move each side."""
    a, b = two
    for number in range(MANY):
        a.write(f"big/{number % 7}/{number}.txt", f"content {number}")
    share(a, b)
    at, before = head(a), ids(a)
    a.path("big").rename(a.path("renamed"))
    reports = [a.quick_sync(), b.quick_sync()]
    assert [row["id"] for row in changes_since(a, at)] == [before["big"]]
    assert [(r["moved"], r["uploaded_bytes"], r["downloaded_bytes"]) for r in reports] == [(1, 0, 0)] * 2
    assert all(report["api_bytes"] < 20_000 for report in reports)
    settle(a, b)


def test_40_a_renamed_folder_in_which_one_file_was_edited_sends_that_file_alone(two: Two) -> None:
    a, b = two
    for number in range(40):
        a.write(f"big/{number}.txt", f"content {number}")
    share(a, b)
    a.path("big").rename(a.path("renamed"))
    a.write("renamed/7.txt", "edited")
    assert a.quick_sync()["uploaded_files"] == 1
    assert b.quick_sync()["downloaded_files"] == 1
    settle(a, b)


def test_39_a_folder_moved_up_keeps_every_id_and_is_one_change(two: Two) -> None:
    a, b = two
    a.write("top/middle/low/file.txt", "content")
    share(a, b)
    at, before = head(a), ids(a)
    a.path("top/middle/low").rename(a.path("low"))
    settle(a, b)
    assert ids(a) == before
    assert [row["name"] for row in changes_since(a, at)] == ["low"]


def test_42_what_was_at_the_name_moved_onto_can_be_had_back(two: Two) -> None:
    a, b = two
    a.write("x.txt", "moved")
    a.write("y.txt", "was there")
    share(a, b)
    before = ids(a)
    a.path("x.txt").rename(a.path("y.txt"))
    settle(a, b)
    assert ids(a) == {"y.txt": before["x.txt"]}
    assert [(item["path"], item["id"]) for item in a.ask("trash")["items"]] == [("y.txt", before["y.txt"])]
    a.ask("trash", "restore", "y.txt")
    settle(a, b)
    assert {a.read(name) for name in a.names()} == {"moved", "was there"}


def test_34_45_moves_into_each_other_keep_every_id(three: Three) -> None:
    """The cycle that Dropbox found: Archives, Drafts and January, each moved into the next by another."""
    a, b, c = three
    for name in ("Archives", "Drafts", "January"):
        a.write(f"{name}/{name}.txt", name)
    share(*three)
    before = ids(a)
    a.path("Drafts").rename(a.path("Archives/Drafts"))
    b.path("January").rename(b.path("Drafts/January"))
    c.path("Archives").rename(c.path("January/Archives"))
    settle(c, a, b)
    assert ids(a) == before


def test_31_33_an_edit_in_a_folder_moved_there_is_a_version_of_the_same_file(two: Two) -> None:
    a, b = two
    a.write("old/deep/file.txt", "one")
    share(a, b)
    before = ids(a)
    a.path("old").rename(a.path("new"))
    b.write("old/deep/file.txt", "two")
    settle(b, a)
    renamed = {("new" if name == "old" else name): node_id for name, node_id in before.items()}
    assert ids(a) == renamed
    assert len(versions(a, before["file.txt"])) == 2


def test_33_what_survives_a_deleted_folder_keeps_its_id_and_history(two: Two) -> None:
    a, b = two
    for name in ("edited.txt", "other.txt"):
        a.write(f"folder/{name}", "one")
    share(a, b)
    before = ids(a)
    shutil.rmtree(a.path("folder"))
    b.write("folder/edited.txt", "two")
    settle(a, b)
    assert ids(a)["edited.txt"] == before["edited.txt"]
    assert len(versions(a, before["edited.txt"])) == 2
    assert b.names() == {"folder", "folder/edited.txt"}


def test_a_copied_folder_sends_no_bytes_and_its_files_are_files_of_their_own(two: Two) -> None:
    a, b = two
    for number in range(10):
        a.write(f"one/{number}.txt", f"content {number}")
    share(a, b)
    shutil.copytree(a.path("one"), a.path("two"))
    assert a.quick_sync()["uploaded_bytes"] == 0
    settle(a, b)
    a.write("two/3.txt", "edited copy")
    settle(a, b)
    assert b.read("one/3.txt") == "content 3"


def test_a_device_long_away_and_two_that_went_on_end_with_one_tree(three: Three) -> None:
    """A and B change everything for rounds; C changes its old tree meanwhile, then all meet."""
    a, b, c = three
    rng = random.Random(45)
    for number in range(30):
        a.write(f"d{number % 3}/{number}.txt", f"base {number}")
    share(*three)
    for turn in range(3):
        for device in (a, b):
            for step in range(5):
                change(device, rng, f"{device.name} {turn} {step}")
        settle(a, b)
    for step in range(12):
        change(c, rng, f"C {step}")
    settle(c, a, b)


def change(device: Device, rng: random.Random, text: str) -> None:
    """One step of a user: edit, make, move, delete a file; rename a folder."""
    files = sorted(p for p in device.folder.rglob("*.txt") if ".lockstep" not in p.parts)
    folders = sorted(p for p in device.folder.iterdir() if p.is_dir() and p.name != ".lockstep")
    victim = rng.choice(files)
    step = rng.randrange(6)
    if step in {0, 1, 4}:  # what its own writer replaces or removes unseen is gone
        device.written.pop(hash_of(victim.read_bytes()), None)
    match step:
        case 0 | 1:
            device.write(str(victim.relative_to(device.folder)), text)
        case 2:
            device.write(f"{rng.choice(folders).name}/{text}.txt", f"new {text}")
        case 3:
            victim.rename(rng.choice(folders) / f"moved {text}.txt")
        case 4:
            victim.unlink()
        case _:
            folder = rng.choice(folders)
            folder.rename(folder.with_name(f"folder {text}"))


# Selection ----------------------------------------------------------------------------------------


def test_111_what_is_done_to_ignored_files_on_either_side_stays_on_that_side(two: Two) -> None:
    a, b = two
    for name in ("edited", "removed here", "removed there", "folder/inside"):
        a.write(f"build/{name}", name)
    a.write("src.c", "code")
    share(a, b)
    a.write(".lockstepignore", "build/\n")
    a.quick_sync()
    a.write("build/edited", "edited by A")
    a.path("build/removed here").unlink()
    a.write("build/new", "new by A")
    b.path("build/removed there").unlink()
    for device in (a, b, a, b):
        device.quick_sync(expect=None)
    assert {"build/edited", "build/removed here", "build/folder/inside"} <= b.names()
    assert b.read("build/edited") == "edited"
    assert a.read("build/edited") == "edited by A"
    assert a.path("build/removed there").exists()
    assert not b.path("build/new").exists()
    live = {row["name"] for row in feed(a) if not row["deleted"]}
    assert {"edited", "removed here", "inside"} <= live, "only B, which had no rule yet, deleted something"


def test_112_without_the_rule_what_was_done_meanwhile_is_carried_out(two: Two) -> None:
    a, b = two
    a.write("build/edited", "one")
    a.write("build/removed", "gone in the end")
    a.write("build/stays", "stays")
    share(a, b)
    a.write(".lockstepignore", "build/\n")
    settle(a, b)
    a.write("build/edited", "two")
    a.path("build/removed").unlink()
    b.write("build/new by B", "new")
    for device in (a, b):
        device.quick_sync()
    a.write(".lockstepignore", "\n")
    settle(a, b)
    assert b.names() == {".lockstepignore", "build", "build/edited", "build/stays", "build/new by B"}
    assert b.read("build/edited") == "two"


def test_111_a_folder_with_ignored_files_in_it_can_be_moved_and_keeps_them(two: Two) -> None:
    a, b = two
    a.write(".lockstepignore", "*.o\n")
    a.write("src/main.c", "code")
    share(a, b)
    for device in two:
        device.write("src/main.o", f"object of {device.name}")
    a.path("src").rename(a.path("lib"))
    a.quick_sync()
    b.quick_sync()
    assert b.read("lib/main.o") == "object of B"
    assert a.read("lib/main.o") == "object of A"
    assert len(feed(a)) == 3


def test_111_a_folder_deleted_there_with_ignored_files_in_it_here_keeps_them(two: Two) -> None:
    a, b = two
    a.write(".lockstepignore", "*.o\n")
    a.write("src/main.c", "code")
    share(a, b)
    b.write("src/main.o", "object of B")
    shutil.rmtree(a.path("src"))
    a.quick_sync()
    b.quick_sync(expect=None)
    assert b.read("src/main.o") == "object of B"
    assert not b.path("src/main.c").exists()
    assert a.names() == {".lockstepignore"}


def test_111_two_rule_files_that_differ_are_a_conflict_like_any_other(two: Two) -> None:
    a, b = two
    a.write("keep.log", "log")
    share(a, b)
    a.write(".lockstepignore", "*.log\n")
    b.write(".lockstepignore", "*.tmp\n")
    for device in (a, b, a, b):
        device.quick_sync()
    assert a.names() == b.names()
    assert b.read(".lockstepignore") == "*.log\n"
    assert len(copies(a.names(), ".lockstepignore")) == 1
    assert b.read("keep.log") == "log"


@pytest.mark.parametrize("name", [".~lock.doc.odt#", "doc.txt~", ".doc.txt.swp", "~$doc.docx", ".DS_Store"])
def test_temporary_files_of_programs_stay_on_their_device(two: Two, name: str) -> None:
    a, b = two
    a.write(f"folder/{name}", "temporary")
    a.write("folder/doc.txt", "document")
    a.quick_sync()
    b.quick_sync()
    assert b.names() == {"folder", "folder/doc.txt"}
    shutil.rmtree(a.path("folder"))
    a.written.clear()
    settle(a, b)
    assert b.names() == set()


def test_the_agents_own_folder_is_never_synced_at_any_depth(two: Two) -> None:
    a, b = two
    a.write("backup/.lockstep/root", "a marker of another folder")
    a.write("backup/file.txt", "content")
    a.quick_sync(expect=None)
    b.quick_sync(expect=None)
    assert b.names() == {"backup", "backup/file.txt"}
    assert Path(a.path("backup/.lockstep/root")).read_text() == "a marker of another folder"
