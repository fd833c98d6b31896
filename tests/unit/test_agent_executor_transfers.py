"""One file's transfer that is long, or is refused, is no other file's concern."""

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.actions import CreateFolder, Download, Plan, RemoveLocal, Upload
from agent.disk import Disk, DiskError
from agent.errors import LocalError
from agent.executor import Executor, Work, local
from agent.executor.downloads import Downloads
from agent.executor.tree import TreeChanges
from agent.executor.uploads import Uploads
from agent.former import FormerVersions
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, VersionRef
from agent.transfer import SmallOutcome, SmallUpload
from agent.transfer.tally import Tally
from libs.contracts.errors import ConflictError, LockstepError, QuotaError, RateLimitedError, UnavailableError
from libs.contracts.ids import EMPTY_SHA256
from libs.contracts.limits import MIB

SMALL, LARGE = MIB, 100 * MIB


def upload(path: str, size: int) -> Upload:
    stat = FileStat(1, hash(path), size, 1, 1, 0o600)
    return Upload(LocalEntry(path, LocalKind.FILE, stat, path), parent_key="root", name=path)


class Stub:
    """Stands for `Work`: notes problems, and every commit is refused with `error`."""

    def __init__(self, error: LockstepError | None = None) -> None:
        self.error = error
        self.problems: dict[str, str] = {}
        self.aborted: list[str] = []
        self.dirty: set[str] = set()
        self.differences = None
        self.settings = SimpleNamespace(delta=True)
        former = FormerVersions(None, nullcontext)
        self.state = SimpleNamespace(
            parts=None,
            put=lambda *_: None,
            get=lambda _: None,
            former=former,
            local={},
            synced={},
            remote={},
            problems={},
        )
        self.disk = SimpleNamespace(open_for_read=self._opened, lstat=lambda _: None)
        self.api = SimpleNamespace(complete_upload_batch=self._refuse, abort_upload=self._abort)
        self.kept: list[set[str]] = []
        self.transfer = SimpleNamespace(
            tally=Tally(), commit_large=self._refuse, upload_small=self._sent, keep_deltas=self._keep
        )

    @contextmanager
    def _opened(self, path: str) -> Iterator[Any]:
        yield 0, upload(path, LARGE).entry.stat

    async def _refuse(self, *_: object) -> None:
        assert self.error is not None
        raise self.error

    async def _keep(self, wanted: set[str]) -> None:
        self.kept.append(wanted)

    async def _abort(self, upload_id: str) -> None:
        self.aborted.append(upload_id)

    async def _sent(self, sources: Any) -> SmallUpload:
        return SmallUpload("batch", [SmallOutcome(index) for index in range(len(sources))])

    async def on_disk(self, *_: object) -> bool:
        return True

    def executable(self, *_: object) -> bool:
        return False

    def throughput(self) -> None:
        return None

    def problem(self, path: str, code: str, _detail: str) -> None:
        self.problems[path] = code

    def uploads(self) -> Uploads:
        tree = SimpleNamespace(parent_id=lambda _: "3" * 24)
        return Uploads(cast("Work", self), cast("TreeChanges", tree))


async def test_an_edited_file_does_not_wait_for_large_ones_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    all_begun, ended = asyncio.Event(), asyncio.Event()

    async def send_large(_self: Uploads, action: Upload) -> None:
        begun.append(action.entry.path)
        if len(begun) == 3:
            all_begun.set()
        await ended.wait()

    async def nothing(*_: object, **__: object) -> None:
        pass

    actions = (*(upload(f"large {n}", LARGE) for n in range(3)), upload("edited", SMALL))
    monkeypatch.setattr(Uploads, "alone", lambda *_: {action.entry.path for action in actions})
    monkeypatch.setattr(Uploads, "send_small", nothing)
    monkeypatch.setattr(Uploads, "send_large", send_large)
    monkeypatch.setattr(Downloads, "fetch", nothing)
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", Stub()), tasks, lambda: None)
        await executor.run(Plan(actions), feed_seq=1)
        await executor.run(Plan(actions), feed_seq=1)
        async with asyncio.timeout(10):
            await all_begun.wait()
        assert set(begun) == executor.in_flight == {"large 0", "large 1", "edited"}
        ended.set()


