"""Scenarios "Metadata and special files": modes, times, holes, links, and what is no file at all."""

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from tests.support.devices import Account, Device, copies, hash_of, tree_of
from tests.support.plain_user import plain_user
from tests.support.settling import feed, head, settle, share, versions

MIB = 1024 * 1024
Two = tuple[Device, Device]
YEAR = 365 * 86400 * 10**9


# Modes --------------------------------------------------------------------------------------------


def test_56_an_executable_bit_here_and_an_edit_there_are_both_kept(two: Two) -> None:
    a, b = two
    a.write("run.sh", "one")
    share(a, b)
    a.path("run.sh").chmod(0o755)
    b.write("run.sh", "two")
    settle(a, b)
    assert (a.read("run.sh"), a.path("run.sh").stat().st_mode & 0o100) == ("two", 0o100)
    assert len(versions(a, feed(a)[0]["id"])) == 2


def test_56_a_bit_that_arrives_after_an_edit_or_a_new_time_is_kept_too(two: Two) -> None:
    """What B sent first is content and time; what A changed meanwhile is the bit alone."""
    a, b = two
    for name in ("edited", "touched"):
        a.write(name, "one")
    share(a, b)
    a.path("edited").chmod(0o755)
    a.path("touched").chmod(0o755)
    b.write("edited", "two")
    os.utime(b.path("touched"), ns=(10**18, 10**18))
    settle(b, a)
    for device in two:
        assert device.read("edited") == "two"
        assert device.path("touched").stat().st_mtime_ns == 10**18
        assert all(device.path(name).stat().st_mode & 0o100 for name in ("edited", "touched"))


def test_56_the_bit_set_by_both_and_the_bit_against_a_rename_are_no_conflict(two: Two) -> None:
    a, b = two
    for name in ("both", "renamed"):
        a.write(name, name)
    share(a, b)
    for device in two:
        device.path("both").chmod(0o755)
    a.path("renamed").chmod(0o755)
    b.path("renamed").rename(b.path("new name"))
    settle(b, a)
    assert a.names() == {"both", "new name"}
    assert all(a.path(name).stat().st_mode & 0o100 for name in a.names())


def test_56_set_here_and_removed_there_the_first_to_arrive_counts(two: Two) -> None:
    """The bit is one: what A says arrives first, and B, who changed nothing in the end, follows."""
    a, b = two
    a.write("run.sh", "one").chmod(0o755)
    share(a, b)
    a.path("run.sh").chmod(0o644)
    b.path("run.sh").chmod(0o700)
    settle(a, b)
    assert len(a.names()) == 1
    assert not b.path("run.sh").stat().st_mode & 0o100


def test_other_bits_of_the_mode_stay_this_devices_own(two: Two) -> None:
    """Group and others are no business of another device: neither sent nor reset by an edit there."""
    a, b = two
    a.write("shared.txt", "one")
    share(a, b)
    b.path("shared.txt").chmod(0o664)
    at = head(a)
    settle(b, a)
    assert head(a) == at
    a.write("shared.txt", "two")
    settle(a, b)
    assert stat.S_IMODE(b.path("shared.txt").stat().st_mode) == 0o664


def test_57_what_cannot_be_read_is_reported_and_not_seen_as_deleted(two: Two) -> None:
    a, b = two
    a.write("secret.txt", "secret")
    a.write("closed/inside.txt", "inside")
    a.write("open.txt", "open")
    share(a, b)
    with plain_user(a):
        a.path("secret.txt").chmod(0)
        a.path("closed").chmod(0)
        a.write("open.txt", "edited")
        report = a.quick_sync(expect=5)
        assert {problem["code"] for problem in report["problems"]} == {"permission_denied"}
        a.path("secret.txt").chmod(0o600)
        a.path("closed").chmod(0o700)
    b.quick_sync()
    assert b.names() == {"secret.txt", "closed", "closed/inside.txt", "open.txt"}
    assert b.read("open.txt") == "edited"
    settle(a, b)


