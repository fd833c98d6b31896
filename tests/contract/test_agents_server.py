"""What agents rest on, asked of the real server and of the one in the simulation: the same answers.

Everything goes through the agent's own client, so that what the simulation plays is what is there.
"""

import asyncio
import hashlib
import io
import os
import random
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.credentials import CredentialStore, DeviceCredentials
from agent.remote import Api, open_api
from agent.remote.transport import Transport
from agent.settings import Settings
from agent.transfer import DeltaBase, LargeSource, SmallSource, Transfer, open_transfer
from agent.transfer.retry import UrlRefusedError
from agent.transfer.source import measure, part_body
from agent.transfer.wire import Wire, s3_session
from libs.contracts.api import (
    CompleteItem,
    DeltaOffer,
    DownloadDelta,
    DownloadItem,
    Upload,
    UploadBatchItem,
    UploadMode,
    UploadRequest,
    UploadState,
    UrlsRequest,
)
from libs.contracts.chunks import Manifest
from libs.contracts.cursor import Cursor
from libs.contracts.errors import LockstepError
from libs.contracts.ids import new_id
from libs.contracts.limits import MIB
from libs.contracts.recipe import Recipe, recipe_of
from libs.contracts.tree import (
    BaseVersion,
    CommitTarget,
    CreateFolder,
    CreateSymlink,
    Delete,
    ItemResult,
    Kind,
    Move,
    NodeRow,
    SetAttributes,
)
from libs.delta.content import ContentReader
from libs.delta.package import write
from services.upload.domain.modes import Sizes
from tests.simulation.engine.machine import Machine
from tests.simulation.engine.server import Server, tokens
from tests.simulation.engine.wire import SERVER, Network, Session
from tests.support.devices import hash_of, new_account
from tests.support.stack import Stack

PART = 10 * MIB


@dataclass
class Asked:
    """One server, as a linked device asks it."""

    api: Api
    transfer: Transfer
    wire: Wire

    @property
    def root(self) -> str:
        return self.api.credentials.namespace_id

    async def do(self, *ops: Any) -> list[ItemResult]:
        return await self.api.tree_batch(ops)

    async def codes(self, *ops: Any) -> list[str | None]:
        return [result.code for result in await self.do(*ops)]

    async def folder(self, name: str, parent_id: str | None = None) -> NodeRow:
        return _row((await self.do(CreateFolder(parent_id=parent_id or self.root, name=name)))[0])

    async def commit(self, content: bytes, target: CommitTarget) -> ItemResult:
        """Send and commit one small file."""
        upload = await self.transfer.upload_small([_source(content)])
        assert upload.items[0].ready, upload.items[0]
        item = CompleteItem(index=0, **target.model_dump())
        return (await self.api.complete_upload_batch(upload.upload_id, [item]))[0]

    async def file(self, name: str, content: bytes, parent_id: str | None = None) -> NodeRow:
        target = CommitTarget(parent_id=parent_id or self.root, name=name)
        return _row(await self.commit(content, target))

    async def rows(self) -> dict[str, NodeRow]:
        """Read the feed from the start, in small pages."""
        found: dict[str, NodeRow] = {}
        cursor, last = None, 0
        while True:
            page = await self.api.sync(cursor, limit=3)
            assert [row.seq for row in page.items] == sorted(row.seq for row in page.items)
            assert all(row.seq > last for row in page.items)
            last = max([last, *(row.seq for row in page.items)])
            found.update((row.id, row) for row in page.items)
            cursor = page.cursor
            if not page.has_more:
                return found

    async def answer(self, url: str, first: int = 0, last: int | None = None) -> tuple[int, str, int, bytes]:
        """Return status, Content-Range, announced length and body of a read from the store."""
        async with self.wire.get(url, first, last) as reading:
            body = b""
            while piece := await reading.piece():
                body += piece
            return reading.status, reading.content_range, reading.length or 0, body

    async def put(self, session: Upload, content: bytes) -> None:
        """Send what a session of one file wants in one request."""
        signed = session.entries[0].put
        assert signed is not None
        source = LargeSource("a difference", len(content), hash_of(content), _memory(content))
        await self.wire.put(signed, part_body(source, measure(source, 1, 0, len(content))))

    async def put_together(self, delta: DownloadDelta, base: bytes) -> bytes:
        """Return the version that a difference to these bytes gives."""
        fd = _memory(b"")
        found = await self.transfer.download_delta(delta, (_memory(base), len(base)), fd, hashlib.sha256())
        assert found == delta.content_hash
        return os.pread(fd, delta.size + 1, 0)

    async def read(self, node_id: str, version_id: str | None = None) -> bytes:
        source = await self.api.download(node_id, version_id)
        with tempfile.TemporaryFile() as file:
            assert await self.transfer.download(source, file.fileno()) == source.content_hash
            return os.pread(file.fileno(), source.size + 1, 0)