async def test_a_file_that_waits_for_the_server_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended, work = asyncio.Event(), Stub()

    async def send_large(_self: Uploads, action: Upload) -> None:
        if action.entry.path == "large 0":
            with work.transfer.tally.waiting():
                await ended.wait()
        await ended.wait()

    async def nothing(*_: object, **__: object) -> None:
        pass

    actions = tuple(upload(f"large {n}", LARGE) for n in range(4))
    monkeypatch.setattr(Uploads, "send_small", nothing)
    monkeypatch.setattr(Uploads, "send_large", send_large)
    monkeypatch.setattr(Downloads, "fetch", nothing)
    woken: list[bool] = []
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", work), tasks, lambda: woken.append(True))
        await executor.run(Plan(actions), feed_seq=1)
        async with asyncio.timeout(10):
            await executor.wait()
        assert woken == [True]
        await executor.run(Plan(actions), feed_seq=1)
        assert executor.in_flight == {"large 0", "large 1", "large 2"}
        ended.set()


@pytest.mark.parametrize(
    "error",
    [RateLimitedError(code="too_many_sessions"), RateLimitedError(), QuotaError(code="file_too_large")],
    ids=lambda error: error.code,
)
async def test_a_large_file_that_is_refused_is_set_aside_and_holds_up_nothing(error: LockstepError) -> None:
    work = Stub(error)

    await work.uploads().send_large(upload("a", LARGE))

    assert work.problems == {"a": error.code}


@pytest.mark.parametrize(
    "error", [ConflictError(code="upload_not_open"), RateLimitedError()], ids=lambda error: error.code
)
async def test_a_batch_that_cannot_be_committed_is_set_aside_and_holds_up_nothing(
    error: LockstepError,
) -> None:
    """Its session has ended, or the server let nobody in for longer than anybody waits."""
    work = Stub(error)

    await work.uploads().send_small([upload("a", 10), upload("b", 10)])

    assert work.problems == {"a": error.code, "b": error.code}
    assert work.aborted == ["batch"]


async def test_downloads_whose_urls_are_refused_to_the_end_hold_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty file needs no URL: it is made all the same."""

    async def not_nearby(_self: Downloads, actions: list[Download]) -> list[Download]:
        return actions

    async def fetch_one(_self: Downloads, action: Download, _source: object) -> None:
        fetched.append(action.path)

    fetched: list[str] = []
    work = Stub(RateLimitedError())
    work.api.download_batch = work._refuse
    monkeypatch.setattr(Downloads, "_not_nearby", not_nearby)
    monkeypatch.setattr(Downloads, "_fetch_one", fetch_one)
    monkeypatch.setattr(Downloads, "_record", lambda _: None)
    nodes = [
        RemoteNode("1" * 24, "r", path, Kind.FILE, 1, content_hash=content_hash)
        for path, content_hash in (("a", "1" * 64), ("empty", EMPTY_SHA256), ("b", "2" * 64))
    ]

    await Downloads(cast("Work", work)).fetch([Download(node, node.name, None) for node in nodes])

    assert work.problems == {"a": "rate_limited", "b": "rate_limited"}
    assert fetched == ["empty"]


async def test_changes_of_the_tree_that_are_refused_to_the_end_hold_up_nothing() -> None:
    work = Stub(RateLimitedError())
    work.api.tree_batch = work._refuse
    stat = FileStat(1, 1, 0, 1, 1, 0o700)
    tree = TreeChanges(cast("Work", work))

    await tree.apply([CreateFolder(LocalEntry("a", LocalKind.FOLDER, stat), "f" * 24, "a")])

    assert work.problems == {"a": "rate_limited"}
    assert tree.parent_id("+a") is None, "nothing is put into a folder that was not made"


async def test_a_download_that_another_one_cuts_short_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread may be putting it in its place, which nobody would note."""

    def action(path: str) -> Download:
        return Download(RemoteNode(path, "r", path, Kind.FILE, 1, content_hash=EMPTY_SHA256), path, None)

    async def not_nearby(_self: Downloads, actions: list[Download]) -> list[Download]:
        return actions

    async def installed(_self: Downloads, action: Download, _source: object) -> LocalEntry:
        if action.path == "a":
            await asyncio.sleep(3600)
        raise UnavailableError

    monkeypatch.setattr(Downloads, "_not_nearby", not_nearby)
    monkeypatch.setattr(Downloads, "_installed", installed)
    work = Stub()

    with pytest.raises(UnavailableError):
        await Downloads(cast("Work", work)).fetch([action("a"), action("b")])

    assert work.dirty == {"a"}


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_what_is_not_the_content_is_never_put_in_place(tmp_path: Path, size: int) -> None:
    async def download(_source: object, fd: int, _journal: int | None = None) -> str:
        os.pwrite(fd, bytes(size), 0)
        return "e" * 64

    node = RemoteNode("n", "r", "f", Kind.FILE, 1, version_id="v", content_hash="a" * 64, size=size)
    work: Any = Stub()
    work.transfer.download, work.disk = download, Disk(tmp_path)
    work.disk.prepare()

    with pytest.raises(LocalError) as raised:
        await Downloads(work)._installed(Download(node, "f", None), cast("Any", object()))

    assert raised.value.code == "corrupt_download"
    assert not (tmp_path / "f").exists()


