"""Disks that are not like ext4, mounted for real: a plain device A beside B on such a disk."""

import asyncio
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agent.app import run_sync
from agent.settings import Settings
from tests.support.devices import Account, Device, moved, tree_of
from tests.support.odd_disk import OddDisk, Quirks, odd_disk, why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"needs a disk mounted by FUSE: {REASON}")

APFS = Quirks(fold_case=True, fold_forms=True)
HFS = Quirks(fold_case=True, store_decomposed=True, no_rename_flags=True)
FAT = Quirks(
    fold_case=True, coarse_times=True, refuse_names=True, no_symlinks=True, no_hard_links=True,
    fixed_modes=True, new_inodes=True, no_rename_flags=True,
)  # fmt: skip
SHARE = Quirks(no_rename_flags=True, no_hard_links=True, deaf_modes=True, new_inodes=True)

Mounted = Callable[[Quirks], tuple[Device, Device, OddDisk]]


@pytest.fixture
def mounted(account: Account) -> Iterator[Mounted]:
    """Make device A on the plain disk, and B on one with these quirks."""
    with ExitStack() as stack:

        def make(quirks: Quirks) -> tuple[Device, Device, OddDisk]:
            a, b = account.link("A", register=True), account.link("B")
            return a, b, stack.enter_context(odd_disk(b.folder, quirks))

        yield make


def run(device: Device) -> dict[str, Any]:
    """One run, which may leave something out of step."""
    return asyncio.run(run_sync(Settings(home=device.home), device.folder)).as_json()


def settle(*devices: Device) -> list[dict[str, Any]]:
    """Sync the devices in turn until a whole round does nothing; return the last reports."""
    for _ in range(6):
        reports = [run(device) for device in devices]
        assert all(report["halted"] is None and report["error"] is None for report in reports)
        if not any(moved(report) for report in reports):
            return reports
    raise AssertionError("the devices do not come to rest")


def codes(report: dict[str, Any]) -> dict[str, str]:
    """Path → code of what a run says is not in step."""
    return {problem["path"]: problem["code"] for problem in report["problems"]}


def on(**quirks: Quirks) -> pytest.MarkDecorator:
    """Run the test on each of these disks."""
    return pytest.mark.parametrize("quirks", quirks.values(), ids=quirks.keys())


@on(apfs=APFS, fat=FAT)
def test_46_of_two_names_that_are_one_here_each_keeps_its_node_and_the_second_is_reported(
    mounted: Mounted, quirks: Quirks
) -> None:
    a, b, _ = mounted(quirks)
    a.write("A.txt", "upper")
    a.write("a.txt", "lower")
    _, report = settle(a, b)
    assert set(codes(report).values()) == {"name_folded"}
    (here,) = b.names()
    (left,) = {"A.txt", "a.txt"} - {here}
    assert codes(report) == {left: "name_folded"}
    b.write(here, "edited on B")
    a.write(left, "edited on A")
    settle(a, b)
    assert a.names() == {"A.txt", "a.txt"}
    assert (a.read(here), a.read(left)) == ("edited on B", "edited on A")
    assert b.names() == {here}
    assert b.read(here) == "edited on B"
    b.path(here).unlink()
    settle(a, b)
    assert a.names() == {left}
    assert b.names() == {left}
    assert b.read(left) == "edited on A"


@on(apfs=APFS, fat=FAT)
def test_a_rename_in_case_alone_travels_both_ways_as_a_rename(mounted: Mounted, quirks: Quirks) -> None:
    a, b, _ = mounted(quirks)
    a.write("file.txt", "content")
    a.write("folder/inside.txt", "inside")
    settle(a, b)
    ids = {name: row["id"] for name, row in a.ls().items()}
    a.path("file.txt").rename(a.path("File.txt"))
    a.path("folder").rename(a.path("Folder"))
    reports = [device.quick_sync() for device in (a, b)]
    assert [r["uploaded_bytes"] + r["downloaded_bytes"] for r in reports] == [0, 0]
    assert {path.name for path in b.folder.iterdir()} - {".lockstep"} == {"File.txt", "Folder"}
    for old, between, new in (("File.txt", "x", "FILE.txt"), ("Folder", "y", "FOLDER")):
        b.path(old).rename(b.path(between))
        b.path(between).rename(b.path(new))
    reports = [device.quick_sync() for device in (b, a)]
    assert [r["uploaded_bytes"] + r["downloaded_bytes"] for r in reports] == [0, 0]
    assert a.names() == b.names() == {"FILE.txt", "FOLDER", "FOLDER/inside.txt"}
    assert {name.lower(): row["id"] for name, row in a.ls().items()} == ids
    assert not any(moved(report) for report in settle(a, b))


@on(apfs=APFS, hfs=HFS)
def test_49_composed_and_decomposed_names_are_one_file_and_make_no_loop(
    mounted: Mounted, quirks: Quirks
) -> None:
    a, b, _ = mounted(quirks)
    composed, decomposed = "caf\u00e9.txt", unicodedata.normalize("NFD", "caf\u00e9.txt")
    a.write(composed, "from A")
    a.write("\u00fcber/\u00e4.txt", "deep")
    b.write(unicodedata.normalize("NFD", "\u00f6.txt"), "from B")
    for report in settle(a, b):
        assert not codes(report)
    assert b.read(composed) == b.read(decomposed) == "from A"
    assert len(a.names()) == len(b.names()) == 4
    b.write(composed, "edited on B")
    b.write("\u00fcber/\u00e4.txt", "edited deep")
    settle(a, b)
    assert a.read(composed) == "edited on B"
    assert a.read("\u00fcber/\u00e4.txt") == "edited deep"
    b.path(decomposed).unlink()
    settle(a, b)
    assert not a.path(composed).exists()