def _row(result: ItemResult) -> NodeRow:
    assert result.ok, result
    assert result.row is not None
    return result.row


def _source(content: bytes) -> SmallSource:
    return SmallSource("a path", len(content), hash_of(content), lambda: content)


async def refused(call: Awaitable[object]) -> str:
    """Return the code that a call is refused with."""
    with pytest.raises(LockstepError) as caught:
        await call
    return caught.value.code


# The cases ---------------------------------------------------------------------------------------


async def names_are_unique_among_live_nodes_in_nfc(s: Asked) -> None:
    folder = await s.folder("d")
    await s.file("caf\u00e9", b"one", folder.id)
    taken = CreateFolder(parent_id=folder.id, name="cafe\u0301")
    assert await s.codes(taken, CreateFolder(parent_id=folder.id, name="CAF\u00c9")) == ["name_taken", None]
    second = await s.commit(b"two", CommitTarget(parent_id=folder.id, name="caf\u00e9"))
    assert second.code == "name_taken"
    assert second.current is not None
    assert second.current.content_hash == hash_of(b"one")


async def a_creation_repeated_with_its_id_is_the_same(s: Asked) -> None:
    op = CreateFolder(id=new_id(), parent_id=s.root, name="once")
    first, again = await s.do(op, op)
    assert _row(first).seq == _row(again).seq
    link = CreateSymlink(id=new_id(), parent_id=s.root, name="l", target="once")
    assert await s.codes(link, link) == [None, None]


async def a_batch_can_fill_the_folder_that_it_makes(s: Asked) -> None:
    outer, inner = new_id(), new_id()
    ops = [
        CreateFolder(id=outer, parent_id=s.root, name="outer"),
        CreateFolder(id=inner, parent_id=outer, name="inner"),
        CreateFolder(parent_id=new_id(), name="nowhere"),
    ]
    assert await s.codes(*ops) == [None, None, "not_found"]


async def a_move_is_refused_from_where_the_node_is_not(s: Asked) -> None:
    a, b = await s.folder("a"), await s.folder("b")
    move = Move(node_id=a.id, expect_parent_id=s.root, expect_name="a", parent_id=b.id, name="c")
    assert await s.codes(move, move) == [None, None]  # done already counts as done
    other = Move(node_id=a.id, expect_parent_id=s.root, expect_name="a", parent_id=s.root, name="x")
    into_itself = Move(node_id=b.id, expect_parent_id=s.root, expect_name="b", parent_id=a.id, name="b")
    taken = Move(node_id=a.id, expect_parent_id=b.id, expect_name="c", parent_id=s.root, name="b")
    assert await s.codes(other, into_itself, taken) == ["node_moved", "cycle", "name_taken"]


