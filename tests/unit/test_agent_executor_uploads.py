"""What is committed is what the scan saw, and what is agreed on is what was sent; nothing is left open."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.actions import Upload
from agent.executor import Work
from agent.executor.difference import FEW
from agent.executor.tree import TreeChanges
from agent.executor.uploads import Uploads
from agent.model import FileStat, LocalEntry, LocalKind
from agent.state import State
from agent.transfer import LargeSource, SmallOutcome, SmallUpload
from libs.contracts.api import Upload as OpenUpload
from libs.contracts.errors import UnavailableError
from libs.contracts.limits import MIB
from libs.contracts.tree import ItemResult, NodeRow
from tests.support.agent_api import row, upload

NODE, SENT, OTHER = "4" * 24, "a" * 64, "b" * 64
MTIME = 7
LARGE = 100 * MIB


def action(path: str = "f", size: int = 10) -> Upload:
    stat = FileStat(1, hash(path), size, MTIME, 1, 0o600)
    return Upload(LocalEntry(path, LocalKind.FILE, stat, SENT), parent_key="root", name=path)


def told(**changes: Any) -> NodeRow:
    """The row that the server answers a commit with."""
    base = {"id": NODE, "parent_id": "3" * 24, "name": "f", "size": 10, "content_hash": SENT}
    return NodeRow.model_validate(row(**{**base, "mtime_ns": MTIME, **changes}))


@dataclass
class Sides:
    """The disk and the server of one device: they do as they are told, and note what is asked of them."""

    state: State
    stat: dict[str, FileStat] = field(default_factory=dict)
    """What the disk says of a file now, where that is not what the scan saw."""
    outcome: SmallOutcome = field(default_factory=lambda: SmallOutcome(0))
    answer: NodeRow = field(default_factory=told)
    sessions: list[OpenUpload] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    sources: list[LargeSource] = field(default_factory=list)

    def work(self) -> Work:
        disk: Any = SimpleNamespace(keeps_modes=True, open_for_read=self._opened, lstat=self._lstat)
        api: Any = SimpleNamespace(
            complete_upload_batch=self._commit, abort_upload=self._abort, uploads=self._uploads
        )
        transfer: Any = SimpleNamespace(
            upload_small=self._send, commit_large=self._commit_large, upload_rate=None
        )
        settings: Any = SimpleNamespace(delta=True, folder=Path())
        return Work(self.state, disk, api, transfer, settings, "laptop")

    def _lstat(self, path: str) -> FileStat:
        return self.stat.get(path) or action(path).entry.stat

    @contextmanager
    def _opened(self, path: str) -> Iterator[Any]:
        yield -1, self._lstat(path)

    async def _send(self, _sources: Any) -> SmallUpload:
        return SmallUpload("batch", [self.outcome])

    async def _commit(self, upload_id: str, _items: Any) -> list[ItemResult]:
        self.committed.append(upload_id)
        return [ItemResult(index=0, row=self.answer)]

    async def _commit_large(self, source: LargeSource, _target: Any) -> NodeRow:
        self.sources.append(source)
        return self.answer

    async def _abort(self, upload_id: str) -> None:
        self.aborted.append(upload_id)

    async def _uploads(self) -> AsyncIterator[OpenUpload]:
        for session in self.sessions:
            yield session


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    state = State(tmp_path / "state.db")
    yield Sides(state)
    state.close()


def uploads(work: Work) -> Uploads:
    tree = SimpleNamespace(parent_id=lambda _: "3" * 24)
    return Uploads(work, cast("TreeChanges", tree))


def touched(path: str, size: int = 10) -> FileStat:
    """A file that was written to since the scan."""
    return replace(action(path, size).entry.stat, mtime_ns=MTIME + 1)


# What is agreed on ---------------------------------------------------------------------------


async def test_a_commit_is_agreed_on_with_the_content_and_time_that_were_sent(sides: Sides) -> None:
    work = sides.work()

    await uploads(work).send_small([action()])

    known = sides.state.synced[NODE]
    assert (known.content_hash, known.mtime_ns, known.stat) == (SENT, MTIME, action().entry.stat)
    assert not work.feed_stale
    assert not sides.aborted


@pytest.mark.parametrize("later", [{"content_hash": OTHER}, {"mtime_ns": MTIME + 1}], ids=str)
async def test_a_row_that_tells_of_another_devices_change_is_news_and_not_agreed_on(
    sides: Sides, later: dict[str, Any]
) -> None:
    """Taken as agreed on, the other device's content would count as what this disk has already."""
    sides.answer = told(**later)
    work = sides.work()

    await uploads(work).send_small([action()])

    assert NODE not in sides.state.synced
    assert NODE in sides.state.remote
    assert work.feed_stale


