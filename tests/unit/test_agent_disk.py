"""The disk: nothing outside the root, nothing over anything, attributes kept, errors told apart."""

import errno
import hashlib
import os
import stat as modes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agent.disk import (
    BlockedError,
    Disk,
    DiskError,
    DiskFullError,
    MismatchError,
    NameImpossibleError,
    OccupiedError,
    Ready,
    RootKind,
    VanishedError,
    changes,
    native,
    rename,
)
from agent.disk.native import UnsupportedError
from agent.model import LocalEntry, LocalKind

LONG_AGO = 1_600_000_000_123_456_789
NODE, VERSION = "a" * 24, "b" * 24


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(root: Path) -> Disk:
    made = Disk(root)
    made.prepare()
    made.write_marker("root-1")
    return made


def downloaded(disk: Disk, content: bytes, *, executable: bool = False) -> Ready:
    with disk.new_temp(NODE, VERSION) as temp:
        os.truncate(temp.fd, 0)
        os.write(temp.fd, content)
    return Ready(temp.name, hashlib.sha256(content).hexdigest(), LONG_AGO, executable)


def known(disk: Disk, path: str) -> LocalEntry:
    entry = disk.look(path)
    assert entry is not None
    if entry.kind is not LocalKind.FILE:
        return entry
    stat, digest = disk.hash_file(path)
    return LocalEntry(path, entry.kind, stat, digest)


# Nothing outside the root ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "a\0b", "\ud800",
        ".lockstep", ".lockstep/root", ".LockStep/tmp/x", "a/.lockstep/x",
    ],
)  # fmt: skip
def test_a_path_that_leads_out_or_into_the_agents_own_folder_is_refused(disk: Disk, path: str) -> None:
    for refused in (disk.lstat, disk.hash_file, disk.make_folder, disk.read_link):
        with pytest.raises(NameImpossibleError) as caught:
            refused(path)
        assert caught.value.code == "path_refused"