async def names_rotate_in_one_batch(s: Asked) -> None:
    a, b = await s.file("a", b"A"), await s.file("b", b"B")
    ops = [
        Move(node_id=a.id, expect_parent_id=s.root, expect_name="a", parent_id=s.root, name="aside"),
        Move(node_id=b.id, expect_parent_id=s.root, expect_name="b", parent_id=s.root, name="a"),
        Move(node_id=a.id, expect_parent_id=s.root, expect_name="aside", parent_id=s.root, name="b"),
    ]
    assert await s.codes(*ops) == [None, None, None]
    rows = await s.rows()
    assert (rows[a.id].name, rows[b.id].name) == ("b", "a")
    assert rows[a.id].content_hash == hash_of(b"A")


async def a_folder_goes_only_as_it_was_seen(s: Asked) -> None:
    folder = await s.folder("d")
    seen = await s.api.head_seq()
    await s.file("new", b"new", folder.id)
    assert await s.codes(Delete(node_id=folder.id, seen_seq=seen)) == ["subtree_changed"]
    now = await s.api.head_seq()
    gone = Delete(node_id=folder.id, seen_seq=now)
    assert await s.codes(gone, gone) == [None, None]
    assert await s.codes(CreateFolder(parent_id=folder.id, name="late")) == ["parent_deleted"]
    late = await s.commit(b"late", CommitTarget(parent_id=folder.id, name="late"))
    assert late.code == "parent_deleted"


async def what_is_below_a_deleted_folder_keeps_its_row(s: Asked) -> None:
    folder = await s.folder("d")
    file = await s.file("f", b"f", folder.id)
    await s.do(Delete(node_id=folder.id, seen_seq=await s.api.head_seq()))
    rows = await s.rows()
    assert (rows[folder.id].deleted, rows[file.id].deleted, rows[file.id].seq) == (True, False, file.seq)
    moved = Move(node_id=file.id, expect_parent_id=folder.id, expect_name="f", parent_id=s.root, name="f")
    assert await s.codes(moved) == [None]  # an edited file is moved out of it
    assert await s.read(file.id) == b"f"


async def a_version_is_made_on_the_one_that_was_seen(s: Asked) -> None:
    row = await s.file("f", b"one")
    on_first = CommitTarget(node_id=row.id, base_version_id=row.version_id)
    second = _row(await s.commit(b"two", on_first))
    assert (second.id, second.content_hash) == (row.id, hash_of(b"two"))
    late = await s.commit(b"three", on_first)
    assert late.code == "version_conflict"
    assert late.current is not None
    assert late.current.version_id == second.version_id
    assert await s.codes(Delete(node_id=row.id, version_id=row.version_id)) == ["version_conflict"]
    assert await s.read(row.id) == b"two"
    assert await s.read(row.id, row.version_id) == b"one"


async def an_edit_brings_a_deleted_file_back(s: Asked) -> None:
    row = await s.file("f", b"one")
    await s.do(Delete(node_id=row.id, version_id=row.version_id))
    on_it = CommitTarget(node_id=row.id, base_version_id=row.version_id)
    assert (await s.commit(b"two", on_it)).code == "node_deleted"
    assert await refused(s.api.download(row.id)) == "not_found"
    back = _row(await s.commit(b"two", on_it.model_copy(update={"undelete": True})))
    assert (back.id, back.deleted, back.content_hash) == (row.id, False, hash_of(b"two"))


async def a_deleted_file_whose_name_is_taken_does_not_come_back(s: Asked) -> None:
    row = await s.file("f", b"one")
    await s.do(Delete(node_id=row.id, version_id=row.version_id))
    await s.file("f", b"other")
    target = CommitTarget(node_id=row.id, base_version_id=row.version_id, undelete=True)
    assert (await s.commit(b"two", target)).code == "name_taken"


async def attributes_are_set_on_the_version_that_was_seen(s: Asked) -> None:
    row = await s.file("f", b"one")
    new = SetAttributes(node_id=row.id, version_id=row.version_id, mtime_ns=5, executable=True)
    late = SetAttributes(node_id=row.id, version_id=new_id(), mtime_ns=6, executable=False)
    first, second = await s.do(new, late)
    assert (_row(first).mtime_ns, _row(first).executable) == (5, True)
    assert _row(first).version_id == row.version_id
    assert second.code == "version_conflict"


