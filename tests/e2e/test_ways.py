"""One scenario of each further group, to prove the way."""

import os
import shutil
import stat

from tests.support.devices import Account, Device, converge, copies, tree_of

Two = tuple[Device, Device]


def test_26_a_file_replaced_by_a_folder_keeps_the_others_edit_as_a_copy(two: Two) -> None:
    a, b = two
    a.write("thing", "file")
    converge(a, b)
    a.path("thing").unlink()
    a.write("thing/inside.txt", "in the folder")
    b.write("thing", "edited by B")
    converge(a, b)
    assert a.read("thing/inside.txt") == "in the folder"
    (copy,) = copies(a.names(), "thing")
    assert a.read(copy) == "edited by B"


def test_29_a_folder_replaced_by_a_link_to_outside_is_never_followed(two: Two, account: Account) -> None:
    a, b = two
    a.write("folder/file.txt", "inside")
    converge(a, b)
    outside = account.root / "outside"
    outside.mkdir()
    (outside / "file.txt").write_text("secret")
    shutil.rmtree(b.path("folder"))
    b.path("folder").symlink_to(outside)
    a.write("folder/file.txt", "edited")
    a.quick_sync()
    report = b.quick_sync(expect=5)
    assert {problem["code"] for problem in report["problems"]} & {"unsafe_symlink", "path_occupied"}
    assert (outside / "file.txt").read_text() == "secret"
    assert a.read("folder/file.txt") == "edited"


def test_31_a_renamed_folder_takes_the_others_new_file_with_it(two: Two) -> None:
    a, b = two
    a.write("old/one.txt", "one")
    converge(a, b)
    folder_id = a.ls()["old"]["id"]
    a.path("old").rename(a.path("new"))
    b.write("old/two.txt", "two")
    converge(a, b)
    assert a.names() == {"new", "new/one.txt", "new/two.txt"}
    assert a.ls()["new"]["id"] == folder_id


def test_32_33_a_deleted_folder_does_not_take_what_is_new_in_it(two: Two) -> None:
    a, b = two
    for name in ("edited.txt", "untouched.txt"):
        a.write(f"folder/{name}", "base")
    converge(a, b)
    shutil.rmtree(a.path("folder"))
    b.write("folder/edited.txt", "edited by B")
    b.write("folder/new.txt", "new by B")
    converge(a, b)
    assert a.names() == {"folder", "folder/edited.txt", "folder/new.txt"}
    assert a.read("folder/edited.txt") == "edited by B"


def test_34_two_folders_moved_into_each_other_make_no_cycle(two: Two) -> None:
    a, b = two
    for name in ("x", "y"):
        a.write(f"{name}/{name}.txt", name)
    converge(a, b)
    a.path("x").rename(a.path("y/x"))
    b.path("y").rename(b.path("x/y"))
    converge(a, b)
    files = {name.rpartition("/")[2] for name in a.names() if name.endswith(".txt")}
    assert files == {"x.txt", "y.txt"}


def test_35_two_names_swapped_move_no_bytes(two: Two) -> None:
    a, b = two
    a.write("one.txt", "first")
    a.write("two.txt", "second")
    converge(a, b)
    a.path("one.txt").rename(a.path("t"))
    a.path("two.txt").rename(a.path("one.txt"))
    a.path("t").rename(a.path("two.txt"))
    reports = [a.quick_sync(), b.quick_sync()]
    assert sum(r["uploaded_bytes"] + r["downloaded_bytes"] for r in reports) == 0
    assert (b.read("one.txt"), b.read("two.txt")) == ("second", "first")


def test_46_names_that_differ_in_case_are_two_files(two: Two) -> None:
    a, b = two
    a.write("a.txt", "small")
    a.write("A.txt", "large")
    converge(a, b)
    assert (b.read("a.txt"), b.read("A.txt")) == ("small", "large")


def test_49_50_52_strange_names_arrive_or_are_reported(two: Two) -> None:
    a, b = two
    names = [
        "CON",
        "aux.txt",
        "dot.",
        "space ",
        "co:lon",
        "back\\slash",
        "🎉",
        "\u202egpj.exe",
        "e\u0301.txt",
    ]
    for name in names:
        a.write(name, name)
    a.quick_sync()
    b.quick_sync()
    assert tree_of(a.folder) == tree_of(b.folder)
    a.path(os.fsdecode(b"bad-\xff")).write_bytes(b"not valid")
    report = a.quick_sync(expect=5)
    assert [problem["code"] for problem in report["problems"]] == ["invalid_name"]


def test_56_the_executable_bit_is_kept(two: Two) -> None:
    a, b = two
    a.write("run.sh", "#!/bin/sh\n").chmod(0o755)
    converge(a, b)
    assert b.path("run.sh").stat().st_mode & 0o100
    b.path("run.sh").chmod(0o644)
    converge(b, a)
    assert not a.path("run.sh").stat().st_mode & 0o100