def test_57_an_unreadable_file_that_is_edited_there_is_not_touched_here(two: Two) -> None:
    a, b = two
    a.write("secret.txt", "secret")
    share(a, b)
    b.write("secret.txt", "by B")
    b.quick_sync()
    with plain_user(a):
        a.path("secret.txt").write_text("by A, unreadable")
        a.path("secret.txt").chmod(0)
        a.quick_sync(expect=5)
        a.path("secret.txt").chmod(0o600)
        assert a.read("secret.txt") == "by A, unreadable"
        a.write("secret.txt", "by A, unreadable")
    settle(a, b)
    assert {a.read(name) for name in a.names()} == {"by A, unreadable", "by B"}


def test_58_a_read_only_file_is_replaced_by_a_newer_one_and_stays_read_only(two: Two) -> None:
    a, b = two
    a.write("file.txt", "one")
    share(a, b)
    with plain_user(b):
        b.path("file.txt").chmod(0o444)
        b.quick_sync()
    a.write("file.txt", "two")
    a.quick_sync()
    with plain_user(b):
        b.quick_sync()
        assert b.read("file.txt") == "two"
        assert stat.S_IMODE(b.path("file.txt").stat().st_mode) == 0o444
        b.path("file.txt").chmod(0o644)
    settle(a, b)


def test_58_in_a_read_only_folder_the_newer_file_is_reported_and_arrives_later(two: Two) -> None:
    """Mode 0444 in a folder of mode 0555: nothing can be replaced, added or removed in it."""
    a, b = two
    for name in ("edited.txt", "deleted.txt", "moved.txt"):
        a.write(f"folder/{name}", "one")
    share(a, b)
    a.write("folder/edited.txt", "two")
    a.write("folder/new.txt", "new")
    a.path("folder/deleted.txt").unlink()
    a.path("folder/moved.txt").rename(a.path("moved.txt"))
    a.write("other.txt", "arrives")
    a.quick_sync()
    with plain_user(b):
        for path in b.path("folder").iterdir():
            path.chmod(0o444)
        b.path("folder").chmod(0o555)
        before = tree_of(b.path("folder"))
        report = b.quick_sync(expect=5)
        codes = {problem["path"]: problem["code"] for problem in report["problems"]}
        assert codes["folder/edited.txt"] == codes["folder/new.txt"] == "permission_denied"
        assert set(codes.values()) <= {"permission_denied", "path_occupied"}
        assert tree_of(b.path("folder")) == before
        assert b.read("other.txt") == "arrives"
        b.path("folder").chmod(0o755)
        b.quick_sync()
    settle(a, b)
    assert b.names() == {"folder", "folder/edited.txt", "folder/new.txt", "moved.txt", "other.txt"}


# Times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [0, 1, -1, -500_000_000, -300 * YEAR // 10, 250 * YEAR, 10**9 - 1, 2**63 - 1],
    ids=["1970", "1 ns", "-1 ns", "-0.5 s", "1940", "2219", "below 1 s", "2262"],
)
def test_10_times_of_every_kind_are_kept_to_the_nanosecond(two: Two, moment: int) -> None:
    a, b = two
    a.write("file.txt", "content")
    os.utime(a.path("file.txt"), ns=(moment, moment))
    kept = a.path("file.txt").stat().st_mtime_ns
    share(a, b)
    assert b.path("file.txt").stat().st_mtime_ns == kept
    a.write("file.txt", "edited")
    os.utime(a.path("file.txt"), ns=(moment, moment))
    settle(a, b)
    assert b.read("file.txt") == "edited"


def test_a_time_that_lies_does_not_decide_who_wins(two: Two) -> None:
    a, b = two
    a.write("file.txt", "base")
    share(a, b)
    a.write("file.txt", "by A")
    os.utime(a.path("file.txt"), (1, 1))
    b.write("file.txt", "by B")
    os.utime(b.path("file.txt"), (2**33, 2**33))
    settle(a, b)
    assert b.read("file.txt") == "by A"
    assert len(copies(b.names(), "file.txt")) == 1


