"""A large download on a machine that dies, or whose disk fills, at any step of it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Final
from unittest.mock import patch

import pytest

from agent.disk import BlockedError
from agent.guard import DISK_RESERVE_BYTES
from agent.transfer.journal import Journal, Note, new_checksum
from tests.simulation.engine.contents import bytes_of, large
from tests.simulation.engine.play import quiet
from tests.simulation.engine.world import Device, DeviceKind, World, simulate

LARGE = large("large")
SIZE = len(bytes_of(LARGE))
_MORE_ROOM: Final = 17
"""Bytes by which one full disk has more room than the one before."""
_STRIDE: Final = 2


async def _begin(world: World, *, forgets: bool) -> None:
    world.server.forgets = lambda: forgets
    world.users[0].create("f", LARGE)
    await world.sync(world.devices[0])


def noted(world: World, device: Device) -> int:
    """Return how many bytes of the download the journal beside it rightly claims."""
    found = list((device.disk.root / ".lockstep").glob("tmp/*.ranges"))
    if not found:
        return 0
    fd = os.open(found[0], os.O_RDONLY)
    try:
        item = world.server._download(world.server.live()[0].id, None)
        journal = Journal(fd, item)
        range_size = journal.read() or SIZE
        notes = {at: journal.noted(at // range_size + 1) for at in range(0, SIZE, range_size)}
    finally:
        os.close(fd)
    return sum(note.done for at, note in notes.items() if note is not None and _is_right(at, note))


def _is_right(at: int, note: Note) -> bool:
    """Whether a note has the checksum of what it says: a full disk may have taken a half of it."""
    checksum = new_checksum()
    checksum.update(bytes_of(LARGE)[at : at + note.done])
    return checksum.digest() == note.checksum


async def _check_rest(world: World, device: Device) -> int:
    """Let the device go on: it fetches what the journal does not have, and no byte more.

    Less, where the server's digests tell that what was not noted any more is there.
    """
    there = noted(world, device)
    device.machine.begin()
    report = await world.sync(device)
    assert report is not None
    if "f" in world.told(device) and report.downloaded_bytes:
        assert report.downloaded_bytes <= SIZE - there
    await world.settle()
    world.check()
    assert world.told(device) == {"f": LARGE}
    assert not list((device.disk.root / ".lockstep" / "tmp").iterdir())
    return there


def _steps(*, forgets: bool) -> int:
    steps: list[int] = []

    async def story(world: World) -> None:
        await _begin(world, forgets=forgets)
        world.devices[1].machine.begin()
        await world.sync(world.devices[1])
        steps.append(world.devices[1].machine.steps)

    simulate((DeviceKind(), DeviceKind()), 1, story)
    return steps[0]


@pytest.mark.parametrize("forgets", [False, True])
def test_who_dies_at_any_step_of_a_large_download_fetches_only_what_is_missing(forgets: bool) -> None:
    quiet()
    kept: list[int] = []

    for step in range(0, _steps(forgets=forgets), _STRIDE):

        async def story(world: World, step: int = step) -> None:
            await _begin(world, forgets=forgets)
            device = world.devices[1]
            device.machine.begin()
            device.machine.dies_at = step
            assert await world.sync(device) is None
            kept.append(await _check_rest(world, device))

        simulate((DeviceKind(), DeviceKind()), 1, story)
    assert {0, SIZE} < set(kept), "it died before the first range, after the last one, and in between"


@contextmanager
def _full_after(room: int) -> Iterator[None]:
    """Let only so many more bytes be written by position: the bytes of downloads and their journals."""
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[:room]
        room -= len(taken)
        return real(fd, taken, offset)

    with patch.object(os, "pwrite", pwrite):
        yield


@pytest.mark.parametrize("forgets", [False, True])
def test_108_a_disk_that_fills_at_any_write_of_a_large_download_costs_nothing_that_was_there(
    forgets: bool,
) -> None:
    quiet()
    kept: list[int] = []

    async def story(world: World) -> None:
        await _begin(world, forgets=forgets)
        device = world.devices[1]
        device.machine.begin()
        with _full_after(room=_MORE_ROOM * len(kept)):
            report = await world.sync(device)
        assert report is not None
        assert {problem.code for problem in report.problems} <= {"unwritable"}
        done = not report.problems
        assert ("f" in world.told(device)) == done
        kept.append(SIZE if done else await _check_rest(world, device))

    while not kept or kept[-1] < SIZE:
        simulate((DeviceKind(), DeviceKind()), 1, story)
    assert len(set(kept)) > SIZE // 100


def test_108_a_disk_without_room_that_refuses_to_be_looked_at_halts_the_work_and_ends_no_program() -> None:
    quiet()
    little = SimpleNamespace(f_bavail=DISK_RESERVE_BYTES + SIZE // 2, f_frsize=1)
    refused = BlockedError("The disk reports: Input/output error")

    async def story(world: World) -> None:
        await _begin(world, forgets=False)
        device = world.devices[1]
        with (
            patch.object(os, "fstatvfs", lambda _fd: little),
            patch("agent.engine.drop_unwanted", side_effect=refused),
        ):
            report = await world.sync(device)
        assert report is not None
        assert report.halt_code == "io_error"
        await world.settle()
        world.check()
        assert world.told(device) == {"f": LARGE}

    simulate((DeviceKind(), DeviceKind()), 1, story)