def test_62_63_links_arrive_as_links_and_pipes_are_reported(two: Two) -> None:
    a, b = two
    a.write("target.txt", "content")
    a.path("good").symlink_to("target.txt")
    a.path("dangling").symlink_to("nowhere")
    a.path("loop").symlink_to("loop")
    os.mkfifo(a.path("pipe"))
    report = a.quick_sync(expect=5)
    assert [(p["path"], p["code"]) for p in report["problems"]] == [("pipe", "special_file")]
    b.quick_sync()
    assert {name: str(b.path(name).readlink()) for name in ("good", "dangling", "loop")} == {
        "good": "target.txt",
        "dangling": "nowhere",
        "loop": "loop",
    }
    assert stat.S_ISFIFO(a.path("pipe").lstat().st_mode)


def test_64_an_editors_safe_save_keeps_one_node_with_its_history(two: Two) -> None:
    a, b = two
    a.write("doc.txt", "one")
    converge(a, b)
    node = a.ls()["doc.txt"]["id"]
    a.write("doc.txt.new", "two")
    a.path("doc.txt.new").rename(a.path("doc.txt"))
    converge(a, b)
    assert a.ls()["doc.txt"]["id"] == node
    assert len(a.run("versions", "doc.txt")["items"]) == 2
    assert b.read("doc.txt") == "two"


def test_105_a_mass_deletion_is_held_explained_and_passed_once(two: Two) -> None:
    a, b = two
    for number in range(130):
        a.write(f"many/{number}.txt", str(number))
    a.write("keep.txt", "keep")
    converge(a, b)
    shutil.rmtree(a.path("many"))
    report = a.quick_sync(expect=3)
    assert report["halted"]
    b.quick_sync()
    assert len(b.names()) == 132
    a.quick_sync(allow_mass_delete=True)
    b.quick_sync(expect=3)
    b.quick_sync(allow_mass_delete=True)
    assert b.names() == {"keep.txt"}


def test_106_a_missing_or_emptied_root_halts_without_deleting(two: Two) -> None:
    a, b = two
    for number in range(3):
        a.write(f"{number}.txt", str(number))
    converge(a, b)
    a.folder.rename(a.folder.with_name("elsewhere"))
    assert a.quick_sync(expect=3)["halted"]
    a.folder.mkdir()
    assert a.quick_sync(expect=3)["halted"]
    b.quick_sync()
    assert len(b.names()) == 3
    a.folder.rmdir()
    a.folder.with_name("elsewhere").rename(a.folder)
    converge(a, b)


def test_110_a_lost_state_is_rebuilt_without_copies_or_deletions(two: Two) -> None:
    a, b = two
    for number in range(5):
        a.write(f"d/{number}.txt", str(number))
    converge(a, b)
    for path in a.home.glob("state.db*"):
        path.unlink()
    report = a.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"], report["conflicts"]) == (0, 0, 0)
    assert a.names() == b.names()


def test_111_112_an_ignore_rule_deletes_nothing_and_can_be_taken_back(two: Two) -> None:
    a, b = two
    a.write("build/out.o", "object")
    a.write("src.c", "code")
    converge(a, b)
    a.write(".lockstepignore", "build/\n")
    a.quick_sync()
    a.write("build/out.o", "rebuilt")
    a.quick_sync()
    b.quick_sync()
    assert b.read("build/out.o") == "object"
    assert a.read("build/out.o") == "rebuilt"
    a.write(".lockstepignore", "")
    converge(a, b)
    assert b.read("build/out.o") == "rebuilt"


def test_121_122_versions_and_the_trash_give_back_what_was(two: Two) -> None:
    a, b = two
    a.write("doc.txt", "one")
    converge(a, b)
    a.write("doc.txt", "two")
    converge(a, b)
    first = a.run("versions", "doc.txt")["items"][-1]["id"]
    a.run("restore", "doc.txt", "--version", first)
    converge(a, b)
    assert b.read("doc.txt") == "one"
    node = a.ls()["doc.txt"]["id"]
    a.path("doc.txt").unlink()
    converge(a, b)
    a.run("trash", "restore", "doc.txt")
    converge(a, b)
    assert b.read("doc.txt") == "one"
    assert a.ls()["doc.txt"]["id"] == node


def test_130_a_revoked_device_is_refused_and_keeps_its_files(two: Two) -> None:
    a, b = two
    a.write("file.txt", "content")
    converge(a, b)
    ids = {device["name"]: device["id"] for device in a.run("devices")["items"]}
    a.run("devices", "revoke", ids["B"])
    b.write("more.txt", "late")
    b.quick_sync(expect=4)
    assert b.names() == {"file.txt", "more.txt"}
    a.quick_sync()
    assert a.names() == {"file.txt"}


def test_89_a_second_agent_on_one_state_is_refused(two: Two) -> None:
    a, _ = two
    with a.started():
        error = a.run("sync", str(a.folder), expect=1)
    assert error["code"] == "already_running"