def test_an_edit_that_keeps_size_and_time_is_found(two: Two) -> None:
    a, b = two
    a.write("file.txt", "one")
    share(a, b)
    moment = a.path("file.txt").stat().st_mtime_ns
    a.write("file.txt", "two")
    os.utime(a.path("file.txt"), ns=(moment, moment))
    settle(a, b)
    assert b.read("file.txt") == "two"


def test_10_two_times_for_one_file_are_no_conflict(two: Two) -> None:
    a, b = two
    a.write("file.txt", "same")
    share(a, b)
    os.utime(a.path("file.txt"), ns=(10**18, 10**18))
    os.utime(b.path("file.txt"), ns=(2 * 10**17, 2 * 10**17))
    settle(a, b)
    assert a.names() == {"file.txt"}
    assert a.path("file.txt").stat().st_mtime_ns == b.path("file.txt").stat().st_mtime_ns == 10**18


# Content ------------------------------------------------------------------------------------------


def test_60_a_file_with_holes_arrives_with_equal_content(two: Two) -> None:
    """Holes at the start, in the middle and at the end; beyond the size of one part."""
    a, b = two
    with a.path("sparse.bin").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"middle")
        file.seek(12 * MIB)
        file.write(b"later")
        file.truncate(14 * MIB + 7)
    content = a.path("sparse.bin").read_bytes()
    a.written[hash_of(content)] = "sparse.bin"
    share(a, b)
    assert b.path("sparse.bin").read_bytes() == content


def test_two_hard_links_are_two_files_and_an_edit_through_one_is_an_edit_of_both(two: Two) -> None:
    a, b = two
    a.write("one.txt", "first")
    a.path("two.txt").hardlink_to(a.path("one.txt"))
    share(a, b)
    assert (b.read("one.txt"), b.read("two.txt")) == ("first", "first")
    a.write("one.txt", "second, through one")
    settle(a, b)
    assert b.read("two.txt") == "second, through one"
    b.write("two.txt", "third, by B")
    settle(b, a)
    assert a.read("two.txt") == "third, by B"
    assert a.read("one.txt") == "second, through one"


def test_hard_links_can_be_renamed_and_removed_one_by_one(two: Two) -> None:
    a, b = two
    a.write("one.txt", "content")
    for name in ("two.txt", "three.txt"):
        a.path(name).hardlink_to(a.path("one.txt"))
    share(a, b)
    a.path("one.txt").rename(a.path("renamed.txt"))
    a.path("two.txt").unlink()
    settle(a, b)
    assert b.names() == {"renamed.txt", "three.txt"}
    a.path("one.txt").hardlink_to(a.path("three.txt"))
    settle(a, b)
    b.path("three.txt").unlink()
    settle(b, a)
    assert a.names() == {"renamed.txt", "one.txt"}


# Links --------------------------------------------------------------------------------------------


def test_62_links_change_their_target_their_name_and_their_kind(two: Two) -> None:
    a, b = two
    for name in ("retargeted", "renamed", "to file", "to folder"):
        a.path(name).symlink_to("somewhere")
    a.write("was a file", "content")
    a.write("was a folder/inside", "inside")
    share(a, b)
    a.path("retargeted").unlink()
    a.path("retargeted").symlink_to("elsewhere")
    a.path("renamed").rename(a.path("new name"))
    for name in ("to file", "to folder", "was a file"):
        a.path(name).unlink()
    shutil.rmtree(a.path("was a folder"))
    a.write("to file", "a file now")
    a.write("to folder/inside", "a folder now")
    a.path("was a file").symlink_to("to file")
    a.path("was a folder").symlink_to("to folder")
    settle(a, b)
    assert str(b.path("retargeted").readlink()) == "elsewhere"
    assert b.read("was a file") == "a file now"
    assert b.read("was a folder/inside") == "a folder now"