async def the_same_content_is_stored_once(s: Asked) -> None:
    content = secrets.token_bytes(100)
    await s.file("a", content)
    session = await s.api.create_upload_batch([UploadBatchItem(content_hash=hash_of(content), size=100)])
    assert session.entries[0].mode.value == "stored"
    wrong_size = await s.api.create_upload_batch([UploadBatchItem(content_hash=hash_of(content), size=99)])
    assert wrong_size.entries[0].mode.value == "put"


async def what_was_not_sent_is_not_committed(s: Asked) -> None:
    items = [UploadBatchItem(content_hash=hash_of(secrets.token_bytes(9)), size=9)]
    session = await s.api.create_upload_batch(items)
    target = CompleteItem(index=0, parent_id=s.root, name="f")
    assert await refused(s.api.complete_upload_batch(session.id, [target])) == "bytes_missing"
    await s.api.abort_upload(session.id)
    assert await refused(s.api.complete_upload_batch(session.id, [target])) == "upload_not_open"
    assert (await s.api.get_upload(session.id)).state is UploadState.ABORTED


async def a_completion_that_is_repeated_commits_once(s: Asked) -> None:
    upload = await s.transfer.upload_small([_source(b"x" * 20)])
    target = CompleteItem(index=0, parent_id=s.root, name="f")
    (first,) = await s.api.complete_upload_batch(upload.upload_id, [target])
    (again,) = await s.api.complete_upload_batch(upload.upload_id, [target])
    assert _row(first).seq == _row(again).seq
    elsewhere = CompleteItem(index=0, parent_id=s.root, name="g")
    (other,) = await s.api.complete_upload_batch(upload.upload_id, [elsewhere])
    assert other.code == "committed_elsewhere"


async def a_refused_batch_is_completed_elsewhere_without_bytes(s: Asked) -> None:
    await s.file("taken", b"first")
    upload = await s.transfer.upload_small([_source(b"y" * 20), _source(b"z" * 20)])
    items = [
        CompleteItem(index=0, parent_id=s.root, name="taken"),
        CompleteItem(index=1, parent_id=s.root, name="free"),
    ]
    refusal, done = await s.api.complete_upload_batch(upload.upload_id, items)
    assert (refusal.code, done.code) == ("name_taken", None)
    elsewhere = CompleteItem(index=0, parent_id=s.root, name="taken too")
    assert (await s.api.complete_upload_batch(upload.upload_id, [elsewhere]))[0].ok


async def a_large_file_goes_on_from_the_parts_that_are_there(s: Asked) -> None:
    content = random.Random(7).randbytes(2 * PART + 5)
    parts = [content[:PART], content[PART : 2 * PART], content[2 * PART :]]
    request = UploadRequest(content_hash=hash_of(content), size=len(content))
    session = await s.api.create_upload(request)
    assert (session.part_size, session.parts_total) == (PART, 3)
    assert (await s.api.create_upload(request)).id == session.id
    urls = await s.api.upload_urls(session.id, UrlsRequest(parts={1: hash_of(parts[0])}))
    fixed = UrlsRequest(parts={1: hash_of(b"other")})
    assert await refused(s.api.upload_urls(session.id, fixed)) == "part_digest_fixed"
    assert set(urls.items) == {1}
    assert await refused(s.api.record_parts(session.id, {2: hash_of(parts[1])})) == "parts_missing"
    target = CommitTarget(parent_id=s.root, name="large")
    assert await refused(s.api.complete_upload(session.id, target)) == "parts_missing"
    row = await s.transfer.commit_large(_large(content), target)
    assert (row.size, row.content_hash) == (len(content), hash_of(content))
    assert await s.read(row.id) == content


def _large(content: bytes) -> LargeSource:
    return LargeSource("large", len(content), hash_of(content), _memory(content))


def _memory(content: bytes) -> int:
    fd = os.memfd_create("large")
    os.write(fd, content)
    return fd


