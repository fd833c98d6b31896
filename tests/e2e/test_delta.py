"""Of an edited large file only the difference travels."""

import os
import random
from urllib.parse import quote

import pytest

from tests.support.devices import Account, Device

MIB = 1024 * 1024


def edited(content: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    changed = bytearray(content)
    for _ in range(5):
        at = rng.randrange(len(changed))
        changed[at : at + rng.randrange(50)] = rng.randbytes(rng.randrange(100))
    return bytes(changed)


@pytest.mark.parametrize("size", [MIB, 24 * MIB], ids=["of a batch's size", "large"])
def test_an_edit_costs_little_up_and_is_one_version_more(two: tuple[Device, Device], size: int) -> None:
    a, b = two
    content = os.urandom(size)
    a.write("big.bin", content)
    assert a.quick_sync()["uploaded_bytes"] == size
    b.quick_sync()
    changed = edited(content, size)
    a.write("big.bin", changed)

    report = a.quick_sync()

    assert report["uploaded_bytes"] < 200_000 + size // 50
    assert len(a.run("versions", "big.bin")["items"]) == 2
    assert b.quick_sync()["downloaded_bytes"] < 200_000 + size // 50
    assert b.path("big.bin").read_bytes() == changed
    back = edited(changed, size + 1)
    b.write("big.bin", back)
    assert b.quick_sync()["uploaded_bytes"] < 200_000 + size // 50, "who has fetched it knows it as well"
    assert a.quick_sync()["downloaded_bytes"] < 200_000 + size // 50
    assert a.path("big.bin").read_bytes() == back


def test_a_changed_copy_of_a_large_file_costs_little_either_way(two: tuple[Device, Device]) -> None:
    a, b = two
    content = os.urandom(20 * MIB)
    a.write("one.bin", content)
    a.quick_sync()
    b.quick_sync()
    copy = edited(content, 7)
    a.write("two.bin", copy)

    assert a.quick_sync()["uploaded_bytes"] < MIB
    assert b.quick_sync()["downloaded_bytes"] < MIB

    assert (b.path("one.bin").read_bytes(), b.path("two.bin").read_bytes()) == (content, copy)


@pytest.mark.parametrize("size", [MIB, 40 * MIB], ids=["of a batch's size", "large"])
def test_of_a_conflict_only_differences_travel_to_whoever_lacks_them(
    three: tuple[Device, Device, Device], size: int
) -> None:
    a, b, c = three
    content = os.urandom(size)
    a.write("disk.img", content)
    for device in three:
        device.quick_sync()
    little = 200_000 + size // 50
    theirs, mine = edited(content, 1), edited(content, 2)
    first = a.ls()["disk.img"]
    a.write("disk.img", theirs)
    assert a.quick_sync()["uploaded_bytes"] < little
    b.write("disk.img", mine)

    lost, won, third = (device.quick_sync() for device in (b, a, c))

    assert (lost["conflicts"], lost["problems"]) == (1, [])
    assert 0 < lost["uploaded_bytes"] < little, "the copy, to the version agreed on before"
    assert 0 < lost["downloaded_bytes"] < little, "what was committed first, though nothing of it is here"
    assert 0 < won["downloaded_bytes"] < little, "the copy, of a later version of that"
    assert 0 < third["downloaded_bytes"] < 2 * little, "both"
    (copy,) = b.names() - {"disk.img"}
    assert "conflicted copy" in copy
    for device in three:
        assert device.path("disk.img").read_bytes() == theirs
        assert device.path(copy).read_bytes() == mine
        assert device.quick_sync()["downloaded_bytes"] == 0
    base = b.get(f"/v1/files?path={quote(copy)}")["items"][0]["base"]
    assert (base["version_id"], base["content_hash"]) == (first["version_id"], first["content_hash"])


def test_an_edit_that_is_versions_behind_and_a_copy_that_is_edited_twice_travel_as_differences(
    two: tuple[Device, Device],
) -> None:
    a, b = two
    content = os.urandom(30 * MIB)
    a.write("disk.img", content)
    a.quick_sync()
    b.quick_sync()
    ahead = content
    for number in range(3):
        ahead = edited(ahead, number)
        a.write("disk.img", ahead)
        a.quick_sync()
    b.write("disk.img", edited(content, 10))
    assert b.quick_sync()["uploaded_bytes"] < MIB
    a.quick_sync()
    (copy,) = a.names() - {"disk.img"}
    a.write(copy, edited(a.path(copy).read_bytes(), 20))
    a.quick_sync()
    b.write(copy, edited(b.path(copy).read_bytes(), 21))

    again = b.quick_sync()

    assert again["conflicts"] == 1
    assert 0 < again["uploaded_bytes"] < MIB
    assert 0 < again["downloaded_bytes"] < MIB
    assert 0 < a.quick_sync()["downloaded_bytes"] < MIB
    assert len(a.names()) == 3
    assert all(a.path(name).read_bytes() == b.path(name).read_bytes() for name in a.names() | b.names())


def test_to_a_new_device_of_several_files_that_are_alike_one_travels(
    two: tuple[Device, Device], account: Account
) -> None:
    a, _ = two
    content = os.urandom(20 * MIB)
    a.write("z/first.img", content)
    a.quick_sync()
    for number in range(3):
        a.write(f"copy{number}.img", edited(content, number))
    a.write("same.img", content)
    a.quick_sync()
    new = account.link("C")

    report = new.quick_sync()

    assert report["downloaded_bytes"] < 21 * MIB
    assert report["downloaded_files"] == 5
    assert {name: new.path(name).read_bytes() for name in new.names() if name != "z"} == {
        name: a.path(name).read_bytes() for name in a.names() if name != "z"
    }


def test_a_large_file_saved_under_another_name_costs_little_either_way(two: tuple[Device, Device]) -> None:
    a, b = two
    content = os.urandom(30 * MIB)
    a.write("draft/film.mov", content)
    a.quick_sync()
    b.quick_sync()
    final = edited(content, 3)
    a.write("final.mov", final)
    a.path("draft/film.mov").unlink()
    a.path("draft").rmdir()

    assert a.quick_sync(allow_mass_delete=True)["uploaded_bytes"] < MIB
    assert b.quick_sync(allow_mass_delete=True)["downloaded_bytes"] < MIB

    assert b.names() == {"final.mov"}
    assert b.path("final.mov").read_bytes() == final


def test_a_conflict_on_a_small_file_is_sent_whole(two: tuple[Device, Device]) -> None:
    a, b = two
    content = os.urandom(200_000)
    a.write("note", content)
    a.quick_sync()
    b.quick_sync()
    a.write("note", edited(content, 1))
    a.quick_sync()
    mine = edited(content, 2)
    b.write("note", mine)
    assert b.quick_sync()["uploaded_bytes"] == len(mine)


def test_what_differs_by_more_than_half_travels_whole(two: tuple[Device, Device]) -> None:
    a, _ = two
    content = os.urandom(20 * MIB)
    a.write("big.bin", content)
    a.quick_sync()
    a.write("big.bin", content[: 8 * MIB] + os.urandom(12 * MIB))
    assert a.quick_sync()["uploaded_bytes"] == 20 * MIB


def test_a_device_that_is_several_versions_behind_fetches_the_difference_once(
    two: tuple[Device, Device],
) -> None:
    a, b = two
    content = os.urandom(12 * MIB)
    a.write("big.bin", content)
    a.quick_sync()
    b.quick_sync()
    for number in range(3):
        content = edited(content, number)
        a.write("big.bin", content)
        a.quick_sync()

    assert b.quick_sync()["downloaded_bytes"] < 2 * MIB
    assert b.path("big.bin").read_bytes() == content


@pytest.mark.parametrize("size", [10_000, 12 * MIB], ids=["small", "large"])
def test_content_that_another_local_file_holds_is_copied_and_not_fetched(
    two: tuple[Device, Device], size: int
) -> None:
    a, b = two
    content = os.urandom(size)
    a.write("one.bin", content)
    a.quick_sync()
    b.quick_sync()
    a.write("copies/two.bin", content)
    assert a.quick_sync()["uploaded_bytes"] == 0

    assert b.quick_sync()["downloaded_bytes"] == 0
    assert b.path("copies/two.bin").read_bytes() == content


def test_a_local_file_that_was_written_to_meanwhile_is_no_base(two: tuple[Device, Device]) -> None:
    """Both have edited it: the other's version comes whole and right, the own edit is kept beside it."""
    a, b = two
    content = os.urandom(20 * MIB)
    a.write("big.bin", content)
    a.quick_sync()
    b.quick_sync()
    theirs, mine = edited(content, 1), edited(content, 2)
    a.write("big.bin", theirs)
    a.quick_sync()
    b.write("big.bin", mine)

    assert b.quick_sync()["conflicts"] == 1

    assert b.path("big.bin").read_bytes() == theirs
    (copy,) = b.names() - {"big.bin"}
    assert b.path(copy).read_bytes() == mine