def test_50_names_that_a_disk_cannot_hold_are_reported_and_stay_on_the_server(mounted: Mounted) -> None:
    a, b, _ = mounted(FAT)
    strange = ["a:b", "back\\slash", "dot.", "space ", "q?"]
    for name in strange:
        a.write(name, name)
    a.write("folder:/inside.txt", "inside")
    a.write("plain.txt", "plain")
    a.path("link").symlink_to("plain.txt")
    _, report = settle(a, b)
    assert b.names() == {"plain.txt"}
    said = codes(report)
    assert {said[name] for name in (*strange, "folder:")} == {"name_impossible"}
    assert said["link"] == "symlink_impossible"
    b.write("plain.txt", "edited on B")
    settle(a, b)
    assert a.names() == {*strange, "folder:", "folder:/inside.txt", "plain.txt", "link"}
    assert a.read("plain.txt") == "edited on B"


@on(fat=FAT, share=SHARE)
def test_times_and_executable_bits_that_a_disk_does_not_keep_come_to_rest_and_change_nothing_elsewhere(
    mounted: Mounted, quirks: Quirks
) -> None:
    a, b, _ = mounted(quirks)
    for name in ("tool", "text"):
        os.utime(a.write(name, name), ns=(10**18, 1_600_000_000_123_456_789))
    a.path("tool").chmod(0o755)
    settle(a, b)
    before = tree_of(a.folder)
    assert b.read("tool") == "tool"
    times = {name: a.path(name).stat().st_mtime_ns for name in ("tool", "text")}
    b.write("tool", "edited on B")
    b.write("text", "edited on B")
    b.write("new", "made on B")
    settle(a, b)
    after = tree_of(a.folder)
    assert {name: after[name][:6] for name in before} == {name: said[:6] for name, said in before.items()}
    assert after["new"].startswith("file -")
    assert a.read("tool") == "edited on B"
    assert times["tool"] == 1_600_000_000_123_456_789
    a.path("text").chmod(0o755)
    os.utime(a.path("tool"), ns=(10**18, 1_500_000_000_987_654_321))
    settle(a, b)
    assert a.path("text").stat().st_mode & 0o100
    assert a.path("tool").stat().st_mtime_ns == 1_500_000_000_987_654_321


@on(fat=FAT, share=SHARE)
def test_a_disk_that_was_mounted_again_is_the_same_disk(mounted: Mounted, quirks: Quirks) -> None:
    a, b, disk = mounted(quirks)
    for number in range(12):
        a.write(f"d{number % 3}/f{number}", f"content {number}")
    for number in range(3):
        a.write(f"twin/{number}", "the same content")
    a.write("d0/empty", "")
    settle(a, b)
    before = tree_of(b.folder)
    disk.remount()
    reports = settle(b, a)
    assert not any(moved(report) for report in reports)
    assert sum(report["uploaded_bytes"] + report["downloaded_bytes"] for report in reports) == 0
    assert tree_of(b.folder) == before
    disk.remount()
    b.path("d0/f0").rename(b.path("d1/moved"))
    b.write("d1/f1", "edited after a mount")
    b.path("d2/f2").unlink()
    settle(b, a)
    assert a.read("d1/moved") == "content 0"
    assert a.read("d1/f1") == "edited after a mount"
    assert a.names() == b.names() == {*before, "d1/moved"} - {"d0/f0", "d2/f2"}


@on(hfs=HFS, fat=FAT)
def test_every_kind_of_change_crosses_in_both_directions(mounted: Mounted, quirks: Quirks) -> None:
    a, b, _ = mounted(quirks)
    for one, other in ((a, b), (b, a)):
        t = one.name
        one.write(f"{t}/edit", "first")
        one.write(f"{t}/gone", "gone")
        one.write(f"{t}/one", "one")
        one.write(f"{t}/two", "two")
        one.write(f"{t}/sub/deep/file", "deep")
        one.path(f"{t}/hollow").mkdir()
        settle(one, other)
        one.write(f"{t}/edit", "second, and longer")
        one.path(f"{t}/gone").unlink()
        one.path(f"{t}/one").rename(one.path(f"{t}/between"))
        one.path(f"{t}/two").rename(one.path(f"{t}/one"))
        one.path(f"{t}/between").rename(one.path(f"{t}/two"))
        one.path(f"{t}/sub").rename(one.path(f"{t}/moved"))
        one.path(f"{t}/hollow").rmdir()
        settle(one, other)
        assert other.read(f"{t}/edit") == "second, and longer"
        assert (other.read(f"{t}/one"), other.read(f"{t}/two")) == ("two", "one")
        assert a.names() == b.names()
        other.write(f"{t}/edit", f"edited on {other.name}")
        one.write(f"{t}/edit", f"edited on {one.name}")
        settle(one, other)
        assert len(one.names()) == len(other.names())
        assert sum("conflicted copy" in name for name in other.names()) == (1 if one is a else 2)