async def downloads_come_one_by_one_and_in_batches(s: Asked) -> None:
    row, folder = await s.file("f", b"content"), await s.folder("d")
    reply = await s.api.download_batch(
        [DownloadItem(node_id=row.id), DownloadItem(node_id=folder.id), DownloadItem(node_id=new_id())]
    )
    assert [(r.index, r.code) for r in reply.items] == [(0, None), (1, "not_a_file"), (2, "not_found")]
    assert await s.read(row.id) == b"content"


async def a_file_sent_in_parts_tells_their_digests(s: Asked) -> None:
    content = random.Random(8).randbytes(2 * PART + 5)
    row = await s.transfer.commit_large(_large(content), CommitTarget(parent_id=s.root, name="large"))
    assert row.version_id is not None
    page = await s.api.part_digests(row.id, row.version_id, 1)
    assert (page.part_size, page.parts_total) == (PART, 3)
    parts = [content[:PART], content[PART : 2 * PART], content[2 * PART :]]
    told = [(n, len(part), hash_of(part)) for n, part in enumerate(parts, 1)]
    assert [(item.number, item.size, item.digest) for item in page.items] == told
    rest = await s.api.part_digests(row.id, row.version_id, 3)
    assert [(item.number, item.size, item.digest) for item in rest.items] == told[2:]
    beyond = await s.api.part_digests(row.id, row.version_id, 4)
    assert (beyond.parts_total, beyond.items) == (3, [])


async def a_file_sent_in_one_has_no_parts_to_tell_of(s: Asked) -> None:
    row, folder = await s.file("f", b"content"), await s.folder("d")
    page = await s.api.part_digests(row.id, row.version_id or "", 1)
    assert (page.part_size, page.items) == (None, [])
    assert await refused(s.api.part_digests(folder.id, new_id(), 1)) == "not_a_file"
    assert await refused(s.api.part_digests(row.id, new_id(), 1)) == "not_found"
    assert await refused(s.api.part_digests(new_id(), new_id(), 1)) == "not_found"


async def a_part_of_a_file_is_read_as_asked(s: Asked) -> None:
    row = await s.file("f", b"0123456789")
    url = (await s.api.download(row.id)).url
    assert await s.answer(url) == (200, "", 10, b"0123456789")
    assert await s.answer(url, 4) == (206, "bytes 4-9/10", 6, b"456789")
    assert await s.answer(url, 4, 6) == (206, "bytes 4-6/10", 3, b"456")
    assert await s.answer(url, 8, 20) == (206, "bytes 8-9/10", 2, b"89")
    with pytest.raises(UrlRefusedError):
        await s.answer(url, 10, 20)


async def a_file_is_put_together_of_a_version_and_a_difference(s: Asked) -> None:
    old, new = _editions()
    row = await s.file("f", old)
    target = CommitTarget(node_id=row.id, base_version_id=row.version_id)
    session = await s.api.create_upload(_request(new, _offer(row, b"not sent yet")))
    assert (session.entries[0].mode, session.joined) == (UploadMode.DELTA, False)
    assert await refused(s.api.complete_upload(session.id, target)) == "bytes_missing"
    source = replace(_large(new), delta=_delta(row, old, new))
    upload = await s.transfer.upload_large(source)
    assert upload.upload_id == session.id
    assert s.transfer.tally.uploaded_bytes < len(old) + len(new) / 10
    after = await s.api.complete_upload(session.id, target)
    assert (after.size, after.content_hash) == (len(new), hash_of(new))
    assert await s.read(row.id) == new


async def a_difference_that_does_not_give_the_content_is_refused(s: Asked) -> None:
    """The session stays, and takes the whole."""
    old, new = _editions()
    row = await s.file("f", old)
    target = CommitTarget(node_id=row.id, base_version_id=row.version_id)
    wrong = _object(old, new[:-1] + b"?")
    session = await s.api.create_upload(_request(new, _offer(row, wrong)))
    await s.put(session, wrong)
    assert await refused(s.api.complete_upload(session.id, target)) == "delta_refused"
    left = await s.api.get_upload(session.id)
    assert (left.state, left.code, left.entries[0].mode) == (
        UploadState.OPEN,
        "delta_refused",
        UploadMode.PUT,
    )
    assert (await s.transfer.commit_large(_large(new), target)).content_hash == hash_of(new)
    assert (await s.api.get_upload(session.id)).state is UploadState.COMMITTED