def test_no_step_follows_a_link_in_the_middle_of_a_path(disk: Disk, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "way").symlink_to(outside)
    (root / "mine").write_text("mine")
    mine = known(disk, "mine")
    steps: list[Callable[[], object]] = [
        lambda: disk.hash_file("way/secret"),
        lambda: disk.make_folder("way/new"),
        lambda: disk.make_symlink("way/link", "x"),
        lambda: disk.move("mine", "way/mine", expect=mine),
        lambda: disk.install(downloaded(disk, b"x"), "way/secret", expect=None),
        lambda: disk.remove("way/secret", mine),
        lambda: disk.set_attributes("way/secret", mine, mtime_ns=0, executable=True),
    ]
    for step in steps:
        with pytest.raises(MismatchError):
            step()
    assert disk.lstat("way/secret") is None
    assert [p.name for p in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"


def test_a_link_at_the_end_of_a_path_is_never_read_through(disk: Disk, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(MismatchError):
        disk.hash_file("link")


def test_a_pipe_is_neither_waited_for_nor_read(disk: Disk, root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert disk.kind("pipe") is LocalKind.OTHER
    with pytest.raises(MismatchError):
        disk.hash_file("pipe")


@pytest.mark.parametrize(
    ("path", "target", "safe"),
    [
        ("a", "b", True), ("d/a", "../b", True), ("d/a", "..", True), ("a", ".", True), ("a", "b/../c", True),
        ("a", "../b", False), ("d/a", "../../b", False), ("d/a", "../../root/b", False), ("a", "/etc", False),
        ("a", "", False), ("a", "b\0", False), ("a", "x/../../root", False), ("a", ".lockstep/root", False),
    ],
)  # fmt: skip
def test_a_link_is_safe_when_its_text_stays_inside_the_root(
    disk: Disk, path: str, target: str, safe: bool
) -> None:
    assert disk.safe_symlink(path, target) is safe
    if not safe and path == "a":
        with pytest.raises(BlockedError):
            disk.make_symlink(path, target)


# The root itself ---------------------------------------------------------------------------------


def test_the_roots_state_tells_missing_emptied_and_foreign_apart(
    disk: Disk, root: Path, tmp_path: Path
) -> None:
    assert (disk.root_state().kind, disk.root_state().marker) == (RootKind.FOLDER, "root-1")
    assert disk.root_state().empty
    (root / "x").touch()
    assert not disk.root_state().empty
    (tmp_path / "plain").touch()
    (tmp_path / "bare").mkdir()
    assert Disk(tmp_path / "plain").root_state().kind is RootKind.NOT_A_FOLDER
    assert Disk(tmp_path / "nothing").root_state().kind is RootKind.MISSING
    assert (Disk(tmp_path / "bare").root_state().marker, Disk(tmp_path / "bare").root_state().empty) == (
        None,
        True,
    )


def test_a_root_that_cannot_be_listed_is_not_taken_for_missing(disk: Disk) -> None:
    with patch.object(os, "open", side_effect=PermissionError(errno.EACCES, "no")):
        assert disk.root_state().kind is RootKind.UNREADABLE


def test_nothing_is_written_when_another_folder_is_in_the_roots_place(disk: Disk, root: Path) -> None:
    root.rename(root.with_name("away"))
    with pytest.raises(BlockedError) as missing:
        disk.lstat("x")
    assert missing.value.code == "root_missing"
    root.mkdir()
    for step in (lambda: disk.make_folder("x"), lambda: disk.lstat("x")):
        with pytest.raises(BlockedError) as caught:
            step()
        assert caught.value.code == "root_changed"
    assert not list(root.iterdir())


def test_a_root_that_was_mounted_again_is_known_by_its_marker(disk: Disk, root: Path) -> None:
    root.rename(root.with_name("away"))
    root.mkdir()
    (root / ".lockstep").mkdir()
    (root / ".lockstep/root").write_text("root-1\n")
    disk.make_folder("x")
    assert (root / "x").is_dir()


def test_the_agents_own_folders_are_private(disk: Disk, root: Path) -> None:
    for name in (".lockstep", ".lockstep/tmp", ".lockstep/trash"):
        assert modes.S_IMODE((root / name).stat().st_mode) == 0o700


# Installing --------------------------------------------------------------------------------------


def test_a_new_file_gets_content_time_and_mode_of_the_server(disk: Disk, root: Path) -> None:
    entry = disk.install(downloaded(disk, b"new", executable=True), "f", expect=None)
    found = (root / "f").stat()
    assert (root / "f").read_bytes() == b"new"
    assert found.st_mtime_ns == entry.stat.mtime_ns == LONG_AGO
    assert found.st_mode & 0o100
    assert entry.content_hash == hashlib.sha256(b"new").hexdigest()
    assert disk.leftover_temps() == ()
    assert entry.stat == disk.lstat("f")


def test_nothing_is_installed_over_what_the_caller_did_not_expect(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"the user's")
    ready = downloaded(disk, b"new")
    with pytest.raises(OccupiedError):
        disk.install(ready, "f", expect=None)
    assert (root / "f").read_bytes() == b"the user's"
    assert [left.name for left in disk.leftover_temps()] == [ready.name]


def test_a_read_only_file_is_replaced_and_stays_read_only(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"old")
    (root / "f").chmod(0o440)
    disk.install(downloaded(disk, b"new"), "f", expect=known(disk, "f"))
    assert (root / "f").read_bytes() == b"new"
    assert modes.S_IMODE((root / "f").stat().st_mode) == 0o440


def test_the_executable_bit_follows_the_server_for_all_who_may_read(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"old")
    (root / "f").chmod(0o640)
    disk.install(downloaded(disk, b"new", executable=True), "f", expect=known(disk, "f"))
    assert modes.S_IMODE((root / "f").stat().st_mode) == 0o750
    disk.install(downloaded(disk, b"newer"), "f", expect=known(disk, "f"))
    assert modes.S_IMODE((root / "f").stat().st_mode) == 0o640


def test_a_file_replaces_the_very_link_that_was_expected(disk: Disk, root: Path) -> None:
    link = disk.make_symlink("l", "elsewhere")
    disk.install(downloaded(disk, b"new"), "l", expect=link)
    assert (root / "l").read_bytes() == b"new"
    assert not (root / "l").is_symlink()


def test_a_file_never_replaces_a_folder(disk: Disk, root: Path) -> None:
    folder = disk.make_folder("d")
    with pytest.raises(OccupiedError):
        disk.install(downloaded(disk, b"new"), "d", expect=folder)
    assert (root / "d").is_dir()


def test_a_partial_download_is_found_again(disk: Disk) -> None:
    with disk.new_temp(NODE, VERSION) as temp:
        os.write(temp.fd, b"first part")
    with disk.new_temp(NODE, VERSION) as temp:
        assert os.read(temp.fd, 100) == b"first part"


def test_a_partial_download_is_open_to_one_writer_at_a_time(disk: Disk) -> None:
    with disk.new_temp(NODE, VERSION), disk.new_temp(NODE, "c" * 24):
        with pytest.raises(BlockedError) as caught, disk.new_temp(NODE, VERSION):
            pytest.fail("opened twice")
        assert caught.value.code == "in_use"
    with pytest.raises(ZeroDivisionError), disk.new_temp(NODE, VERSION):
        raise ZeroDivisionError
    with disk.new_temp(NODE, VERSION):
        pass


def test_a_download_that_is_still_open_is_not_installed(disk: Disk, root: Path) -> None:
    ready = downloaded(disk, b"whole")
    with disk.new_temp(NODE, VERSION):
        with pytest.raises(BlockedError) as caught:
            disk.install(ready, "f", expect=None)
        assert caught.value.code == "in_use"
        assert [left.name for left in disk.leftover_temps()] == [ready.name]
    disk.install(ready, "f", expect=None)
    assert (root / "f").read_bytes() == b"whole"


def test_a_download_that_is_being_installed_is_not_opened(disk: Disk, root: Path) -> None:
    ready, real = downloaded(disk, b"whole"), rename.rename
    refused: list[str] = []

    def another_task_comes(*places: native.Place) -> None:
        with suppress(BlockedError), disk.new_temp(NODE, VERSION):
            pytest.fail("opened while it is installed")
        refused.append(ready.name)
        real(*places)

    with patch.object(changes, "rename", another_task_comes):
        disk.install(ready, "f", expect=None)
    assert refused
    assert (root / "f").read_bytes() == b"whole"
    with disk.new_temp(NODE, VERSION) as temp:
        assert os.fstat(temp.fd).st_size == 0


def _journaled(disk: Disk, content: bytes) -> Ready:
    ready = downloaded(disk, content)
    with disk.new_temp(NODE, VERSION) as temp, disk.new_journal(temp) as journal:
        os.write(journal, b"notes")
    return replace(ready, journal=True)


def test_the_journal_of_a_download_goes_when_that_has_its_place(disk: Disk, root: Path) -> None:
    ready = _journaled(disk, b"new")
    assert [left.name for left in disk.leftover_temps()] == [ready.name, f"{ready.name}.ranges"]
    assert [left.download for left in disk.leftover_temps()] == [None, ready.name]
    disk.install(ready, "f", expect=None)
    assert (root / "f").read_bytes() == b"new"
    assert disk.leftover_temps() == ()


def test_the_journal_of_a_download_that_is_not_taken_stays_with_it(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"the user's")
    ready = _journaled(disk, b"new")
    with pytest.raises(OccupiedError):
        disk.install(ready, "f", expect=None)
    assert [left.name for left in disk.leftover_temps()] == [ready.name, f"{ready.name}.ranges"]
    with disk.new_temp(NODE, VERSION) as temp, disk.new_journal(temp) as journal:
        assert os.pread(journal, 100, 0) == b"notes"


def test_a_gap_of_a_partial_download_is_not_taken_for_bytes(disk: Disk) -> None:
    with disk.new_temp(NODE, VERSION) as temp:
        os.pwrite(temp.fd, b"the end", 10_000_000)
    (left,) = disk.leftover_temps()
    assert left.stat.size == 10_000_007
    assert 0 < left.held < 1_000_000


@pytest.mark.parametrize("evil", ["../x", "a/b", "\0", "swap.1"])
def test_a_malformed_id_names_no_temporary_file(disk: Disk, evil: str) -> None:
    with pytest.raises(NameImpossibleError), disk.new_temp(evil, VERSION):
        pass


def test_two_edits_that_lose_in_one_instant_are_both_kept_under_numbered_names(
    disk: Disk, root: Path
) -> None:
    (root / "f.txt").write_bytes(b"old")
    expect = known(disk, "f.txt")
    (root / "f (copy).txt").write_bytes(b"an older copy")
    real = native.rename_exchange

    def user_is_faster(one: native.Place, other: native.Place) -> None:
        (root / "f.txt").write_bytes(b"edit before")
        real(one, other)
        (root / "f.txt").write_bytes(b"edit after")

    with patch.object(native, "rename_exchange", user_is_faster), pytest.raises(MismatchError):
        disk.install(downloaded(disk, b"new"), "f.txt", expect=expect, keep_name=lambda _: "f (copy).txt")
    assert {p.name: p.read_bytes() for p in root.iterdir() if p.is_file()} == {
        "f.txt": b"edit after",
        "f (copy).txt": b"an older copy",
        "f (copy) 2.txt": b"edit before",
    }


# Moving, removing, attributes --------------------------------------------------------------------


def test_a_move_never_replaces_anything(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    with pytest.raises(OccupiedError):
        disk.move("a", "b", expect=known(disk, "a"))
    with patch.object(native, "rename_noreplace", side_effect=UnsupportedError), pytest.raises(OccupiedError):
        disk.move("a", "b", expect=known(disk, "a"))
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"a", b"b")


def test_a_move_of_anything_keeps_the_hash_only_of_what_is_untouched(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"a")
    expect = known(disk, "a")
    moved = disk.move("a", "b", expect=expect)
    assert (moved.path, moved.content_hash, moved.stat) == ("b", expect.content_hash, disk.lstat("b"))
    (root / "b").write_bytes(b"edited")
    assert disk.move("b", "c", expect=moved).content_hash is None


def test_a_folder_cannot_go_into_itself(disk: Disk) -> None:
    disk.make_folder("a")
    with pytest.raises(MismatchError) as caught:
        disk.move("a", "a/b")
    assert caught.value.code == "cycle"


def test_something_else_at_the_source_is_not_moved(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"a")
    expect = known(disk, "a")
    (root / "new").write_bytes(b"new")
    (root / "new").rename(root / "a")
    with pytest.raises(MismatchError):
        disk.move("a", "b", expect=expect)
    assert (root / "a").read_bytes() == b"new"


def test_hard_links_that_differ_in_case_are_two_files(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"a")
    os.link(root / "a", root / "A")
    with pytest.raises(OccupiedError):
        disk.move("a", "A", expect=known(disk, "a"))
    assert {p.name for p in root.iterdir()} >= {"a", "A"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_rename_in_case_alone_works_on_a_disk_that_folds_case(disk: Disk, root: Path, kind: str) -> None:
    (root / "name").write_bytes(b"x") if kind == "file" else (root / "name").mkdir()
    real_stat, real_rename = os.stat, native.rename_noreplace

    def folding_stat(name: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        is_other = name == "NAME" and not os.path.lexists(root / "NAME")
        return real_stat("name" if is_other else name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def folding_rename(source: native.Place, target: native.Place) -> None:
        if (source.name, target.name) == ("name", "NAME"):
            raise FileExistsError(errno.EEXIST, "folded")
        real_rename(source, target)

    expect = known(disk, "name")
    with patch.object(os, "stat", folding_stat), patch.object(native, "rename_noreplace", folding_rename):
        disk.move("name", "NAME", expect=expect)
    assert [p.name for p in root.iterdir() if p.name != ".lockstep"] == ["NAME"]


@pytest.mark.parametrize("plain", [False, True])
def test_two_entries_change_places(disk: Disk, root: Path, plain: bool) -> None:
    (root / "a").write_bytes(b"a")
    disk.make_folder("d")
    (root / "d/f").write_bytes(b"f")
    one, other = known(disk, "a"), known(disk, "d")
    refuse = patch.object(native, "rename_exchange", side_effect=UnsupportedError)
    with refuse if plain else patch.object(os, "cpu_count"):
        now = disk.exchange("a", "d", expect_one=one, expect_other=other)
    assert (root / "d").read_bytes() == b"a"
    assert (root / "a/f").read_bytes() == b"f"
    assert [(e.path, e.kind) for e in now] == [("a", LocalKind.FOLDER), ("d", LocalKind.FILE)]


def test_what_is_removed_lies_in_the_trash_for_its_days(root: Path) -> None:
    disk = Disk(root, trash_days=30)
    disk.prepare()
    (root / "f").write_bytes(b"precious")
    disk.remove("f", known(disk, "f"))
    assert not (root / "f").exists()
    (thrown,) = (root / ".lockstep/trash").iterdir()
    assert (thrown / "f").read_bytes() == b"precious"
    day = 86_400
    assert disk.sweep_trash(thrown.stat().st_mtime + 29 * day) == 0
    (root / ".lockstep/trash/not ours").mkdir()
    assert disk.sweep_trash(thrown.stat().st_mtime + 31 * day) == 1
    assert [p.name for p in (root / ".lockstep/trash").iterdir()] == ["not ours"]


def test_a_folder_is_removed_only_when_it_is_empty(disk: Disk, root: Path) -> None:
    folder = disk.make_folder("d")
    (root / "d/f").touch()
    with pytest.raises(MismatchError) as caught:
        disk.remove("d", folder)
    assert caught.value.code == "not_empty"
    (root / "d/f").unlink()
    disk.remove("d", folder)
    assert not (root / "d").exists()


def test_nothing_is_removed_whose_content_is_not_known(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"x")
    entry = disk.look("f")
    assert entry is not None
    with pytest.raises(MismatchError):
        disk.remove("f", entry)
    assert (root / "f").read_bytes() == b"x"


def test_attributes_are_set_and_read_back(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"x")
    entry = disk.set_attributes("f", known(disk, "f"), mtime_ns=LONG_AGO, executable=True)
    assert (root / "f").stat().st_mtime_ns == LONG_AGO
    assert entry.stat.executable
    assert entry.stat == disk.lstat("f")


def test_a_link_is_made_replaced_and_removed_as_itself(disk: Disk, root: Path) -> None:
    link = disk.make_symlink("l", "x", mtime_ns=LONG_AGO)
    assert link.stat.mtime_ns == LONG_AGO
    assert link.stat == disk.lstat("l")
    changed = disk.replace_symlink("l", "y", expect=link)
    assert disk.read_link("l") == "y"
    with pytest.raises(MismatchError):
        disk.remove("l", link)
    disk.remove("l", changed)
    assert not (root / "l").is_symlink()


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, DiskFullError, "disk_full"),
        (errno.EDQUOT, DiskFullError, "disk_full"),
        (errno.EACCES, BlockedError, "permission_denied"),
        (errno.EROFS, BlockedError, "read_only"),
        (errno.EIO, BlockedError, "io_error"),
        (errno.ENAMETOOLONG, NameImpossibleError, "name_impossible"),
        (errno.EILSEQ, NameImpossibleError, "name_impossible"),
        (errno.ENOENT, VanishedError, "vanished"),
        (errno.EXDEV, BlockedError, "cross_device"),
    ],
)
def test_each_failure_of_the_system_has_its_code(
    disk: Disk, number: int, kind: type[DiskError], code: str
) -> None:
    with patch.object(os, "mkdir", side_effect=OSError(number, "x")), pytest.raises(kind) as caught:
        disk.make_folder("x")
    assert (caught.value.code, caught.value.path) == (code, "x")


def test_a_full_disk_at_installing_leaves_the_old_file_and_the_download(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"old")
    ready = downloaded(disk, b"new")
    with patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "full")), pytest.raises(DiskFullError):
        disk.install(ready, "f", expect=known(disk, "f"))
    assert (root / "f").read_bytes() == b"old"
    assert disk.hash_temp(ready.name)[1] == ready.content_hash


def test_a_download_that_could_not_replace_a_read_only_file_can_be_continued(disk: Disk, root: Path) -> None:
    """The mode of the file that it was to replace must not shut out the next try."""
    (root / "f").write_bytes(b"old")
    (root / "f").chmod(0o444)
    ready = downloaded(disk, b"new")
    with patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "full")), pytest.raises(DiskFullError):
        disk.install(ready, "f", expect=known(disk, "f"))
    (left,) = disk.leftover_temps()
    assert (left.name, left.stat.mode) == (ready.name, 0o600)


