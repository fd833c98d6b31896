"""Scenarios "Basic", less 6, 7 and 9."""

import os

import pytest

from tests.support.devices import Device, converge, tree_of
from tests.support.waiting import wait_until

MIB = 1024 * 1024
Two = tuple[Device, Device]


def same(a: Device, b: Device) -> bool:
    return tree_of(a.folder) == tree_of(b.folder)


def test_1_changes_on_a_running_device_reach_the_other(two: Two) -> None:
    a, b = two
    with a.started(), b.started():
        a.write("notes/hello.txt", "one")
        wait_until(lambda: same(a, b), 20, "the new file is on B")
        a.write("notes/hello.txt", "two, and longer")
        wait_until(lambda: same(a, b), 20, "the edit is on B")
        a.path("notes/hello.txt").rename(a.path("notes/renamed.txt"))
        wait_until(lambda: same(a, b), 20, "the rename is on B")
        b.write("from-b.txt", "back")
        wait_until(lambda: same(a, b), 20, "B's file is on A")
        a.path("notes/renamed.txt").unlink()
        wait_until(lambda: same(a, b), 20, "the deletion is on B")
    assert b.names() == {"notes", "from-b.txt"}


def test_2_a_device_that_was_off_catches_up(two: Two) -> None:
    a, b = two
    for name in ("keep.txt", "edit.txt", "move.txt", "delete.txt"):
        a.write(name, f"{name}: one")
    converge(a, b)
    a.write("edit.txt", "two")
    a.path("move.txt").rename(a.path("moved.txt"))
    a.path("delete.txt").unlink()
    a.write("new/deep.txt", "new")
    a.quick_sync()
    report = b.quick_sync()
    assert same(a, b)
    assert (report["downloaded_files"], report["moved"], report["deleted"]) == (2, 1, 1)


def test_3_an_empty_file_arrives(two: Two) -> None:
    a, b = two
    a.write("empty", b"")
    a.quick_sync()
    assert b.quick_sync()["downloaded_bytes"] == 0
    assert b.path("empty").read_bytes() == b""


def test_4_an_empty_folder_arrives(two: Two) -> None:
    a, b = two
    a.path("x/empty").mkdir(parents=True)
    converge(a, b)
    assert b.path("x/empty").is_dir()


@pytest.mark.parametrize(("extra", "parts"), [(-1, 0), (0, 0), (1, 2)])
def test_5_files_around_the_size_of_one_part(two: Two, extra: int, parts: int) -> None:
    """Up to one part a file is a single PUT; one byte more makes it two parts."""
    a, b = two
    content = os.urandom(10 * MIB + extra)
    a.write("big.bin", content)
    a.quick_sync()
    b.quick_sync()
    assert b.path("big.bin").read_bytes() == content
    assert [u["parts_total"] for u in a.get("/v1/uploads?state=all")["items"]] == [parts]


def test_8_a_tree_fifty_levels_deep(two: Two) -> None:
    a, b = two
    a.write("/".join(["d"] * 50) + "/leaf.txt", "deep")
    converge(a, b)
    assert b.read("/".join(["d"] * 50) + "/leaf.txt") == "deep"


def test_10_a_new_time_alone_moves_no_bytes(two: Two) -> None:
    a, b = two
    a.write("file.txt", "same")
    converge(a, b)
    moment = 1_600_000_000_123_456_789
    os.utime(a.path("file.txt"), ns=(moment, moment))
    assert a.quick_sync()["uploaded_bytes"] == 0
    assert b.quick_sync()["downloaded_bytes"] == 0
    assert b.path("file.txt").stat().st_mtime_ns == moment


def test_a_further_run_does_nothing_and_moves_no_bytes(two: Two) -> None:
    a, b = two
    a.write("one/two.txt", "content")
    a.path("link").symlink_to("one/two.txt")
    converge(a, b)
    for device in (a, b):
        report = device.quick_sync()
        assert report["in_step"]
        assert (report["uploaded_bytes"], report["downloaded_bytes"], report["moved"]) == (0, 0, 0)