# What is committed ---------------------------------------------------------------------------


async def test_a_small_file_that_changed_while_it_was_sent_is_looked_at_instead_of_committed(
    sides: Sides,
) -> None:
    sides.stat["f"] = touched("f")
    work = sides.work()

    await uploads(work).send_small([action()])

    assert not sides.committed
    assert work.dirty == {"f"}
    assert sides.aborted == ["batch"]


async def test_a_large_file_that_changed_since_the_scan_is_looked_at_instead_of_sent(sides: Sides) -> None:
    sides.stat["f"] = touched("f", LARGE)
    work = sides.work()

    await uploads(work).send_large(action("f", LARGE))

    assert not sides.sources
    assert work.dirty == {"f"}


async def test_a_large_file_is_asked_of_the_disk_whether_it_is_unchanged(sides: Sides) -> None:
    sides.stat["f"] = action("f", LARGE).entry.stat
    await uploads(sides.work()).send_large(action("f", LARGE))
    (source,) = sides.sources

    assert source.unchanged()
    sides.stat["f"] = touched("f", LARGE)
    assert not source.unchanged()


async def test_what_is_noted_of_the_parts_goes_with_the_commit(sides: Sides) -> None:
    sides.stat["f"] = action("f", LARGE).entry.stat
    sides.state.parts.note(SENT, "upload", MIB, {1: OTHER})

    await uploads(sides.work()).send_large(action("f", LARGE))

    assert not sides.state.parts.known(SENT, MIB)
    assert NODE in sides.state.synced


# What is left open ---------------------------------------------------------------------------


async def test_a_batch_is_given_up_when_the_store_is_away(sides: Sides) -> None:
    sides.outcome = SmallOutcome(0, "unavailable")

    with pytest.raises(UnavailableError):
        await uploads(sides.work()).send_small([action()])

    assert not sides.committed
    assert sides.aborted == ["batch"]


def _session(number: int, **changes: Any) -> OpenUpload:
    base = {"id": f"{number:024x}", "batch": True, "state": "open", "device": "laptop"}
    return OpenUpload.model_validate(upload([], **{**base, **changes}))


async def test_batches_that_a_crash_left_are_given_up_and_nothing_else_is(sides: Sides) -> None:
    """Large sessions are continued, other devices are at work, and a commit is left to its end."""
    own = [_session(1), _session(2)]
    others = [
        _session(3, device="phone"),
        _session(4, batch=False),
        _session(5, state="committing"),
    ]
    sides.sessions = [own[0], *others, own[1]]
    sides.outcome = SmallOutcome(0, "unavailable")
    with pytest.raises(UnavailableError):  # cut short, so the next run finds that batches were under way
        await uploads(sides.work()).send_small([action()])
    sides.aborted.clear()
    sides.outcome = SmallOutcome(0)

    await uploads(sides.work()).send_small([action()])
    assert sides.aborted == [session.id for session in own]

    sides.aborted.clear()
    await uploads(sides.work()).send_small([action()])
    assert not sides.aborted, "the last run ended in order"


@pytest.mark.parametrize(("edited", "alone"), [(FEW, FEW), (FEW + 1, 0)])
def test_few_edited_files_travel_as_differences_and_many_together(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, edited: int, alone: int
) -> None:
    always = SimpleNamespace(may_save=lambda _: True)
    monkeypatch.setattr(Work, "differences", always)

    found = uploads(sides.work()).alone([action(str(number)) for number in range(edited)])

    assert len(found) == alone