async def what_is_no_difference_at_all_is_refused(s: Asked) -> None:
    old, new = _editions()
    row = await s.file("f", old)
    session = await s.api.create_upload(_request(new, _offer(row, b"nonsense")))
    await s.put(session, b"nonsense")
    target = CommitTarget(parent_id=s.root, name="g")
    assert await refused(s.api.complete_upload(session.id, target)) == "delta_refused"


async def who_joins_without_the_base_sends_the_whole(s: Asked) -> None:
    old, new = _editions()
    row = await s.file("f", old)
    sent = _object(old, new)
    with_base = _request(new, _offer(row, sent))
    first = await s.api.create_upload(with_base)
    again = await s.api.create_upload(with_base)
    assert (again.id, again.joined, again.entries[0].mode) == (first.id, True, UploadMode.DELTA)
    whole = await s.api.create_upload(_request(new))
    assert (whole.id, whole.joined, whole.entries[0].mode) == (first.id, True, UploadMode.PUT)
    back = await s.api.create_upload(with_base)
    assert (back.id, back.entries[0].mode) == (first.id, UploadMode.DELTA)
    await s.put(back, sent)
    done = await s.api.create_upload(with_base)
    assert (done.entries[0].mode, done.entries[0].put) == (UploadMode.DELTA, None), (
        "nothing is left to be sent"
    )
    target = CommitTarget(parent_id=s.root, name="g")
    assert (await s.api.complete_upload(first.id, target)).content_hash == hash_of(new)


async def what_a_refused_commit_has_put_together_is_committed_elsewhere_without_bytes(s: Asked) -> None:
    old, new = _editions()
    row = await s.file("f", old)
    sent = _object(old, new)
    session = await s.api.create_upload(_request(new, _offer(row, sent)))
    await s.put(session, sent)
    taken = CommitTarget(parent_id=s.root, name="f")
    assert await refused(s.api.complete_upload(session.id, taken)) == "name_taken"
    whole = await s.api.create_upload(_request(new))
    assert (whole.id, whole.entries[0].put) == (session.id, None)
    free = CommitTarget(parent_id=s.root, name="free")
    assert (await s.api.complete_upload(session.id, free)).content_hash == hash_of(new)


async def a_difference_to_what_cannot_be_read_is_not_taken(s: Asked) -> None:
    old, new = _editions()
    row = await s.file("f", old)
    unknown = _offer(row, b"any").model_copy(update={"base_version_id": new_id()})
    session = await s.api.create_upload(_request(new, unknown))
    assert session.entries[0].mode is UploadMode.PUT
    assert await refused(s.api.upload_urls(session.id, UrlsRequest(parts={1: hash_of(new)}))) == (
        "invalid_request"
    )
    stored = await s.api.create_upload(_request(old, _offer(row, b"any")))
    assert stored.entries[0].mode is UploadMode.STORED


async def any_two_versions_have_a_difference_to_be_fetched(s: Asked) -> None:
    old, new = _editions()
    row = await s.file("f", old)
    first = row.version_id or ""
    row = _row(await s.commit(new, CommitTarget(node_id=row.id, base_version_id=first)))
    second = row.version_id or ""
    for base, base_bytes, wanted in ((first, old, None), (second, new, first), (second, new, second)):
        delta = await s.api.download_delta(row.id, base, wanted)
        assert delta.from_version_id == base
        assert delta.version_id == (wanted or second)
        found = await s.put_together(delta, base_bytes)
        assert found == (old if wanted == first else new)
        assert delta.content_hash == hash_of(found)


