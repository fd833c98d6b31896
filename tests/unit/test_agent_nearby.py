"""What this disk has already: taken without harm to what is there, and let go of at once when asked to."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import duplicates
from agent.actions import Download
from agent.disk import Disk
from agent.executor import Work
from agent.executor.nearby import Nearby
from agent.model import Kind, RemoteNode
from agent.scanner import scan
from agent.transfer.blocking import until_stopped
from agent.transfer.tally import Tally
from tests.support.waiting import wait_until

CONTENT = Random(1).randbytes(3_500_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "a").write_bytes(CONTENT)
    os.utime(folder / "a", (1e9, 1e9))
    return folder


@pytest.fixture
def disk(root: Path) -> Disk:
    made = Disk(root)
    made.prepare()
    return made


def wanted() -> Download:
    node = RemoteNode(
        "node", "root", "b", Kind.FILE, 1, version_id="version", content_hash=HASH, size=len(CONTENT)
    )
    return Download(node, "b", None)


def nearby(disk: Disk) -> Nearby:
    state = SimpleNamespace(local=scan(disk, {}, ignored=lambda *_: False).entries, synced={})
    settings = SimpleNamespace(delta=True)
    transfer = SimpleNamespace(tally=Tally())
    work = SimpleNamespace(state=state, disk=disk, settings=settings, transfer=transfer, manifests=None)
    return Nearby(cast("Work", work), [wanted()])


async def filled(disk: Disk) -> bool:
    with disk.new_temp("node", "version") as temp:
        return await nearby(disk).fill(wanted(), temp)


def slow(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> None:
    """Have `before` called with the file's number before each block of a copy is written."""
    real = duplicates._write

    def write(fd: int, block: memoryview) -> None:
        before(fd)
        real(fd, block)

    monkeypatch.setattr(duplicates, "_write", write)


async def test_who_is_cancelled_in_a_copy_leaves_no_thread_that_writes_into_a_closed_file(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    open_then: list[bool] = []

    def before(fd: int) -> None:
        begun.set()
        go_on.wait(10)
        open_then.append(_is_open(fd))

    slow(monkeypatch, before)
    copying = asyncio.create_task(filled(disk))
    await asyncio.to_thread(begun.wait, 10)

    copying.cancel()
    await asyncio.wait([copying], timeout=0.2)
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await copying
    await asyncio.to_thread(wait_until, lambda: bool(open_then), 10, "no block was written")
    assert open_then == [True], "its file was open, and the copy ended after the block it was at"


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_a_partial_download_is_not_given_up_for_a_copy_of_a_file_that_has_changed(
    disk: Disk, root: Path
) -> None:
    action, found = wanted(), nearby(disk)
    with disk.new_temp("node", "version") as temp, disk.new_journal(temp):
        os.pwrite(temp.fd, b"what came before", 0)
        (root / "a").write_bytes(b"another")

        assert not await found.fill(action, temp)

        assert os.pread(temp.fd, 100, 0) == b"what came before"


async def test_a_copy_replaces_whatever_an_earlier_try_has_left(disk: Disk) -> None:
    with disk.new_temp("node", "version") as temp:
        os.pwrite(temp.fd, b"x" * (len(CONTENT) + 5), 0)

        assert await nearby(disk).fill(wanted(), temp)

        assert os.pread(temp.fd, len(CONTENT) + 9, 0) == CONTENT


async def test_a_long_call_whose_caller_is_cancelled_is_told_and_waited_for() -> None:
    begun, ended = threading.Event(), threading.Event()

    def call(stop: Callable[[], bool]) -> Any:
        begun.set()
        while not stop():
            pass
        ended.set()

    calling = asyncio.create_task(until_stopped(call))
    await asyncio.to_thread(begun.wait, 10)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ended.is_set()
