import asyncio
import io
import os
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.errors import LocalError
from agent.transfer import DeltaBase, LargeSource, Transfer, delta
from agent.transfer import source as reading
from agent.transfer.lanes import Lanes
from agent.transfer.large import _PartsRun
from libs.contracts.errors import ConflictError, UnavailableError
from libs.contracts.recipe import Copy, Literal, Recipe
from libs.contracts.tree import CommitTarget
from libs.delta.package import write
from tests.support.agent_api import NAMESPACE, NODE, UPLOAD, linked_transfer, row, upload
from tests.support.scripted import Answer, ScriptedServer, problem, resets, s3_error, says, scripted
from tests.unit.test_agent_transfer_small import OK, sha, signed

PART = 1000
CONTENT = os.urandom(4500)
PARTS = {n + 1: CONTENT[n * PART : (n + 1) * PART] for n in range(5)}
SESSION = f"/v1/uploads/{UPLOAD}"
TARGET = CommitTarget(parent_id=NAMESPACE, name="a.bin")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def transfer(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Transfer]:
    async with linked_transfer(server, tmp_path / "home", url_batch=2, part_parallel=2) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    handle = os.open(file, os.O_RDONLY)
    yield handle
    os.close(handle)


@dataclass
class Notes:
    """What a device remembers of parts."""

    digests: dict[int, str] = field(default_factory=dict)
    forgotten: int = 0

    def known(self, part_size: int) -> Mapping[int, str]:
        assert part_size == PART
        return dict(self.digests)

    def note(self, upload_id: str, part_size: int, digests: Mapping[int, str]) -> None:
        assert (upload_id, part_size) == (UPLOAD, PART)
        self.digests |= digests

    def forget(self) -> None:
        assert threading.current_thread() is threading.main_thread(), "the memory has one thread"
        self.forgotten += 1
        self.digests = {}


def source(fd: int, **more: Any) -> LargeSource:
    return LargeSource("a.bin", len(CONTENT), sha(CONTENT), fd, **more)


