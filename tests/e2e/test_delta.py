"""Of an edited large file only the difference travels."""

import os
import random

import pytest

from tests.support.devices import Device

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


def test_a_changed_copy_of_a_large_file_costs_little_up(two: tuple[Device, Device]) -> None:
    a, b = two
    content = os.urandom(20 * MIB)
    a.write("one.bin", content)
    a.quick_sync()
    copy = edited(content, 7)
    a.write("two.bin", copy)

    assert a.quick_sync()["uploaded_bytes"] < 2 * MIB

    b.quick_sync()
    assert (b.path("one.bin").read_bytes(), b.path("two.bin").read_bytes()) == (content, copy)


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
