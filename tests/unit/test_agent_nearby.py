"""What this disk has already: taken without harm to what is there, and let go of at once when asked to."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import duplicates
from agent.actions import Download
from agent.disk import BlockedError, Disk
from agent.errors import LocalError
from agent.executor import Work
from agent.executor.nearby import Nearby
from agent.former import FormerVersions
from agent.model import Kind, LocalEntry, RemoteNode, VersionRef
from agent.scanner import scan
from agent.transfer.blocking import until_stopped
from agent.transfer.ranges import write_all
from agent.transfer.spots import copy_ranges
from agent.transfer.tally import Tally
from libs.contracts.api import DownloadDelta
from libs.contracts.binary import MalformedError
from libs.contracts.errors import ConflictError, LockstepError, NotFoundError, UnavailableError
from libs.contracts.recipe import Copy, Recipe
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


def wanted(content_hash: str = HASH, expect: LocalEntry | None = None) -> Download:
    node = RemoteNode(
        "node", "root", "b", Kind.FILE, 1, version_id="version", content_hash=content_hash, size=len(CONTENT)
    )
    return Download(node, "b", expect)


def memory(**trees: Any) -> SimpleNamespace:
    former = FormerVersions(None, nullcontext)
    return SimpleNamespace(**{"local": {}, "synced": {}, "remote": {}, "former": former, **trees})


def nearby(disk: Disk, **more: Any) -> Nearby:
    state = memory(local=scan(disk, {}, ignored=lambda *_: False).entries)
    settings = SimpleNamespace(delta=True)
    parts = {"transfer": SimpleNamespace(tally=Tally()), "state": state, **more}
    work = SimpleNamespace(disk=disk, settings=settings, manifests=None, **parts)
    return Nearby(cast("Work", work), [wanted()])


async def filled(disk: Disk) -> bool:
    with disk.new_temp("node", "version") as temp:
        return await nearby(disk).fill(wanted(), temp)


def slow(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> None:
    """Have `before` called with the file's number before each block of a copy is written."""
    real = write_all

    def write(fd: int, block: memoryview, offset: int) -> None:
        before(fd)
        real(fd, block, offset)

    monkeypatch.setattr(duplicates, "write_all", write)


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


NEW = "5" * 64
SAVED = DownloadDelta(
    node_id="1" * 24, version_id="2" * 24, url="http://127.0.0.1/", expires_at=datetime.now(UTC),
    size=len(CONTENT), content_hash=NEW, from_version_id="3" * 24, recipe="",
)  # fmt: skip


async def by_delta(
    disk: Disk,
    asked: LockstepError | None,
    fetched: Exception | None,
    meanwhile: Callable[[], object] = lambda: None,
) -> bool:
    """Fill a file by a delta: asking for it, or fetching it, raises something."""

    async def download_delta(*_: object) -> Any:
        if asked is not None:
            raise asked
        return SAVED

    async def fetch(_delta: object, _base: object, fd: int, _digest: object) -> str:
        os.pwrite(fd, b"begun", 0)
        if fetched is not None:
            raise fetched
        return NEW

    (entry,) = scan(disk, {}, ignored=lambda *_: False).entries.values()
    known = SimpleNamespace(version_id="3" * 24, content_hash=HASH)
    found = nearby(
        disk,
        api=SimpleNamespace(download_delta=download_delta),
        transfer=SimpleNamespace(tally=Tally(), download_delta=fetch),
        state=memory(synced={"node": known}),
    )
    meanwhile()
    with disk.new_temp("node", "version") as temp:
        done = await found.fill(wanted(NEW, entry), temp)
        assert done or os.fstat(temp.fd).st_size == 0, "nothing of it is taken for a part of the file"
    return done


async def test_a_delta_gives_the_content(disk: Disk) -> None:
    assert await by_delta(disk, None, None)


async def test_with_a_base_that_has_changed_since_it_was_looked_at_no_range_is_fetched(
    disk: Disk, root: Path
) -> None:
    """It would not be wrong, since the whole is hashed, but in vain."""
    in_vain = AssertionError("a range is fetched")
    with pytest.raises(AssertionError, match="a range is fetched"):
        await by_delta(disk, None, in_vain)
    assert not await by_delta(disk, None, in_vain, lambda: (root / "a").write_bytes(CONTENT[:-1] + b"?"))


async def test_a_partial_download_in_ranges_is_not_given_up_for_a_delta(disk: Disk) -> None:
    """On a bad line it would begin anew again and again."""
    (entry,) = scan(disk, {}, ignored=lambda *_: False).entries.values()
    known = SimpleNamespace(version_id="3" * 24, content_hash=HASH)
    state = memory(synced={"node": known})
    with disk.new_temp("node", "version") as temp, disk.new_journal(temp):
        os.pwrite(temp.fd, b"fetched", 0)
        assert not await nearby(disk, state=state).fill(wanted(NEW, entry), temp)
        assert os.pread(temp.fd, 100, 0) == b"fetched"