async def test_a_small_file_for_which_the_system_has_no_memory_is_no_other_files_concern(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    failed: list[DiskError] = []
    node = RemoteNode("n", "r", "f", Kind.FILE, 1, version_id="v", content_hash="a" * 64, size=1)
    work: Any = Stub()
    work.disk_failed = lambda _path, error: failed.append(error)
    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)

    await Downloads(work)._fetch_one(Download(node, "f", None), cast("Any", object()))

    assert [error.code for error in failed] == ["too_many_open_files"]


async def test_differences_are_kept_only_for_what_is_still_to_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another device may have sent the content, or the file may be another now."""
    ended, work, sent = asyncio.Event(), Stub(), upload("a", LARGE)
    monkeypatch.setattr(Uploads, "send_large", lambda *_: ended.wait())
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", work), tasks, lambda: None)
        await executor.run(Plan((sent,)), feed_seq=1)
        await executor.run(Plan(()), feed_seq=1)
        assert work.kept == [{sent.entry.content_hash}] * 2, "it is under way"
        ended.set()
    work.state.local["a"] = sent.entry
    work.state.problems["a"] = object()
    await executor.run(Plan(()), feed_seq=1)
    assert work.kept.pop() == {sent.entry.content_hash}, "it was set aside"
    del work.state.problems["a"]
    await executor.run(Plan(()), feed_seq=1)
    assert work.kept.pop() == set()


async def test_which_large_downloads_are_under_way_is_known_until_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = asyncio.Event()

    async def fetch(_self: Downloads, actions: list[Download]) -> None:
        if actions:
            await ended.wait()

    monkeypatch.setattr(Downloads, "fetch", fetch)
    nodes = [RemoteNode(f"{n}", "r", f"{n}", Kind.FILE, 1, size=LARGE) for n in range(3)]
    plan = Plan(tuple(Download(node, node.name, None) for node in nodes))
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", Stub()), tasks, lambda: None)
        await executor.run(plan, feed_seq=1)
        await executor.run(plan, feed_seq=1)
        assert [action.path for action in executor.fetching] == ["0", "1"]
        ended.set()
    assert executor.fetching == ()


async def test_what_a_large_file_may_be_made_of_is_removed_after_it_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its folders too: they would not be empty."""
    ended, removed = asyncio.Event(), list[set[str]]()

    async def fetch(_self: Downloads, actions: list[Download]) -> None:
        if actions:
            await ended.wait()

    async def remove(_work: object, actions: list[RemoveLocal]) -> None:
        removed.append({action.entry.path for action in actions})

    monkeypatch.setattr(Downloads, "fetch", fetch)
    monkeypatch.setattr(local, "remove", remove)
    base = VersionRef("old", "v", upload("f/g/old", LARGE).entry.content_hash or "")
    node = RemoteNode("new", "r", "new", Kind.FILE, 1, size=LARGE, base=base)
    gone = [upload(path, LARGE).entry for path in ("f/g/old", "f/g", "f", "f2")]
    others = [replace(entry, content_hash=None) for entry in gone[1:]]
    actions = [RemoveLocal(SyncedNode(e.path, "r", e.path, Kind.FILE), e) for e in (gone[0], *others)]
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", Stub()), tasks, lambda: None)
        await executor.run(Plan((Download(node, "new", None), *actions)), feed_seq=1)
        ended.set()
    await executor.run(Plan(tuple(actions)), feed_seq=1)
    assert removed == [{"f2"}, {"f/g/old", "f/g", "f", "f2"}]