def test_62_what_a_link_leads_to_is_not_sent_twice_and_not_changed_through_it(two: Two) -> None:
    a, b = two
    a.write("real/file.txt", "one")
    a.path("way").symlink_to("real")
    a.path("real/up").symlink_to("..")
    share(a, b)
    assert len(feed(a)) == 4
    b.write("way/file.txt", "two")
    settle(b, a)
    assert a.read("real/file.txt") == "two"
    assert str(a.path("way").readlink()) == "real"


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside.txt", "folder/../../outside.txt"])
def test_29_a_link_to_outside_is_reported_and_nothing_is_read_or_sent_through_it(
    two: Two, account: Account, target: str
) -> None:
    a, b = two
    (account.root / "outside.txt").write_text("secret")
    a.path("link").symlink_to(target)
    a.write("file.txt", "content")
    report = a.quick_sync(expect=5)
    assert [(p["path"], p["code"]) for p in report["problems"]] == [("link", "unsafe_symlink")]
    b.quick_sync()
    assert b.names() == {"file.txt"}


def test_28_a_file_replaced_by_a_link_to_outside_keeps_the_others_edit_out(
    two: Two, account: Account
) -> None:
    """B's edit must not be written through the link."""
    a, b = two
    a.write("file.txt", "base")
    share(a, b)
    outside = account.root / "outside.txt"
    outside.write_text("secret")
    a.path("file.txt").unlink()
    a.path("file.txt").symlink_to(outside)
    b.write("file.txt", "by B")
    b.quick_sync()
    a.quick_sync(expect=5)
    assert outside.read_text() == "secret"
    assert a.path("file.txt").is_symlink()
    a.path("file.txt").unlink()
    settle(b, a)
    assert a.read("file.txt") == "by B"


# What is no file ------------------------------------------------------------------------------------


def test_63_pipes_sockets_and_devices_are_reported_and_nothing_waits_for_them(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    os.mkfifo(a.path("pipe"))
    monkeypatch.chdir(a.folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        expected = {"pipe", "socket"}
        if os.geteuid() == 0:
            os.mknod(a.path("device"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
            expected.add("device")
        a.write("file.txt", "arrives")
        report = a.quick_sync(expect=5)
    assert {(p["path"], p["code"]) for p in report["problems"]} == {(n, "special_file") for n in expected}
    b.quick_sync()
    assert b.names() == {"file.txt"}


def test_63_a_pipe_in_the_place_of_a_synced_file_keeps_both_sides_as_they_are(two: Two) -> None:
    """Replaced by a pipe: that is no deletion. When the pipe goes, the edit from there arrives."""
    a, b = two
    a.write("file.txt", "base")
    share(a, b)
    a.path("file.txt").unlink()
    os.mkfifo(a.path("file.txt"))
    assert a.quick_sync(expect=5)["problems"]
    b.write("file.txt", "by B")
    b.quick_sync()
    assert a.quick_sync(expect=5)["problems"]
    assert Path(a.path("file.txt")).is_fifo()
    assert b.read("file.txt") == "by B"
    a.path("file.txt").unlink()
    settle(a, b)
    assert a.read("file.txt") == "by B"


def test_63_a_folder_deleted_there_with_a_pipe_in_it_here_stays_for_the_pipe(two: Two) -> None:
    a, b = two
    a.write("folder/file.txt", "base")
    share(a, b)
    os.mkfifo(a.path("folder/pipe"))
    shutil.rmtree(b.path("folder"))
    b.quick_sync()
    report = a.quick_sync(expect=5)
    assert {problem["path"] for problem in report["problems"]} == {"folder", "folder/pipe"}
    assert a.names() == {"folder", "folder/pipe"}
    a.path("folder/pipe").unlink()
    settle(a, b)
    assert a.names() == set()