def session(held: Mapping[int, str | None] | None = None, **changes: Any) -> Answer:
    entry = {"index": 0, "mode": "multipart", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    parts = [{"number": n, "size": len(PARTS[n]), "digest": digest} for n, digest in (held or {}).items()]
    more = {"part_size": PART, "parts_total": 5, "parts_done": len(parts), "parts": parts, **changes}
    return says(upload([entry], **more), 201)


def accept_parts(server: ScriptedServer, but: int = 0) -> None:
    """A server and a store that take every part, one excepted."""

    async def urls(request: web.Request) -> web.StreamResponse:
        asked = (await request.json())["parts"]
        items = {n: signed(server, f"part{n}", PARTS[int(n)]) for n in asked}
        return web.json_response({"items": items})

    server.on("POST", f"{SESSION}/urls", urls)
    server.on("POST", f"{SESSION}/parts", session())
    for number in set(PARTS) - {but}:
        server.on("PUT", f"/s3/part{number}", OK)


def sent(server: ScriptedServer, *, after: int = 0) -> list[int]:
    """Numbers of the parts that were sent, after so many requests."""
    puts = [seen.path for seen in server.seen[after:] if seen.path.startswith("/s3/part")]
    return [int(path.removeprefix("/s3/part")) for path in puts]


async def test_a_file_travels_in_parts_each_bound_to_its_digest(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    accept_parts(server)
    told = Notes()

    result = await transfer.upload_large(source(fd, notes=told))

    assert (result.upload_id, result.part_size, result.stored) == (UPLOAD, PART, False)
    assert sorted(sent(server)) == [1, 2, 3, 4, 5]
    assert {n: server.calls(f"/s3/part{n}")[0].body for n in PARTS} == PARTS
    assert told.digests == {n: sha(part) for n, part in PARTS.items()}
    recorded: dict[str, str] = {}
    for seen in server.calls(f"{SESSION}/parts"):
        recorded |= seen.json["parts"]
    assert recorded == {str(n): sha(part) for n, part in PARTS.items()}
    assert all(len(seen.json["parts"]) <= 2 for seen in server.calls(f"{SESSION}/urls"))
    assert transfer.tally.uploaded_bytes == len(CONTENT)


async def test_only_the_missing_parts_are_sent(server: ScriptedServer, transfer: Transfer, fd: int) -> None:
    held = {n: sha(PARTS[n]) for n in (1, 3)}
    server.on("POST", "/v1/uploads", session({**held, 4: None}))
    accept_parts(server)

    await transfer.upload_large(source(fd, notes=Notes(held)))

    assert sorted(sent(server)) == [2, 4, 5], "a part of unknown digest is sent again"
    assert transfer.tally.uploaded_bytes == 2500
    assert transfer.tally.settled_bytes == len(CONTENT)


async def test_another_device_takes_the_missing_parts_from_the_end(
    server: ScriptedServer, tmp_path: Path, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session({1: sha(PARTS[1])}, joined=True))
    accept_parts(server)
    async with linked_transfer(server, tmp_path / "home", part_parallel=1) as transfer:
        await transfer.upload_large(source(fd))

    assert sent(server) == [5, 4, 3, 2]


@pytest.mark.parametrize("held", [{2: "0" * 64}, {}], ids=["held", "announced"])
async def test_a_session_with_parts_of_other_content_is_given_up_for_a_new_one(
    server: ScriptedServer, transfer: Transfer, fd: int, held: dict[int, str]
) -> None:
    """They were read while the file changed; such a session could never be completed."""
    server.on("POST", "/v1/uploads", session(held), session())
    if not held:
        server.on("POST", f"{SESSION}/urls", problem("part_digest_fixed"))
    server.on("DELETE", SESSION, says(b"", 204))
    accept_parts(server)

    await transfer.upload_large(source(fd))

    (given_up,) = [at for at, seen in enumerate(server.seen) if seen.method == "DELETE"]
    assert set(sent(server, after=given_up)) == {1, 2, 3, 4, 5}, "all parts go into the new one"


async def test_a_server_that_has_other_parts_in_every_session_is_not_asked_for_ever(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session({2: sha(b"other")}))
    server.on("DELETE", SESSION, says(b"", 204))
    accept_parts(server)

    async with asyncio.timeout(10):
        with pytest.raises(LocalError, match="not what"):
            await transfer.upload_large(source(fd))


@pytest.mark.parametrize("change", ["content", "signs"])
async def test_of_a_file_that_is_not_what_was_announced_the_session_stays(
    server: ScriptedServer, transfer: Transfer, fd: int, file: Path, change: str
) -> None:
    """Other content never mixes with what S3 holds, and what S3 holds may be another device's."""
    server.on("POST", "/v1/uploads", session({2: sha(PARTS[2])}))
    server.on("POST", f"{SESSION}/urls", problem("part_digest_fixed"))
    if change == "content":
        file.write_bytes(CONTENT[::-1])

    with pytest.raises(LocalError, match="changed"):
        await transfer.upload_large(source(fd, unchanged=lambda: change != "signs"))

    assert not server.calls(SESSION, "DELETE")


async def test_bytes_refused_because_the_file_changed_are_no_damage(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("PUT", "/s3/part2", s3_error(400, "BadDigest"))
    accept_parts(server, but=2)

    with pytest.raises(LocalError, match="changed"):
        await transfer.upload_large(source(fd, unchanged=lambda: False))

    assert len(server.calls("/s3/part2")) == 1


async def test_an_expired_part_url_is_replaced_and_the_other_parts_are_kept(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("PUT", "/s3/part3", s3_error(403, "AccessDenied"), OK)
    accept_parts(server)

    await transfer.upload_large(source(fd))

    assert sorted(sent(server)) == [1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("trouble", [resets, s3_error(503, "SlowDown"), s3_error(400, "BadDigest")])
async def test_a_part_in_trouble_is_sent_again(
    server: ScriptedServer, transfer: Transfer, fd: int, trouble: Answer
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("PUT", "/s3/part2", trouble, OK)
    accept_parts(server)

    await transfer.upload_large(source(fd))

    assert server.calls("/s3/part2")[-1].body == PARTS[2]


async def test_a_file_that_changed_meanwhile_is_not_committed(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    accept_parts(server)

    with pytest.raises(LocalError, match="changed"):
        await transfer.commit_large(source(fd, unchanged=lambda: False), TARGET)
    assert not server.calls(f"{SESSION}/complete")


async def test_a_file_that_becomes_shorter_is_not_committed(
    server: ScriptedServer, transfer: Transfer, fd: int, file: Path
) -> None:
    server.on("POST", "/v1/uploads", session())
    accept_parts(server)
    os.truncate(file, 2100)

    with pytest.raises(LocalError, match="changed"):
        await transfer.upload_large(source(fd))


async def test_a_file_that_becomes_shorter_while_a_part_is_sent_is_not_committed(
    server: ScriptedServer, tmp_path: Path, file: Path, fd: int
) -> None:
    """The part was hashed and its URL given; then its end is gone when it is read to be sent."""

    async def urls(request: web.Request) -> web.StreamResponse:
        os.truncate(file, 10)
        asked = (await request.json())["parts"]
        return web.json_response({"items": {n: signed(server, f"part{n}", PARTS[int(n)]) for n in asked}})

    server.on("POST", "/v1/uploads", session())
    server.on("POST", f"{SESSION}/urls", urls)
    async with linked_transfer(server, tmp_path / "home") as transfer:
        with pytest.raises(LocalError, match="changed"):
            await transfer.upload_large(source(fd))


async def test_a_store_that_is_away_ends_the_upload_and_what_was_sent_is_recorded_or_known(
    server: ScriptedServer, tmp_path: Path, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("PUT", "/s3/part5", resets)
    accept_parts(server, but=5)
    told = Notes()
    async with linked_transfer(
        server, tmp_path / "home", transfer_retry_seconds=0.3, part_parallel=1
    ) as transfer:
        with pytest.raises(UnavailableError):
            await transfer.upload_large(source(fd, notes=told))

    assert sorted(told.digests) == [1, 2, 3, 4]


async def test_stored_content_is_committed_without_a_byte(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    entry = {"index": 0, "mode": "stored", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    server.on("POST", "/v1/uploads", says(upload([entry]), 201))
    server.on(
        "POST",
        f"{SESSION}/complete",
        says({"upload_id": UPLOAD, "state": "committed", "results": [{"index": 0, "row": row()}]}),
    )

    assert (await transfer.commit_large(source(fd), TARGET)).id == NODE
    assert transfer.tally.uploaded_bytes == 0


async def test_a_file_for_one_put_travels_whole(server: ScriptedServer, transfer: Transfer, fd: int) -> None:
    entry = {"index": 0, "mode": "put", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    put = signed(server, "whole", CONTENT)
    server.on("POST", "/v1/uploads", says(upload([{**entry, "put": put}]), 201))
    server.on("PUT", "/s3/whole", s3_error(403, "AccessDenied"), OK)
    server.on("POST", f"{SESSION}/urls", says({"items": {"0": put}}))

    await transfer.upload_large(source(fd))

    assert server.calls("/s3/whole")[-1].body == CONTENT


async def test_a_file_for_one_put_that_has_other_content_without_a_sign_is_not_sent(
    server: ScriptedServer, transfer: Transfer, fd: int, file: Path
) -> None:
    entry = {"index": 0, "mode": "put", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    put = signed(server, "whole", CONTENT)
    server.on("POST", "/v1/uploads", says(upload([{**entry, "put": put}]), 201))
    server.on("PUT", "/s3/whole", OK)
    file.write_bytes(CONTENT[::-1])

    with pytest.raises(LocalError, match="changed"):
        await transfer.upload_large(source(fd))
    assert not server.calls("/s3/whole")


async def test_a_session_that_another_device_is_committing_is_waited_for(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    entry = {"index": 0, "mode": "stored", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    server.on("POST", "/v1/uploads", session(state="committing"), says(upload([entry]), 201))
    server.on("GET", SESSION, session(state="committing"), session(state="committed"))

    assert (await transfer.upload_large(source(fd))).stored


async def test_parts_that_the_server_misses_at_the_end_are_sent_again_and_only_those(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    all_but_2 = {n: sha(part) for n, part in PARTS.items() if n != 2}
    done = {"upload_id": UPLOAD, "state": "committed", "results": [{"index": 0, "row": row()}]}
    server.on("POST", "/v1/uploads", session(), session(all_but_2))
    server.on("POST", f"{SESSION}/complete", problem("parts_missing", missing=[2]), says(done))
    accept_parts(server)

    assert (await transfer.commit_large(source(fd), TARGET)).id == NODE
    assert sorted(sent(server)) == [1, 2, 2, 3, 4, 5]


async def test_a_conflict_is_not_answered_by_sending_again(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("POST", f"{SESSION}/complete", problem("version_conflict"))
    accept_parts(server)

    with pytest.raises(ConflictError, match="version_conflict"):
        await transfer.commit_large(source(fd), TARGET)
    assert len(sent(server)) == 5


@pytest.mark.parametrize("bytes_sent", [True, False])
async def test_a_refused_session_is_ended_when_no_byte_was_sent_for_it(
    server: ScriptedServer, transfer: Transfer, fd: int, bytes_sent: bool
) -> None:
    """Nobody may come back to it: another device may have committed the same content."""
    stored = {"index": 0, "mode": "stored", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    server.on("POST", "/v1/uploads", session() if bytes_sent else says(upload([stored]), 201))
    server.on("POST", f"{SESSION}/complete", problem("name_taken"))
    server.on("DELETE", SESSION, says(None, 204))
    accept_parts(server)

    with pytest.raises(ConflictError, match="name_taken"):
        await transfer.commit_large(source(fd), TARGET)
    assert bool(server.calls(SESSION, "DELETE")) == (not bytes_sent), (
        "what was sent is there for the next try"
    )


async def test_no_more_parts_travel_at_once_than_allowed(
    server: ScriptedServer, transfer: Transfer, file: Path
) -> None:
    running, most = 0, 0

    async def slow(_request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return web.Response()

    server.on("POST", "/v1/uploads", session())
    for number in PARTS:
        server.on("PUT", f"/s3/part{number}", slow)
    accept_parts(server)
    handles = [os.open(file, os.O_RDONLY) for _ in range(2)]
    try:
        await asyncio.gather(*(transfer.upload_large(source(handle)) for handle in handles))
    finally:
        for handle in handles:
            os.close(handle)
    assert most == 2


async def test_a_continued_upload_does_not_read_again_what_it_sent_before(
    server: ScriptedServer, transfer: Transfer, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {n: sha(PARTS[n]) for n in (1, 2, 3)}
    server.on("POST", "/v1/uploads", session(held))
    accept_parts(server)
    read: list[int] = []

    def watched(handle: int, offset: int, length: int) -> bytes:
        read.append(offset // PART + 1)
        return os.pread(handle, length, offset)

    monkeypatch.setattr("agent.transfer.source.read_piece", watched)

    await transfer.upload_large(source(fd, notes=Notes(held)))

    assert set(read) == {4, 5}


async def test_what_another_device_has_sent_meanwhile_is_not_sent_again(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    accept_parts(server)

    async def urls(request: web.Request) -> web.StreamResponse:
        asked = (await request.json())["parts"]
        items = {n: signed(server, f"part{n}", PARTS[int(n)]) for n in asked}
        return web.json_response({"items": items, "done": [n for n in (3, 4) if str(n) in asked]})

    server._answers["POST", f"{SESSION}/urls"] = [urls]
    notes = Notes()

    await transfer.upload_large(source(fd, notes=notes))

    assert sorted(sent(server)) == [1, 2, 5]
    assert sorted(notes.digests) == [1, 2, 3, 4, 5], "it is known here too"
    assert transfer.tally.settled_bytes == len(CONTENT)


@pytest.mark.parametrize("state", ["completing", "committing", "committed"])
@pytest.mark.parametrize("refused", ["urls", "parts"])
async def test_a_session_that_another_device_ends_first_needs_no_more_parts(
    server: ScriptedServer, transfer: Transfer, fd: int, state: str, refused: str
) -> None:
    server.on("POST", "/v1/uploads", session())
    if refused == "urls":
        server.on("POST", f"{SESSION}/urls", problem("upload_not_open"))
    accept_parts(server)
    server._answers["POST", f"{SESSION}/parts"] = [problem("upload_not_open")]
    server.on("GET", SESSION, session(state=state))

    assert (await transfer.upload_large(source(fd))).upload_id == UPLOAD


async def test_a_session_that_was_aborted_meanwhile_is_an_error(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("POST", f"{SESSION}/urls", problem("upload_not_open"))
    server.on("GET", SESSION, session(state="aborted"))

    with pytest.raises(ConflictError, match="upload_not_open"):
        await transfer.upload_large(source(fd))


async def test_a_digest_noted_wrongly_is_found_out_and_the_upload_begins_anew(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    """It was noted when the file was another for a moment: S3 refuses the file's own bytes."""
    server.on("POST", "/v1/uploads", session())
    server.on("PUT", "/s3/part2", s3_error(400, "BadDigest"), OK)
    server.on("DELETE", SESSION, says(b"", 204))
    accept_parts(server, but=2)
    notes = Notes({2: "0" * 64})

    await transfer.upload_large(source(fd, notes=notes))

    assert notes.forgotten == 1
    assert len(server.calls(SESSION, "DELETE")) == 1
    assert notes.digests == {n: sha(part) for n, part in PARTS.items()}


@pytest.mark.parametrize("held", [{2: sha(PARTS[2])}, {}], ids=["held", "announced"])
async def test_a_digest_noted_wrongly_does_not_end_a_session_that_another_device_works_on(
    server: ScriptedServer, transfer: Transfer, fd: int, held: dict[int, str]
) -> None:
    server.on("POST", "/v1/uploads", session(held, joined=True))
    if not held:
        server.on("POST", f"{SESSION}/urls", problem("part_digest_fixed"))
    accept_parts(server)
    notes = Notes({2: "0" * 64})

    await transfer.upload_large(source(fd, notes=notes))

    assert not server.calls(SESSION, "DELETE")
    assert sorted(sent(server)) == sorted(set(PARTS) - set(held))
    assert notes.digests == {n: sha(part) for n, part in PARTS.items()}
    assert transfer.tally.settled_bytes == len(CONTENT)


async def test_a_disk_that_once_reads_other_bytes_does_not_end_a_session_that_another_device_works_on(
    server: ScriptedServer, transfer: Transfer, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("POST", "/v1/uploads", session({n: sha(PARTS[n]) for n in (1, 2, 3)}, joined=True))
    accept_parts(server)
    real, faulty = reading.read_piece, [2 * PART]

    def read_piece(handle: int, offset: int, length: int) -> bytes:
        piece = real(handle, offset, length)
        if offset not in faulty:
            return piece
        faulty.remove(offset)
        return bytes(len(piece))

    monkeypatch.setattr(reading, "read_piece", read_piece)

    await transfer.upload_large(source(fd))

    assert faulty == [], "it was read wrongly"
    assert not server.calls(SESSION, "DELETE")
    assert set(sent(server)) == {4, 5}, "what was on its way when it showed may go again"


async def test_a_file_that_is_sent_again_counts_once(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session({n: sha(part) for n, part in PARTS.items()}), session())
    done = {"upload_id": UPLOAD, "state": "committed", "results": [{"index": 0, "row": row()}]}
    server.on("POST", f"{SESSION}/complete", problem("parts_missing"), says(done))
    accept_parts(server)

    await transfer.commit_large(source(fd), TARGET)

    assert sorted(sent(server)) == [1, 2, 3, 4, 5]
    assert (transfer.tally.settled_bytes, transfer.tally.settled_files) == (len(CONTENT), 1)


async def test_a_digest_noted_wrongly_that_only_the_joining_of_the_parts_finds_out_is_not_sent_again(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    """Many an S3 compares no part with its digest when it is sent."""
    done = {"upload_id": UPLOAD, "state": "committed", "results": [{"index": 0, "row": row()}]}
    server.on("POST", "/v1/uploads", session())
    server.on("POST", f"{SESSION}/complete", problem("parts_missing", missing=[1, 2, 3, 4, 5]), says(done))
    accept_parts(server)
    notes = Notes({2: "0" * 64})

    await transfer.commit_large(source(fd, notes=notes), TARGET)

    asked = [seen.json["parts"] for seen in server.calls(f"{SESSION}/urls")]
    digests = [parts["2"] for parts in asked if "2" in parts]
    assert digests == ["0" * 64, sha(PARTS[2])]


async def test_a_part_that_another_device_sent_before_its_url_was_renewed_is_not_sent(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("PUT", "/s3/part3", s3_error(403, "AccessDenied"))

    async def urls(request: web.Request) -> web.StreamResponse:
        asked = (await request.json())["parts"]
        items = {n: signed(server, f"part{n}", PARTS[int(n)]) for n in asked}
        done = [3] if server.calls("/s3/part3") and "3" in asked else []
        return web.json_response({"items": items, "done": done})

    accept_parts(server, but=3)
    server._answers["POST", f"{SESSION}/urls"] = [urls]
    notes = Notes()

    await transfer.upload_large(source(fd, notes=notes))

    assert sorted(sent(server)) == [1, 2, 3, 4, 5], "it was tried once"
    assert notes.digests == {n: sha(part) for n, part in PARTS.items()}
    assert transfer.tally.settled_bytes == len(CONTENT)
    assert transfer.tally.uploaded_bytes == len(CONTENT) - PART


@dataclass
class Difference:
    """A file that is offered as a difference, and what is remembered of the delta object's parts."""

    fd: int
    folder: Path
    notes: dict[str, Notes] = field(default_factory=dict)
    refused: int = 0

    @property
    def source(self) -> LargeSource:
        recipe = Recipe((Literal(3000), Copy(0, len(CONTENT) - 3000)))
        base = DeltaBase("5" * 24, recipe, self.folder, self._refused)
        return source(self.fd, delta=base, notes_of=self._notes_of)

    def _refused(self) -> None:
        self.refused += 1

    def _notes_of(self, digest: str) -> Notes:
        return self.notes.setdefault(digest, Notes())

    def object(self) -> bytes:
        """The delta object as the agent makes it."""
        out = io.BytesIO()
        write(self.source.delta.recipe, lambda at, count: CONTENT[at : at + count], out)  # type: ignore[union-attr]
        return out.getvalue()

    def parts(self) -> dict[int, bytes]:
        made = self.object()
        return {n + 1: made[n * PART : (n + 1) * PART] for n in range(-(-len(made) // PART))}

    def session(self, held: Iterable[int] = (), **changes: Any) -> Answer:
        entry = {"index": 0, "mode": "delta", "content_hash": sha(CONTENT), "size": len(CONTENT)}
        parts = self.parts()
        rows = [{"number": n, "size": len(parts[n]), "digest": sha(parts[n])} for n in held]
        shown = {"part_size": PART, "parts_total": len(parts), "parts": rows, **changes}
        return says(upload([entry], **shown), 201)

    def accepted(self, server: ScriptedServer) -> None:
        """Have server and store take every part of the delta object, and of nothing else."""
        parts = self.parts()

        async def urls(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            assert body["delta"] == sha(self.object())
            items = {n: signed(server, f"part{n}", parts[int(n)]) for n in body["parts"]}
            return web.json_response({"items": items})

        server.on("POST", f"{SESSION}/urls", urls)
        server.on("POST", f"{SESSION}/parts", self.session())
        for number in parts:
            server.on("PUT", f"/s3/part{number}", OK)


@pytest.fixture
def difference(fd: int, tmp_path: Path) -> Difference:
    return Difference(fd, tmp_path)


async def test_a_delta_object_travels_in_parts_where_the_server_says_so(
    server: ScriptedServer, transfer: Transfer, difference: Difference
) -> None:
    parts = difference.parts()
    assert len(parts) > 3
    server.on("POST", "/v1/uploads", difference.session())
    difference.accepted(server)

    result = await transfer.upload_large(difference.source)

    assert result.delta == sha(difference.object())
    assert {n: server.calls(f"/s3/part{n}")[0].body for n in parts} == parts
    assert {seen.json["delta"] for seen in server.calls(f"{SESSION}/parts")} == {result.delta}
    assert difference.notes[result.delta].digests == {n: sha(part) for n, part in parts.items()}
    assert transfer.tally.uploaded_bytes == len(difference.object())
    assert transfer.tally.settled_bytes == len(CONTENT), "what the server has counts as done"


async def test_of_a_delta_object_only_the_missing_parts_are_sent(
    server: ScriptedServer, transfer: Transfer, difference: Difference
) -> None:
    parts = difference.parts()
    server.on("POST", "/v1/uploads", difference.session([1, 3]))
    difference.accepted(server)

    await transfer.upload_large(difference.source)

    assert sorted(sent(server)) == sorted(set(parts) - {1, 3})
    assert transfer.tally.settled_bytes == len(CONTENT)


async def test_a_line_that_breaks_again_and_again_costs_a_delta_object_parts_and_not_the_whole(
    server: ScriptedServer, tmp_path: Path, difference: Difference
) -> None:
    server.on("POST", "/v1/uploads", difference.session())
    server.on("PUT", "/s3/part2", *[resets] * 8, OK)
    difference.accepted(server)

    async with linked_transfer(server, tmp_path / "home", transfer_retry_seconds=30.0) as transfer:
        await transfer.upload_large(difference.source)

    assert len(server.calls("/v1/uploads")) == 1
    assert set(sent(server)) == set(difference.parts())


async def test_a_content_that_is_put_together_already_needs_no_part(
    server: ScriptedServer, transfer: Transfer, difference: Difference
) -> None:
    server.on("POST", "/v1/uploads", difference.session(part_size=None, parts_total=0))

    await transfer.upload_large(difference.source)

    assert transfer.tally.uploaded_bytes == 0
    assert transfer.tally.settled_bytes == len(CONTENT)


@pytest.mark.parametrize("then", ["parts", "delta"])
async def test_a_session_of_which_something_else_travels_by_now_is_opened_again(
    server: ScriptedServer, transfer: Transfer, difference: Difference, then: str
) -> None:
    again = session() if then == "parts" else difference.session()
    server.on("POST", "/v1/uploads", difference.session(), again)
    server.on("POST", f"{SESSION}/urls", problem("upload_changed"))
    if then == "parts":
        accept_parts(server)
    else:
        difference.accepted(server)

    await transfer.upload_large(difference.source)

    assert len(server.calls("/v1/uploads")) == 2
    assert set(sent(server)) == set(PARTS if then == "parts" else difference.parts())
    assert transfer.tally.settled_bytes == len(CONTENT), "it counts once"


async def test_a_session_that_is_changed_again_and_again_is_not_opened_for_ever(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    server.on("POST", f"{SESSION}/urls", problem("upload_changed"))

    with pytest.raises(ConflictError, match="upload_changed"):
        await transfer.upload_large(source(fd))

    assert len(server.calls("/v1/uploads")) == 3
    assert transfer.tally.settled_bytes == 0


async def test_another_device_that_sends_the_difference_is_waited_for_for_as_long_as_the_server_says(
    server: ScriptedServer, tmp_path: Path, fd: int
) -> None:
    """It sends less than this device would have to; when it is gone the server says so."""
    stored = {"index": 0, "mode": "stored", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    waits = [problem("delta_under_way")] * 3
    server.on("POST", "/v1/uploads", *waits, says(upload([stored]), 201))
    async with linked_transfer(server, tmp_path / "home", verification_wait_seconds=-1.0) as transfer:
        assert (await transfer.upload_large(source(fd))).stored

    assert len(server.calls("/v1/uploads")) == 4


@pytest.mark.parametrize("held", [True, False], ids=["held", "announced"])
async def test_a_session_with_other_parts_for_the_same_delta_object_is_given_up(
    server: ScriptedServer, transfer: Transfer, difference: Difference, held: bool
) -> None:
    """They cannot be of it: this device has the whole with its hash."""
    wrong = {"number": 2, "size": PART, "digest": "0" * 64}
    first = difference.session(parts=[wrong]) if held else difference.session()
    server.on("POST", "/v1/uploads", first, difference.session())
    if not held:
        server.on("POST", f"{SESSION}/urls", problem("part_digest_fixed"))
    server.on("DELETE", SESSION, says(b"", 204))
    difference.accepted(server)

    await transfer.upload_large(difference.source)

    assert len(server.calls(SESSION, "DELETE")) == 1
    (given_up,) = [at for at, seen in enumerate(server.seen) if seen.method == "DELETE"]
    assert set(sent(server, after=given_up)) == set(difference.parts())


async def test_after_the_commit_nothing_is_remembered_of_a_delta_object(
    server: ScriptedServer, transfer: Transfer, difference: Difference
) -> None:
    done = {"upload_id": UPLOAD, "state": "committed", "results": [{"index": 0, "row": row()}]}
    server.on("POST", "/v1/uploads", difference.session())
    server.on("POST", f"{SESSION}/complete", says(done))
    difference.accepted(server)

    await transfer.commit_large(difference.source, TARGET)

    assert difference.notes[sha(difference.object())].digests == {}


async def test_a_delta_object_of_parts_that_is_refused_is_followed_by_the_whole(
    server: ScriptedServer, transfer: Transfer, difference: Difference
) -> None:
    done = {"upload_id": UPLOAD, "state": "committed", "results": [{"index": 0, "row": row()}]}
    server.on("POST", "/v1/uploads", difference.session(list(difference.parts())), session())
    server.on("POST", f"{SESSION}/complete", problem("delta_refused"), says(done))
    accept_parts(server)

    await transfer.commit_large(difference.source, TARGET)

    assert difference.refused == 1
    assert difference.notes[sha(difference.object())].digests == {}
    assert sorted(sent(server)) == sorted(PARTS)
    assert transfer.tally.settled_bytes == len(CONTENT)


@pytest.mark.parametrize("refused_for", ["delta_refused", "version_conflict"])
async def test_a_large_delta_object_is_kept_unless_it_was_refused(
    server: ScriptedServer,
    transfer: Transfer,
    difference: Difference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused_for: str,
) -> None:
    monkeypatch.setattr(delta, "_SOON_MADE", 0)
    server.on("POST", "/v1/uploads", difference.session(list(difference.parts())), session())
    server.on("POST", f"{SESSION}/complete", problem(refused_for), problem("version_conflict"))
    accept_parts(server)

    with pytest.raises(ConflictError, match="version_conflict"):
        await transfer.commit_large(difference.source, TARGET)

    left = [path.name for path in (tmp_path / "home" / "spool").iterdir()]
    assert left == ([] if refused_for == "delta_refused" else [sha(CONTENT)])


async def test_content_that_the_server_is_just_verifying_is_waited_for_and_not_sent(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    entry = {"index": 0, "mode": "stored", "content_hash": sha(CONTENT), "size": len(CONTENT)}
    server.on("POST", "/v1/uploads", problem("verification_pending"), says(upload([entry]), 201))

    assert (await transfer.upload_large(source(fd))).stored


async def test_content_whose_verification_takes_too_long_is_sent(
    server: ScriptedServer, tmp_path: Path, fd: int
) -> None:
    server.on("POST", "/v1/uploads", problem("verification_pending"), session())
    accept_parts(server)
    async with linked_transfer(server, tmp_path / "home", verification_wait_seconds=-1.0) as transfer:
        assert not (await transfer.upload_large(source(fd))).stored

    assert [seen.json["send_anyway"] for seen in server.calls("/v1/uploads")] == [False, True]
    assert sorted(sent(server)) == [1, 2, 3, 4, 5]


async def test_the_measured_speed_is_told_for_the_choice_of_the_part_size(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("POST", "/v1/uploads", session())
    accept_parts(server)

    await transfer.upload_large(source(fd, throughput=123))

    assert server.calls("/v1/uploads")[0].json["throughput"] == 123


async def test_a_part_that_cannot_start_any_more_gives_its_lane_back() -> None:
    """Another part's error stops the group just as this one has got a lane; the lanes are all files'."""

    class Stopping(asyncio.TaskGroup):
        def create_task(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("shutting down")

    async def send() -> None:
        raise AssertionError("it never runs")

    run = object.__new__(_PartsRun)
    run._lanes = Lanes(1)

    with pytest.raises(RuntimeError, match="shutting down"):
        await run._in_a_lane(Stopping(), send())

    async with asyncio.timeout(1), run._lanes.lane():
        pass