async def test_what_will_be_made_of_a_large_file_on_its_way_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the same content, and one that differs a little: to a device that has none, one travels."""
    ends = {path: asyncio.Event() for path in ("copy", "disk", "same", "ring")}
    begun: list[str] = []

    async def fetch(_self: Downloads, actions: list[Download]) -> None:
        for action in actions:
            begun.append(action.path)
            await ends[action.path].wait()

    def node(name: str, content: str, base: str | None = None) -> RemoteNode:
        ref = None if base is None else VersionRef(base, "v", f"a former {base}")
        return RemoteNode(name, "r", name, Kind.FILE, 1, size=LARGE, content_hash=content, base=ref)

    monkeypatch.setattr(Downloads, "fetch", fetch)
    nodes = [
        node("copy", "c", "disk"),
        node("disk", "d", "ring"),
        node("same", "d"),
        node("ring", "r", "disk"),
    ]
    plan = [Download(one, one.name) for one in nodes]
    work = Stub()
    work.state.remote.update({one.id: one for one in nodes})
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", work), tasks, lambda: None)
        for expected in ("same", "disk", "ring", "copy"):
            before = len(begun)
            for _ in range(2):
                await executor.run(Plan(tuple(plan)), feed_seq=1)
                await asyncio.sleep(0)
            assert begun[before:] == [expected]
            ends[expected].set()
            while executor.in_flight:
                await executor.wait()
            plan = [action for action in plan if action.path not in begun]
    assert plan == []


async def test_nothing_waits_for_a_large_file_that_the_store_does_not_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither what is like it nor the removal of what it is like, after some tries."""
    begun, removed = list[str](), list[str]()
    ended = asyncio.Event()

    async def fetch(_self: Downloads, actions: list[Download]) -> None:
        begun.extend(action.path for action in actions)
        if [action.path for action in actions] == ["damaged"] and begun.count("damaged") <= 3:
            raise UnavailableError
        if actions:
            await ended.wait()

    async def remove(_work: object, actions: list[RemoveLocal]) -> None:
        removed.extend(action.entry.path for action in actions)

    monkeypatch.setattr(Downloads, "fetch", fetch)
    monkeypatch.setattr(local, "remove", remove)
    base, gone = VersionRef("old", "v", "old"), upload("old", LARGE).entry
    damaged = RemoteNode("d", "r", "damaged", Kind.FILE, 1, size=LARGE, content_hash="d", base=base)
    like = replace(damaged, id="l", name="like", content_hash="l", base=VersionRef("d", "v", "d"))
    downloads = (Download(like, "like", None), Download(damaged, "damaged", None))
    plan = Plan((*downloads, RemoveLocal(SyncedNode("old", "r", "old", Kind.FILE), gone)))
    async with asyncio.TaskGroup() as tasks:
        executor = Executor(cast("Work", Stub()), tasks, lambda: None)
        for tries in range(1, 4):
            await executor.run(plan, feed_seq=1)
            with pytest.raises(UnavailableError):
                await executor.wait()
            assert (begun, removed) == (["damaged"] * tries, [])
        await executor.run(plan, feed_seq=1)
        await asyncio.sleep(0)
        assert (begun, removed) == ([*["damaged"] * 3, "like", "damaged"], ["old"])
        ended.set()