async def a_row_names_what_its_content_was_put_together_from(s: Asked) -> None:
    """Of that version the difference is there for any device, though its file may be deleted by now."""
    old, new = _editions()
    row = await s.file("f", old)
    assert row.base is None
    source = replace(_large(new), delta=_delta(row, old, new))
    target = CommitTarget(parent_id=s.root, name="copy", mtime_ns=1)
    copy = await s.transfer.commit_large(source, target)
    known = BaseVersion(node_id=row.id, version_id=row.version_id or "", content_hash=row.content_hash or "")
    assert copy.base == known
    rows = await s.rows()
    assert (rows[copy.id].base, rows[row.id].base) == (known, None)
    await s.do(Delete(node_id=row.id, version_id=row.version_id))
    delta = await s.api.download_delta(copy.id, known.version_id, copy.version_id, row.id)
    assert await s.put_together(delta, old) == new
    whole = _row(await s.commit(b"whole", CommitTarget(node_id=copy.id, base_version_id=copy.version_id)))
    assert whole.base is None
    assert await refused(s.api.download_delta(copy.id, new_id(), copy.version_id, row.id)) == "not_found"
    assert await refused(s.api.download_delta(copy.id, known.version_id, None, new_id())) == "not_found"


async def where_little_is_in_common_there_is_no_difference(s: Asked) -> None:
    old, new = _editions()
    row = await s.file("f", old)
    first = row.version_id or ""
    row = _row(await s.commit(new[::-1], CommitTarget(node_id=row.id, base_version_id=first)))
    assert await refused(s.api.download_delta(row.id, first, row.version_id)) == "no_delta"
    small = await s.file("small", b"one")
    also = _row(await s.commit(b"two", CommitTarget(node_id=small.id, base_version_id=small.version_id)))
    assert (
        await refused(s.api.download_delta(small.id, small.version_id or "", also.version_id)) == "no_delta"
    )
    assert await refused(s.api.download_delta(row.id, new_id(), row.version_id)) == "not_found"
    assert await refused(s.api.download_delta(small.id, first, None)) == "not_found"
    folder = await s.folder("d")
    assert await refused(s.api.download_delta(folder.id, first, None)) == "not_a_file"


def _editions() -> tuple[bytes, bytes]:
    """Return a content that is cut into chunks, and one with an edit in its middle; new ones each time."""
    old = random.Random(secrets.token_bytes(8)).randbytes(600_000)
    return old, old[:300_000] + b"an edit" + old[300_100:]


def _recipe(old: bytes, new: bytes) -> Recipe:
    before, after = _manifest(old), _manifest(new)
    return recipe_of(before, after)


def _manifest(content: bytes) -> Manifest:
    reader = ContentReader(len(content))
    reader.update(content)
    manifest = reader.manifest()
    assert manifest is not None
    return manifest


def _object(old: bytes, new: bytes) -> bytes:
    out = io.BytesIO()
    write(_recipe(old, new), lambda offset, length: new[offset : offset + length], out)
    return out.getvalue()


def _offer(row: NodeRow, sent: bytes) -> DeltaOffer:
    return DeltaOffer(base_version_id=row.version_id or "", size=len(sent), sha256=hash_of(sent))


def _delta(row: NodeRow, old: bytes, new: bytes) -> DeltaBase:
    return DeltaBase(row.version_id or "", _recipe(old, new), Path(tempfile.gettempdir()))


def _request(content: bytes, offer: DeltaOffer | None = None) -> UploadRequest:
    return UploadRequest(content_hash=hash_of(content), size=len(content), delta=offer)


async def the_feed_ends_at_the_head_and_goes_on_from_there(s: Asked) -> None:
    empty = await s.api.sync(None)
    assert (empty.items, empty.has_more) == ([], False)
    row = await s.file("f", b"one")
    page = await s.api.sync(empty.cursor)
    assert [item.id for item in page.items] == [row.id]
    assert (await s.api.sync(page.cursor)).items == []
    assert page.items[0].kind is Kind.FILE