def test_an_error_when_looking_is_not_absence(disk: Disk, root: Path) -> None:
    (root / "f").touch()
    with patch.object(os, "stat", side_effect=OSError(errno.EIO, "x")), pytest.raises(BlockedError):
        disk.lstat("f")


def test_a_file_that_grows_while_it_is_read_has_no_hash(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"x" * 10)
    real = os.preadv

    def user_appends(fd: int, buffers: list[memoryview], offset: int) -> int:
        with (root / "f").open("ab") as file:
            file.write(b"y")
        return real(fd, buffers, offset)

    with patch.object(os, "preadv", user_appends), pytest.raises(MismatchError) as caught:
        disk.hash_file("f")
    assert caught.value.code == "changing"


def test_a_stopped_disk_ends_long_reads(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"x")
    disk.stop()
    with pytest.raises(BlockedError) as caught:
        disk.hash_file("f")
    assert caught.value.code == "stopping"


def test_what_a_crash_left_is_listed_and_can_be_rescued(disk: Disk, root: Path) -> None:
    (root / ".lockstep/tmp/swap.00").write_bytes(b"the user's only copy")
    (left,) = disk.leftover_temps()
    assert left.private
    (root / "taken").touch()
    with pytest.raises(OccupiedError):
        disk.rescue_temp(left.name, "taken")
    disk.rescue_temp(left.name, "rescued")
    assert (root / "rescued").read_bytes() == b"the user's only copy"


