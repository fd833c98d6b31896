"""Scenarios "Edit and delete"."""

import asyncio
from typing import Any

import pytest

from agent.remote import Api
from tests.support.devices import Device, converge, copies, tree_of
from tests.support.settling import settle

Two = tuple[Device, Device]
Three = tuple[Device, Device, Device]


def shared(content: str, *devices: Device, name: str = "file.txt") -> None:
    """Put a file on all devices."""
    devices[0].write(name, content)
    converge(*devices)


def test_11_of_two_offline_edits_one_keeps_the_name_and_the_other_is_a_copy(two: Two) -> None:
    a, b = two
    shared("base", a, b)
    a.write("file.txt", "by A")
    b.write("file.txt", "by B, later")
    converge(a, b)
    assert a.read("file.txt") == "by A"
    (copy,) = copies(a.names(), "file.txt")
    assert a.read(copy) == "by B, later"
    assert "B" in copy


def test_12_the_same_edit_on_both_is_no_conflict(two: Two) -> None:
    a, b = two
    shared("base", a, b)
    for device in two:
        device.write("file.txt", "the same")
    converge(a, b)
    assert a.names() == {"file.txt"}


@pytest.mark.parametrize("editor_first", [True, False])
def test_13_an_edit_beats_a_deletion(two: Two, *, editor_first: bool) -> None:
    a, b = two
    shared("base", a, b)
    before = a.ls()["file.txt"]["id"]
    a.write("file.txt", "edited")
    b.path("file.txt").unlink()
    converge(*((a, b) if editor_first else (b, a)))
    assert a.read("file.txt") == "edited"
    assert a.ls()["file.txt"]["id"] == before


def test_14_both_delete(two: Two) -> None:
    a, b = two
    shared("base", a, b)
    for device in two:
        device.path("file.txt").unlink()
    converge(a, b)
    assert a.names() == set()


def test_16_of_three_edits_one_wins_and_two_are_copies(three: Three) -> None:
    shared("base", *three)
    for device in three:
        device.write("file.txt", f"by {device.name}")
    converge(*three)
    names = three[0].names()
    assert len(copies(names, "file.txt")) == 2
    assert {three[0].read(name) for name in names} == {"by A", "by B", "by C"}


def test_17_a_commit_that_comes_second_becomes_a_copy(two: Two) -> None:
    """B edits on top of a version that A replaced while B did not look."""
    a, b = two
    shared("base", a, b)
    b.write("file.txt", "by B")
    a.write("file.txt", "by A")
    a.quick_sync()
    report = b.quick_sync()
    assert report["conflicts"] == 1
    converge(a, b)
    assert {a.read(name) for name in a.names()} == {"by A", "by B"}


def test_17_a_commit_overtaken_while_its_bytes_travel_is_refused_and_becomes_a_copy(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commits between B's last byte and B's commit."""
    a, b = two
    shared("base", a, b)
    b.write("file.txt", "by B")
    original = Api.complete_upload_batch
    overtaken: list[bool] = []

    async def complete(self: Api, *arguments: Any) -> Any:
        if not overtaken:
            overtaken.append(True)
            a.write("file.txt", "by A")
            await asyncio.to_thread(a.quick_sync)
        return await original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Api, "complete_upload_batch", complete)
        report = b.quick_sync()
    assert report["conflicts"] == 1
    settle(a, b)
    assert a.read("file.txt") == "by A"
    assert {a.read(name) for name in copies(a.names(), "file.txt")} == {"by B"}


def test_21_two_new_files_of_one_name_are_both_kept(two: Two) -> None:
    a, b = two
    a.write("new.txt", "by A")
    b.write("new.txt", "by B")
    converge(a, b)
    assert {a.read(name) for name in a.names()} == {"by A", "by B"}
    assert len(a.names()) == 2


def test_22_two_new_files_of_one_name_and_content_are_one(two: Two) -> None:
    a, b = two
    a.write("new.txt", "the same")
    a.quick_sync()
    b.write("new.txt", "the same")
    report = b.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"]) == (0, 0)
    converge(a, b)
    assert a.names() == {"new.txt"}


def test_23_a_new_file_meets_a_rename_onto_its_name(two: Two) -> None:
    a, b = two
    shared("old", a, b, name="old.txt")
    a.write("target.txt", "new by A")
    b.path("old.txt").rename(b.path("target.txt"))
    converge(a, b)
    assert {a.read(name) for name in a.names()} == {"old", "new by A"}


@pytest.mark.parametrize("editor_first", [True, False])
def test_24_an_edit_here_and_a_move_there_are_both_done(two: Two, *, editor_first: bool) -> None:
    a, b = two
    shared("base", a, b)
    a.write("file.txt", "edited")
    b.path("sub").mkdir()
    b.path("file.txt").rename(b.path("sub/moved.txt"))
    converge(*((a, b) if editor_first else (b, a)))
    assert tree_of(a.folder).keys() == {"sub", "sub/moved.txt"}
    assert a.read("sub/moved.txt") == "edited"