async def a_cursor_that_cannot_be_continued_is_gone(s: Asked) -> None:
    here = Cursor.decode((await s.api.sync(None)).cursor)
    assert await refused(s.api.sync(here.at(s.root, 10_000).encode())) == "epoch_changed"
    assert await refused(s.api.sync(Cursor(here.epoch + 1, here.seqs).encode())) == "epoch_changed"
    assert await refused(s.api.sync("nonsense")) == "invalid_request"


CASES: list[Callable[[Asked], Awaitable[None]]] = [
    names_are_unique_among_live_nodes_in_nfc,
    a_creation_repeated_with_its_id_is_the_same,
    a_batch_can_fill_the_folder_that_it_makes,
    a_move_is_refused_from_where_the_node_is_not,
    names_rotate_in_one_batch,
    a_folder_goes_only_as_it_was_seen,
    what_is_below_a_deleted_folder_keeps_its_row,
    a_version_is_made_on_the_one_that_was_seen,
    an_edit_brings_a_deleted_file_back,
    a_deleted_file_whose_name_is_taken_does_not_come_back,
    attributes_are_set_on_the_version_that_was_seen,
    the_same_content_is_stored_once,
    what_was_not_sent_is_not_committed,
    a_completion_that_is_repeated_commits_once,
    a_refused_batch_is_completed_elsewhere_without_bytes,
    a_large_file_goes_on_from_the_parts_that_are_there,
    downloads_come_one_by_one_and_in_batches,
    a_file_sent_in_parts_tells_their_digests,
    a_file_sent_in_one_has_no_parts_to_tell_of,
    a_part_of_a_file_is_read_as_asked,
    a_file_is_put_together_of_a_version_and_a_difference,
    a_difference_that_does_not_give_the_content_is_refused,
    what_is_no_difference_at_all_is_refused,
    who_joins_without_the_base_sends_the_whole,
    what_a_refused_commit_has_put_together_is_committed_elsewhere_without_bytes,
    a_difference_to_what_cannot_be_read_is_not_taken,
    any_two_versions_have_a_difference_to_be_fetched,
    a_row_names_what_its_content_was_put_together_from,
    where_little_is_in_common_there_is_no_difference,
    the_feed_ends_at_the_head_and_goes_on_from_there,
    a_cursor_that_cannot_be_continued_is_gone,
]


# The servers -------------------------------------------------------------------------------------


@asynccontextmanager
async def in_simulation(home: Path) -> AsyncIterator[Asked]:
    settings = Settings(home=home)
    settings.folder.mkdir()
    CredentialStore(settings).save(DeviceCredentials.of(SERVER, tokens("laptop")))
    server = Server(sizes=Sizes(single_put=PART, part=PART))
    session: Any = Session(Network(server, random.Random(1), delay=0.0), Machine("laptop"))
    api = Api(Transport(session, SERVER, settings, CredentialStore(settings)), settings)
    yield Asked(api, Transfer(session, api, settings), Wire(session, settings))


@asynccontextmanager
async def real(stack: Stack, root: Path) -> AsyncIterator[Asked]:
    device = await asyncio.to_thread(new_account(stack.gateway_url, root).link, "laptop", register=True)
    settings = Settings(home=device.home)
    async with AsyncExitStack() as opened:
        api = await opened.enter_async_context(open_api(settings))
        transfer = await opened.enter_async_context(open_transfer(settings, api))
        wire = Wire(await opened.enter_async_context(s3_session(settings)), settings)
        yield Asked(api, transfer, wire)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_the_simulated_server_answers_as_the_contract_says(
    case: Callable[[Asked], Awaitable[None]], tmp_path: Path
) -> None:
    async with in_simulation(tmp_path / "home") as asked:
        await case(asked)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_the_real_server_answers_as_the_contract_says(
    case: Callable[[Asked], Awaitable[None]], stack: Stack, tmp_path: Path
) -> None:
    stack.ensure_running()
    async with real(stack, tmp_path) as asked:
        await case(asked)