def test_an_open_file_is_still_itself_until_it_is_written_or_replaced(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"one")
    with disk.open_for_read("f") as opened:
        assert disk.still(opened, "f")
        (root / "g").write_bytes(b"two")
        (root / "g").rename(root / "f")
        assert not disk.still(opened, "f")


# Disks that hold less ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_that_keeps_no_modes_still_takes_files_and_times(disk: Disk, root: Path, number: int) -> None:
    with patch.object(os, "fchmod", side_effect=OSError(number, "no modes")):
        disk.prepare()
        ready = downloaded(disk, b"content", executable=True)
        entry = disk.install(ready, "f", expect=None)
        changed = disk.set_attributes("f", entry, mtime_ns=5 * 10**18, executable=False)
    assert not disk.keeps_modes
    assert (root / "f").read_bytes() == b"content"
    assert changed.stat.mtime_ns == (root / "f").stat().st_mtime_ns == 5 * 10**18


def test_a_disk_that_makes_changes_of_modes_without_an_effect_keeps_none(disk: Disk) -> None:
    assert disk.keeps_modes
    with patch.object(os, "fchmod"):
        disk.prepare()
    assert not disk.keeps_modes


def test_another_failure_to_set_a_mode_is_told(disk: Disk) -> None:
    ready = downloaded(disk, b"content")
    with patch.object(os, "fchmod", side_effect=OSError(errno.EIO, "broken")), pytest.raises(BlockedError):
        disk.install(ready, "f", expect=None)


def test_a_disk_without_symbolic_links_says_so(disk: Disk) -> None:
    refusal = patch.object(os, "symlink", side_effect=OSError(errno.EPERM, "no links"))
    with refusal, pytest.raises(NameImpossibleError) as caught:
        disk.make_symlink("l", "target")
    assert caught.value.code == "symlink_impossible"


def test_on_a_disk_that_folds_names_only_the_listed_spelling_stands_at_a_path(disk: Disk, root: Path) -> None:
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    (root / decomposed).write_text("x")
    (root / "f").write_text("x")
    real = os.stat

    def folding(path: Any, **options: Any) -> os.stat_result:
        return real({"F": "f", composed: decomposed}.get(path, path), **options)

    assert disk.stands("f")
    disk.folds_names = True
    with patch.object(os, "stat", folding):
        assert disk.look("F")
        assert disk.stands("F") is None
        assert disk.stands(composed)
        assert disk.stands("f")
    assert disk.stands("missing") is None