@pytest.mark.parametrize(
    "asked",
    [ConflictError(code="no_delta"), NotFoundError(), UnavailableError()],
    ids=lambda error: error.code,
)
async def test_a_server_that_makes_no_delta_does_not_keep_the_file_from_being_fetched(
    disk: Disk, asked: LockstepError
) -> None:
    assert not await by_delta(disk, asked, None)


@pytest.mark.parametrize(
    "fetched",
    [
        LocalError(code="corrupt_download"),
        LocalError(code="unreadable"),
        NotFoundError(),
        MalformedError("so"),
    ],
    ids=str,
)
async def test_a_delta_that_comes_to_nothing_does_not_keep_the_file_from_being_fetched(
    disk: Disk, fetched: Exception
) -> None:
    assert not await by_delta(disk, None, fetched)


@pytest.mark.parametrize(
    "fetched",
    [LocalError(code="unwritable"), UnavailableError(), BlockedError("so", code="stopping")],
    ids=str,
)
async def test_what_would_stop_the_whole_file_too_is_told(disk: Disk, fetched: Exception) -> None:
    with pytest.raises(type(fetched)):
        await by_delta(disk, None, fetched)


def test_a_base_that_cannot_be_read_is_told_from_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A disk may have lost a block of the base; the file itself can be fetched whole."""
    unreadable = os.open(tmp_path, os.O_RDONLY)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(LocalError) as raised:
            copy_ranges(Recipe((Copy(0, 10),)), unreadable, fd)
    finally:
        os.close(unreadable)
        os.close(fd)
    assert raised.value.code == "unreadable"


# Several bases -------------------------------------------------------------------------------------

OTHERS = 5
"""Later versions of other files, each made of the next one, that this disk has."""


@dataclass
class Asked:
    """What the server was asked for: (from, base) of each delta; it has one of the `gives`th alone."""

    gives: int | None = None
    refusal: LockstepError = field(default_factory=lambda: ConflictError(code="no_delta"))
    deltas: list[tuple[str, str | None]] = field(default_factory=list)

    async def download_delta(self, node: str, before: str, to: str, base: str | None) -> DownloadDelta:
        assert (node, to) == ("node", "version")
        self.deltas.append((before, base))
        if len(self.deltas) == self.gives:
            return SAVED
        raise self.refusal


async def of_several(disk: Disk, root: Path, asked: Asked) -> bool:
    for number in range(OTHERS):
        (root / f"other{number}").write_bytes(CONTENT + bytes([number]))
    local = scan(disk, {}, ignored=lambda *_: False).entries

    def ref(number: int) -> VersionRef:
        return VersionRef(f"n{number}", f"v{number}", local[f"other{number}"].content_hash or "")

    remote = {
        f"n{number}": RemoteNode(f"n{number}", "root", "o", Kind.FILE, 1, base=ref(number + 1))
        for number in range(OTHERS - 1)
    }

    async def fetch(_delta: object, _base: object, fd: int, _digest: object) -> str:
        assert os.fstat(fd).st_size == 0, "what an earlier try or base left is gone"
        os.pwrite(fd, b"whole", 0)
        return NEW

    action = wanted(NEW)
    action = replace(action, node=replace(action.node, base=ref(0)))
    transfer = SimpleNamespace(tally=Tally(), download_delta=fetch)
    found = nearby(disk, api=asked, transfer=transfer, state=memory(local=local, remote=remote))
    with disk.new_temp("node", "version") as temp:
        os.pwrite(temp.fd, b"left by an earlier try", 0)
        return await found.fill(action, temp)


@pytest.mark.parametrize("gives", [1, 3])
async def test_where_one_base_gives_no_delta_the_next_is_asked_for(
    disk: Disk, root: Path, gives: int
) -> None:
    asked = Asked(gives)
    assert await of_several(disk, root, asked)
    assert asked.deltas == [(f"v{number}", f"n{number}") for number in range(gives)]


async def test_after_three_bases_the_file_is_fetched(disk: Disk, root: Path) -> None:
    asked = Asked()
    assert not await of_several(disk, root, asked)
    assert len(asked.deltas) == 3


async def test_a_server_without_time_is_not_asked_about_the_next_base(disk: Disk, root: Path) -> None:
    asked = Asked(refusal=UnavailableError())
    assert not await of_several(disk, root, asked)
    assert len(asked.deltas) == 1


async def test_for_an_earlier_version_of_the_same_file_no_other_node_is_named(disk: Disk) -> None:
    asked = Asked()
    (entry,) = scan(disk, {}, ignored=lambda *_: False).entries.values()
    known = SimpleNamespace(version_id="v", content_hash=HASH)
    found = nearby(disk, api=asked, state=memory(synced={"node": known}))
    with disk.new_temp("node", "version") as temp:
        assert not await found.fill(wanted(NEW, entry), temp)
    assert asked.deltas == [("v", None)]
