"""Large downloads: ranges side by side, verified one by one, continued by the journal."""

import asyncio
import base64
import errno
import hashlib
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from agent.disk import native
from agent.errors import LocalError
from agent.transfer import Transfer, ranged, ranges
from agent.transfer.journal import Journal, Note, new_checksum
from agent.transfer.pace import Pace
from agent.transfer.ranges import Arriving, Partial, Run
from agent.transfer.wire import PIECE, Reading
from libs.contracts.api import Download, DownloadDelta
from libs.contracts.errors import UnavailableError
from libs.contracts.recipe import Copy, Literal, Recipe, encode
from tests.support.agent_api import AT, NODE, VERSION, linked_transfer
from tests.support.scripted import Answer, ScriptedServer, problem, resets, s3_error, says, scripted
from tests.support.waiting import eventually
from tests.unit.test_agent_transfer_small import sha

RANGE = 100_000
CONTENT = os.urandom(12 * RANGE + 345)
COUNT = 13
PARTS = f"/v1/files/{NODE}/parts"
LINK = f"/v1/files/{NODE}/download"


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(ranges, "_READ", 10_000)
    monkeypatch.setattr(ranged, "RUN_BYTES", RANGE)
    monkeypatch.setattr(ranged, "PAUSE", 0.0)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        running.on("GET", PARTS, says({"part_size": None, "parts_total": 0, "items": []}))
        yield running


class Files:
    """The temporary file and its journal, and what a run does with them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.temp, self.journal = folder / "temp", folder / "temp.ranges"
        self.fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in (self.temp, self.journal)]

    async def fetch(self, transfer: Transfer, item: Download) -> str:
        return await transfer.download(item, *self.fds)

    @property
    def content(self) -> bytes:
        return self.temp.read_bytes()

    def fill(self, item: Download, numbers: list[int], size: int = RANGE) -> None:
        """Put ranges in their place as an earlier run would have, and note them."""
        journal = Journal(self.fds[1], item)
        if journal.read() != size:
            journal.begin(size)
        for number in numbers:
            offset = (number - 1) * size
            piece = CONTENT[offset : offset + size]
            Arriving(self.fds[0], journal, number, offset, len(piece)).write([piece])

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    found = Files(tmp_path / "files")
    yield found
    found.close()


@pytest.fixture
async def transfer(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Transfer]:
    async with linked_transfer(server, tmp_path / "home") as opened:
        yield opened


def link(server: ScriptedServer, path: str = "/s3/o", **changes: Any) -> dict[str, Any]:
    base = {"node_id": NODE, "version_id": VERSION, "url": server.url + path, "expires_at": AT}
    return {**base, "size": len(CONTENT), "content_hash": sha(CONTENT), **changes}


def item(server: ScriptedServer, **changes: Any) -> Download:
    return Download.model_validate(link(server, **changes))


def asked_span(request: web.Request) -> tuple[int, int]:
    """Return first byte and end of what is asked for."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
    assert found, request.headers["Range"]
    return int(found[1]), int(found[2]) + 1


def headers_of(start: int, end: int) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{end - 1}/{len(CONTENT)}"}


async def stored(request: web.Request) -> web.StreamResponse:
    """Answer as S3 does."""
    start, end = asked_span(request)
    return web.Response(body=CONTENT[start:end], status=206, headers=headers_of(start, end))


def in_trouble(trouble: Answer, *starts: int, times: int = 1) -> Answer:
    """Answer as S3 does, but with `trouble` the first `times` that a range from one of `starts` is asked."""
    left = dict.fromkeys(starts, times)

    async def answer(request: web.Request) -> web.StreamResponse:
        start = asked_span(request)[0]
        if left.get(start, 0):
            left[start] -= 1
            return await trouble(request)
        return await stored(request)

    return answer


def gives(change: Callable[[bytes], bytes]) -> Answer:
    """Answer with other bytes than those of the range."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start, end = asked_span(request)
        return web.Response(body=change(CONTENT[start:end]), status=206, headers=headers_of(start, end))

    return answer


def breaks_after(count: int) -> Answer:
    """Announce the range and break after `count` bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start, end = asked_span(request)
        response = web.StreamResponse(status=206, headers=headers_of(start, end))
        response.content_length = end - start
        await response.prepare(request)
        await response.write(CONTENT[start : start + count])
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


async def _page_of_a_hotel(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"<html>Sign in</html>", content_type="text/html")


def part_page(part_size: int, first: int, last: int, **wrong: str) -> dict[str, Any]:
    """The server's word on the parts `first` to `last`; `wrong`: digests that it has wrong, by `pN`."""
    total = -(-len(CONTENT) // part_size)
    items = []
    for number in range(first, last + 1):
        part = CONTENT[(number - 1) * part_size : number * part_size]
        digest = wrong.get(f"p{number}", sha(part))
        items.append({"number": number, "size": len(part), "digest": digest})
    return {"part_size": part_size, "parts_total": total, "items": items}


def knows_parts(server: ScriptedServer, part_size: int = RANGE, **wrong: str) -> None:
    total = -(-len(CONTENT) // part_size)
    server._answers["GET", PARTS].clear()
    server.on("GET", PARTS, says(part_page(part_size, 1, total, **wrong)))


def asked(server: ScriptedServer, path: str = "/s3/o") -> list[int]:
    """Numbers of the ranges that were asked for whole or in part, sorted."""
    return sorted(int(s.headers["Range"][6:].split("-")[0]) // RANGE + 1 for s in server.calls(path))


ALL = list(range(1, COUNT + 1))


# As it should be ---------------------------------------------------------------------------------


async def test_a_large_file_arrives_in_ranges_each_asked_for_once(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    server.on("GET", "/s3/o", stored)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)

    assert files.content == CONTENT
    assert asked(server) == ALL
    assert transfer.tally.downloaded_bytes == transfer.tally.settled_bytes == len(CONTENT)
    assert transfer.tally.settled_files == 1
    assert all("Authorization" not in seen.headers for seen in server.calls("/s3/o"))


async def test_the_ranges_are_the_parts_where_their_digests_are_known_on_several_pages(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    server._answers["GET", PARTS].clear()
    size = 250_000
    server.on("GET", PARTS, says(part_page(size, 1, 2)), says(part_page(size, 3, 5)))
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert [seen.query["first"] for seen in server.calls(PARTS)] == ["1", "3"]
    assert {seen.query["version"] for seen in server.calls(PARTS)} == {VERSION}
    spans = [f"bytes={n * size}-{min((n + 1) * size, len(CONTENT)) - 1}" for n in range(5)]
    assert sorted(seen.headers["Range"] for seen in server.calls("/s3/o")) == sorted(spans)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(problem("not_found"), id="an older server"),
        pytest.param(problem("object_gone"), id="the object is said to be gone"),
        pytest.param(says({"part_size": 0, "parts_total": 1, "items": []}), id="no size"),
        pytest.param(says({**part_page(RANGE, 1, 3), "parts_total": 3}), id="too few parts"),
        pytest.param(says({**part_page(RANGE, 1, COUNT), "part_size": 7}), id="another size"),
        pytest.param(says({**part_page(RANGE, 2, COUNT), "parts_total": COUNT - 1}), id="without the first"),
    ],
)
async def test_what_the_server_says_of_parts_is_only_used_when_it_makes_sense(
    server: ScriptedServer, transfer: Transfer, files: Files, told: Answer
) -> None:
    server._answers["GET", PARTS].clear()
    server.on("GET", PARTS, told)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT


async def test_a_range_that_comes_in_chunks_without_a_length_is_taken_as_well(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        start, end = asked_span(request)
        response = web.StreamResponse(status=206, headers=headers_of(start, end))
        response.enable_chunked_encoding()
        await response.prepare(request)
        for at in range(start, end, 7_001):
            await response.write(CONTENT[at : min(at + 7_001, end)])
        return response

    server.on("GET", "/s3/o", chunked)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT
    assert asked(server) == ALL


async def test_the_end_of_a_chunk_is_not_the_end_of_the_body() -> None:
    chunks = [(b"", True), (b"ab", True), (b"", True), (b"c", False), (b"", True)]

    async def readchunk() -> tuple[bytes, bool]:
        return chunks.pop(0)

    content = SimpleNamespace(readchunk=readchunk, at_eof=lambda: not chunks)
    response: Any = SimpleNamespace(status=206, content_length=None, headers={}, content=content)
    reading = Reading(response, Pace(None), 10.0)

    assert [await reading.piece() for _ in range(3)] == [b"ab", b"c", b""]


async def test_two_downloads_share_the_lanes(server: ScriptedServer, tmp_path: Path, files: Files) -> None:
    now = most = 0

    async def counted(request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1
        return await stored(request)

    server.on("GET", "/s3/o", counted)
    other = Files(tmp_path / "other")
    async with (
        linked_transfer(server, tmp_path / "home", part_parallel=2) as transfer,
        asyncio.TaskGroup() as g,
    ):
        g.create_task(files.fetch(transfer, item(server)))
        g.create_task(other.fetch(transfer, item(server)))

    assert files.content == other.content == CONTENT
    assert most == 2
    other.close()


async def test_no_more_than_some_pieces_of_each_lane_are_held(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged, "BATCH", 10_000)
    held: list[int] = []
    write = Arriving.write

    def watched(self: Arriving, pieces: list[bytes]) -> None:
        held.append(sum(map(len, pieces)))
        write(self, pieces)

    monkeypatch.setattr(Arriving, "write", watched)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert sum(held) == len(CONTENT)
    assert max(held) < 10_000 + PIECE


# Several ranges in one request -------------------------------------------------------------------


def spans(server: ScriptedServer) -> list[tuple[int, int]]:
    """Return first byte and end of each request, sorted."""
    found = [re.findall(r"\d+", seen.headers["Range"]) for seen in server.calls("/s3/o")]
    return sorted((int(first), int(last) + 1) for first, last in found)


@pytest.mark.parametrize("most", [3, 4])
async def test_ranges_that_follow_each_other_travel_in_one_request_and_the_last_ones_alone(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Of 13 on four lanes a third is too much for one; the share grows less with what is left."""
    monkeypatch.setattr(ranged, "RUN_BYTES", most * RANGE)
    server.on("GET", "/s3/o", stored)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)

    assert files.content == CONTENT
    found = [0, 3, 5, 7, 8, 9, 10, 11, 12]
    assert spans(server) == [
        (first * RANGE, min(end * RANGE, len(CONTENT)))
        for first, end in zip(found, [*found[1:], COUNT], strict=True)
    ]


async def test_one_request_has_no_more_bytes_than_it_may_but_a_range_at_least(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("GET", "/s3/o", stored)
    monkeypatch.setattr(ranged, "RUN_BYTES", 2 * RANGE + RANGE // 2)
    await files.fetch(transfer, item(server))
    assert max(end - first for first, end in spans(server)) == 2 * RANGE

    os.truncate(files.temp, 0)
    server.seen.clear()
    monkeypatch.setattr(ranged, "RUN_BYTES", 1)
    await files.fetch(transfer, item(server))
    assert max(end - first for first, end in spans(server)) == RANGE


async def test_each_range_of_a_request_is_noted_by_itself(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged, "RUN_BYTES", 3 * RANGE)
    server.on("GET", "/s3/o", stored)
    await files.fetch(transfer, item(server))

    journal = Journal(files.fds[1], item(server))
    assert journal.read() == RANGE
    for number in ALL:
        part = CONTENT[(number - 1) * RANGE : number * RANGE]
        assert journal.noted(number) == noted(part)


def noted(part: bytes) -> Note:
    """Return what the journal is to say of these bytes."""
    checksum = new_checksum()
    checksum.update(part)
    return Note(len(part), checksum.digest())


async def test_a_gap_that_is_filled_already_is_not_asked_for_again(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range that is there, or of which something is there, begins a request of its own."""
    monkeypatch.setattr(ranged, "RUN_BYTES", 9 * RANGE)
    files.fill(item(server), [2, *range(6, COUNT + 1)])
    begun = Arriving(files.fds[0], Journal(files.fds[1], item(server)), 4, 3 * RANGE, RANGE)
    begun.write([CONTENT[3 * RANGE :][:40_000]])
    server.on("GET", "/s3/o", stored)
    monkeypatch.setattr(transfer._downloads._lanes, "width", 1)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)

    assert spans(server) == [(0, RANGE), (2 * RANGE, 3 * RANGE), (3 * RANGE + 40_000, 5 * RANGE)]
    assert transfer.tally.downloaded_bytes == 4 * RANGE - 40_000
    assert transfer.tally.settled_bytes == len(CONTENT)


@pytest.mark.parametrize(("trouble", "kept"), [(breaks_after(130_000), 130_000), (_page_of_a_hotel, 0)])
async def test_a_request_that_goes_wrong_goes_on_with_the_range_at_hand_and_others_take_the_rest(
    server: ScriptedServer,
    transfer: Transfer,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Answer,
    kept: int,
) -> None:
    monkeypatch.setattr(ranged, "RUN_BYTES", 3 * RANGE)
    server.on("GET", "/s3/o", in_trouble(trouble, 0))

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)

    assert files.content == CONTENT
    at_hand = (kept // RANGE + 1) * RANGE
    assert (kept, at_hand) in spans(server)
    assert {first for first, _ in spans(server)} >= {at_hand, 3 * RANGE}
    assert transfer.tally.downloaded_bytes == transfer.tally.settled_bytes == len(CONTENT)


async def test_pieces_are_cut_at_the_borders_of_ranges(server: ScriptedServer, tmp_path: Path) -> None:
    content, sizes = bytes(range(200)), [70, 70, 60]
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    journal = Journal(None, item(server))
    starts = [sum(sizes[:n]) for n in range(3)]
    run = Run([Arriving(fd, journal, n, starts[n], sizes[n]) for n in range(3)])

    whole = [
        [arriving.number for arriving in run.write([content[at : at + step] for at in ats])]
        for ats, step in (((0,), 10), ((10, 20), 10), ((30, 60), 30), ((90,), 110))
    ]

    assert whole == [[], [], [0], [1, 2]]
    assert run.whole
    assert os.pread(fd, 300, 0) == content
    os.close(fd)


# Continued ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
async def test_only_the_missing_ranges_are_fetched(
    server: ScriptedServer, transfer: Transfer, files: Files, known: bool
) -> None:
    if known:
        knows_parts(server)
    files.fill(item(server), [1, 2, 5, 13])
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert asked(server) == [n for n in ALL if n not in {1, 2, 5, 13}]
    assert transfer.tally.downloaded_bytes == len(CONTENT) - 3 * RANGE - 345
    assert transfer.tally.settled_bytes == len(CONTENT)


@pytest.mark.parametrize("known", [True, False])
async def test_what_was_found_to_be_there_is_there_for_the_run_after_that_too(
    server: ScriptedServer, transfer: Transfer, files: Files, known: bool
) -> None:
    """With the server's digests a lost journal is written anew, and counts when these are gone."""
    files.fill(item(server), [1, 2, 5])
    if known:
        _emptied(files.journal)
        knows_parts(server)
    server.on("GET", "/s3/o", s3_error(403, "AccessDenied"))
    server.on("GET", LINK, says(link(server)))
    with pytest.raises(LocalError, match="refused_by_store"):
        await files.fetch(transfer, item(server))
    server._answers["GET", PARTS][:] = [says({"part_size": None, "parts_total": 0, "items": []})]
    server.on("GET", "/s3/again", stored)

    assert await files.fetch(transfer, item(server, url=server.url + "/s3/again")) == sha(CONTENT)
    assert asked(server, "/s3/again") == [n for n in ALL if n not in {1, 2, 5}]


async def test_what_is_there_as_a_whole_is_only_verified(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    files.fill(item(server), ALL)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert not server.calls("/s3/o")


async def test_a_killed_download_goes_on_within_its_ranges(
    server: ScriptedServer, tmp_path: Path, files: Files
) -> None:
    server.on("GET", "/s3/o", in_trouble(breaks_after(40_000), 0, RANGE, 2 * RANGE, 3 * RANGE, times=9))
    server._answers["GET", "/s3/o"][:] = [breaks_after(40_000)] * 2 + [resets]
    async with linked_transfer(
        server, tmp_path / "home", transfer_retry_seconds=0.1, part_parallel=2
    ) as first:
        with pytest.raises(UnavailableError):
            await files.fetch(first, item(server))
    server._answers["GET", "/s3/o"][:] = [stored]
    server.seen.clear()

    async with linked_transfer(server, tmp_path / "home2") as second:
        await files.fetch(second, item(server))

    assert files.content == CONTENT
    assert second.tally.downloaded_bytes == len(CONTENT) - 80_000
    assert {"bytes=40000-99999", "bytes=140000-199999"} <= {
        seen.headers["Range"] for seen in server.calls("/s3/o")
    }


async def test_the_journals_cut_is_kept_when_the_server_forgets_the_parts(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    files.fill(item(server), [1, 3], size=2 * RANGE)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert transfer.tally.downloaded_bytes == len(CONTENT) - 4 * RANGE


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("known", [True, False])
async def test_a_noted_range_whose_bytes_were_lost_is_fetched_again_alone(
    server: ScriptedServer, transfer: Transfer, files: Files, known: bool
) -> None:
    if known:
        knows_parts(server)
    files.fill(item(server), ALL)
    _flip(files.temp, 4 * RANGE + 77)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert asked(server) == [5]


@pytest.mark.parametrize("known", [True, False])
async def test_a_noted_beginning_whose_bytes_were_lost_is_not_built_upon(
    server: ScriptedServer, transfer: Transfer, files: Files, known: bool
) -> None:
    if known:
        knows_parts(server)
    files.fill(item(server), [n for n in ALL if n != 5])
    begun = Arriving(files.fds[0], Journal(files.fds[1], item(server)), 5, 4 * RANGE, RANGE)
    begun.write([CONTENT[4 * RANGE :][:40_000]])
    _flip(files.temp, 4 * RANGE + 77)
    server.on("GET", "/s3/o", stored)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)

    assert files.content == CONTENT
    assert [seen.headers["Range"] for seen in server.calls("/s3/o")] == ["bytes=400000-499999"]


async def test_a_journal_that_outlived_the_data_is_worth_nothing(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    files.fill(item(server), ALL)
    os.truncate(files.temp, 3 * RANGE + 5)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert asked(server) == ALL[3:]


async def test_a_torn_note_counts_for_its_own_range_only(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    files.fill(item(server), ALL)
    os.truncate(files.journal, files.journal.stat().st_size - 7)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert asked(server) == [13]


def _cut_off(journal: Path) -> None:
    os.truncate(journal, 50)


def _emptied(journal: Path) -> None:
    os.truncate(journal, 0)


def _scribbled(journal: Path) -> None:
    journal.write_bytes(os.urandom(1000))


def _another_size(journal: Path) -> None:
    _flip(journal, 23)


JOURNAL_LIES = [_cut_off, _emptied, _scribbled, _another_size]


@pytest.mark.parametrize("spoil", JOURNAL_LIES)
async def test_without_a_journal_the_servers_digests_tell_what_is_there(
    server: ScriptedServer, transfer: Transfer, files: Files, spoil: Callable[[Path], None]
) -> None:
    knows_parts(server)
    files.fill(item(server), [1, 2, 3, 7])
    spoil(files.journal)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert asked(server) == [n for n in ALL if n not in {1, 2, 3, 7}]


@pytest.mark.parametrize("spoil", JOURNAL_LIES)
async def test_without_a_journal_and_digests_everything_is_fetched(
    server: ScriptedServer, transfer: Transfer, files: Files, spoil: Callable[[Path], None]
) -> None:
    files.fill(item(server), [1, 2, 3, 7])
    spoil(files.journal)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert asked(server) == ALL


async def test_a_journal_of_another_version_counts_as_empty(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    """The bytes of the one version are in the file, noted: none of them gets into the other."""
    files.fill(item(server, content_hash=sha(b"another version")), ALL)
    _flip(files.temp, 7)
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert asked(server) == ALL


async def test_a_note_that_vouches_for_wrong_bytes_is_found_out_by_the_whole(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    files.fill(item(server), ALL)
    wrong = b"x" * RANGE
    Arriving(files.fds[0], Journal(files.fds[1], item(server)), 2, RANGE, RANGE).write([wrong])
    server.on("GET", "/s3/o", stored)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT
    assert asked(server) == ALL


async def test_a_note_that_vouches_for_wrong_bytes_loses_against_the_servers_digest(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not only when the whole turns out to be wrong."""
    monkeypatch.delattr(Partial, "drop_wrong")
    knows_parts(server)
    files.fill(item(server), ALL)
    Arriving(files.fds[0], Journal(files.fds[1], item(server)), 2, RANGE, RANGE).write([b"x" * RANGE])
    server.on("GET", "/s3/o", stored)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert asked(server) == [2]


async def test_a_longer_file_of_something_else_is_cut(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    files.temp.write_bytes(b"x" * (len(CONTENT) + 5000))
    server.on("GET", "/s3/o", stored)

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT


# What goes wrong ---------------------------------------------------------------------------------


async def _page_as_long_as_the_range(request: web.Request) -> web.StreamResponse:
    start, end = asked_span(request)
    return web.Response(body=b"<html>".ljust(end - start), content_type="text/html")


async def _everything(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=CONTENT)


async def _another_range(request: web.Request) -> web.StreamResponse:
    start, end = asked_span(request)
    body = CONTENT[start + 1 : end + 1]
    return web.Response(body=body, status=206, headers=headers_of(start + 1, start + 1 + len(body)))


async def _of_another_size(request: web.Request) -> web.StreamResponse:
    start, end = asked_span(request)
    header = {"Content-Range": f"bytes {start}-{end - 1}/{len(CONTENT) + 1}"}
    return web.Response(body=CONTENT[start:end], status=206, headers=header)


async def _without_content_range(request: web.Request) -> web.StreamResponse:
    start, end = asked_span(request)
    return web.Response(body=CONTENT[start:end], status=206)


async def _too_much_unannounced(request: web.Request) -> web.StreamResponse:
    start, end = asked_span(request)
    response = web.StreamResponse(status=206, headers=headers_of(start, end))
    await response.prepare(request)
    await response.write(CONTENT[start:end] + b"x")
    return response


async def _too_little_unannounced(request: web.Request) -> web.StreamResponse:
    start, end = asked_span(request)
    response = web.StreamResponse(status=206, headers=headers_of(start, end))
    await response.prepare(request)
    await response.write(CONTENT[start : end - 10])
    return response


WRONG = [
    _page_of_a_hotel,
    _page_as_long_as_the_range,
    _everything,
    _another_range,
    _of_another_size,
    _without_content_range,
    _too_much_unannounced,
    _too_little_unannounced,
    gives(lambda part: part[:-1]),
    gives(lambda part: part + b"x"),
    gives(lambda _: b""),
]


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_answer_that_is_not_the_range_is_never_taken_for_its_bytes(
    server: ScriptedServer, transfer: Transfer, files: Files, wrong: Answer
) -> None:
    server.on("GET", "/s3/o", in_trouble(wrong, 0, 4 * RANGE, times=2))

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT
    assert transfer.tally.settled_bytes == len(CONTENT)


@pytest.mark.parametrize("wrong", WRONG[:7])
async def test_answers_that_stay_wrong_are_an_error_and_the_other_ranges_stay(
    server: ScriptedServer, transfer: Transfer, files: Files, wrong: Answer
) -> None:
    server.on("GET", "/s3/o", in_trouble(wrong, 12 * RANGE, times=99))

    with pytest.raises(LocalError, match="corrupt_download"):
        await files.fetch(transfer, item(server))

    server._answers["GET", "/s3/o"][:] = [stored]
    server.seen.clear()
    await files.fetch(transfer, item(server))
    assert files.content == CONTENT
    assert set(asked(server)) < set(ALL[-5:])


def damages_one_range(server: ScriptedServer, times: int) -> None:
    """The server knows what the parts are, and gives the fourth with a bit flipped, so often."""
    knows_parts(server)
    flipped = gives(lambda part: bytes([part[0] ^ 1]) + part[1:])
    server.on("GET", "/s3/o", in_trouble(flipped, 3 * RANGE, times=times))


async def test_a_damaged_range_is_fetched_again_alone(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    damages_one_range(server, times=2)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT
    assert asked(server) == sorted([*ALL, 4, 4])


async def test_a_range_that_stays_damaged_is_an_error(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    damages_one_range(server, times=99)

    with pytest.raises(LocalError, match="corrupt_download"):
        await files.fetch(transfer, item(server))
    assert asked(server).count(4) == 3


async def test_after_a_range_that_stayed_damaged_the_next_run_fetches_that_alone(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    damages_one_range(server, times=99)
    with pytest.raises(LocalError, match="corrupt_download"):
        await files.fetch(transfer, item(server))
    # The server forgets the digests, so only the journal tells what is there.
    server._answers["GET", PARTS][:] = [says({"part_size": None, "parts_total": 0, "items": []})]
    server._answers["GET", "/s3/o"][:] = [stored]
    server.seen.clear()

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert asked(server) == [4]


async def test_bytes_that_a_disk_lost_meanwhile_are_fetched_again_alone(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is verified is what is on the disk: it is read back, however right it came."""
    knows_parts(server)
    server.on("GET", "/s3/o", stored)
    real, spoiled = os.pwrite, False

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal spoiled
        if fd == files.fds[0] and offset == 6 * RANGE and not spoiled:
            spoiled = True
            return real(fd, bytes(len(data)), offset)
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT
    assert asked(server) == sorted([*ALL, 7])
    assert transfer.tally.settled_bytes == len(CONTENT)


async def test_digests_of_parts_that_the_server_has_wrong_do_no_harm_to_a_whole_that_is_right(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    knows_parts(server, p4=sha(b"something else"))
    server.on("GET", "/s3/o", stored)

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert asked(server) == ALL


async def test_a_whole_that_is_wrong_though_all_ranges_are_right_is_fetched_once_more(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    flipped = gives(lambda part: bytes([part[0] ^ 1]) + part[1:])
    server.on("GET", "/s3/o", in_trouble(flipped, 3 * RANGE))

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT
    assert asked(server) == sorted(ALL * 2)


async def test_a_whole_that_stays_wrong_is_an_error_and_nothing_of_it_is_kept(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    server.on("GET", "/s3/o", stored)
    other = item(server, content_hash=sha(b"something else"))

    with pytest.raises(LocalError, match="corrupt_download"):
        await files.fetch(transfer, other)

    assert asked(server) == sorted(ALL * 2)
    assert files.content == b""
    assert Journal(files.fds[1], other).read() == RANGE
    assert files.journal.stat().st_size < 200


async def test_a_broken_range_goes_on_at_the_byte_where_it_broke(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    server.on("GET", "/s3/o", in_trouble(breaks_after(1000), 0, 1000))

    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    first = [s.headers["Range"] for s in server.calls("/s3/o") if s.headers["Range"].endswith("-99999")]
    assert first == ["bytes=0-99999", "bytes=1000-99999", "bytes=2000-99999"]
    assert transfer.tally.downloaded_bytes == len(CONTENT)


async def test_lines_that_break_often_but_move_on_are_never_given_up(
    server: ScriptedServer, tmp_path: Path, files: Files
) -> None:
    server.on("GET", "/s3/o", breaks_after(30_000))
    async with linked_transfer(server, tmp_path / "home", transfer_attempts=2) as transfer:
        await files.fetch(transfer, item(server))

    assert files.content == CONTENT


@pytest.mark.parametrize("trouble", [resets, s3_error(503, "SlowDown"), s3_error(500, "InternalError")])
async def test_a_store_in_trouble_is_asked_again_on_fewer_lanes(
    server: ScriptedServer, transfer: Transfer, files: Files, trouble: Answer
) -> None:
    server.on("GET", "/s3/o", in_trouble(trouble, 0, 5 * RANGE, 12 * RANGE, times=2))
    lanes = transfer._downloads._lanes
    before = lanes.width
    narrowest = before
    struggled = lanes.struggled

    def watched() -> None:
        nonlocal narrowest
        struggled()
        narrowest = min(narrowest, lanes.width)

    lanes.struggled = watched  # type: ignore[method-assign]
    await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert narrowest == before // 2


async def test_a_store_that_is_away_is_unavailable_and_the_ranges_are_kept(
    server: ScriptedServer, tmp_path: Path, files: Files
) -> None:
    server.on("GET", "/s3/o", stored, stored, stored, resets)
    async with linked_transfer(server, tmp_path / "home", transfer_retry_seconds=0.1) as transfer:
        with pytest.raises(UnavailableError):
            await files.fetch(transfer, item(server))
    server._answers["GET", "/s3/o"][:] = [stored]
    server.seen.clear()

    async with linked_transfer(server, tmp_path / "home2") as transfer:
        await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert len(server.calls("/s3/o")) == COUNT - 3


async def test_one_renewal_of_the_url_serves_all_ranges(
    server: ScriptedServer, tmp_path: Path, files: Files
) -> None:
    waiting = 0
    all_there = asyncio.Event()

    async def expired(request: web.Request) -> web.StreamResponse:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            all_there.set()
        await all_there.wait()
        return await s3_error(403, "AccessDenied")(request)

    server.on("GET", "/s3/o", stored, stored, stored, expired)
    server.on("GET", LINK, says(link(server, "/s3/fresh")))
    server.on("GET", "/s3/fresh", stored)
    async with linked_transfer(server, tmp_path / "home", part_parallel=2) as transfer:
        await files.fetch(transfer, item(server))

    assert files.content == CONTENT
    assert waiting == 2
    assert len(server.calls(LINK)) == 1
    assert sorted(asked(server) + asked(server, "/s3/fresh")) == sorted([*ALL, 4, 5])


async def test_a_store_that_refuses_every_url_is_an_error(
    server: ScriptedServer, transfer: Transfer, files: Files
) -> None:
    server.on("GET", "/s3/o", s3_error(403, "AccessDenied"))
    server.on("GET", LINK, says(link(server)))

    with pytest.raises(LocalError, match="refused_by_store"):
        await files.fetch(transfer, item(server))


async def test_a_full_disk_is_a_problem_that_costs_nothing_that_was_there(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("GET", "/s3/o", stored)
    real, room = os.pwrite, 6 * RANGE

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal room
        if fd == files.fds[0]:
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[:room]
            room -= len(data)
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(LocalError, match=r"unwritable.*No space"):
        await files.fetch(transfer, item(server))
    monkeypatch.setattr(os, "pwrite", real)
    server.seen.clear()

    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT
    # Four were on their way, so of the bytes of six at least three were whole.
    assert len(server.calls("/s3/o")) <= COUNT - 3


async def _is(value: bool) -> bool:
    return value


async def test_a_cancelled_download_leaves_no_thread_that_writes(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("GET", "/s3/o", stored)
    real, entered, go_on = os.pwrite, threading.Event(), threading.Event()
    writing: list[int] = []

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        writing.append(offset)
        entered.set()
        assert go_on.wait(10)
        done = real(fd, data, offset)
        writing.remove(offset)
        return done

    task = asyncio.create_task(files.fetch(transfer, item(server)))
    await eventually(lambda: _is(server.calls("/s3/o") != []), 10, 0.001)
    monkeypatch.setattr(os, "pwrite", pwrite)
    await eventually(lambda: _is(entered.is_set()), 10, 0.001)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with suppress(asyncio.CancelledError):
        await task

    assert task.cancelled()
    assert not writing
    monkeypatch.setattr(os, "pwrite", real)
    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT


async def test_what_comes_slowly_is_noted_before_a_batch_is_full(
    server: ScriptedServer, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged, "PIECE", 10_000)
    monkeypatch.setattr(ranged, "_BATCH_SECONDS", 0.0)
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        start, end = asked_span(request)
        response = web.StreamResponse(status=206, headers=headers_of(start, end))
        response.content_length = end - start
        await response.prepare(request)
        await response.write(CONTENT[start : start + 30_000])
        await go_on.wait()
        await response.write(CONTENT[start + 30_000 : end])
        return response

    server.on("GET", "/s3/o", in_trouble(slow, 0))
    journal = Journal(files.fds[1], item(server))

    async def is_noted() -> bool:
        return journal.read() == RANGE and journal.noted(1) == noted(CONTENT[:30_000])

    async with linked_transfer(server, tmp_path / "home", stall_seconds=60) as transfer:
        task = asyncio.create_task(files.fetch(transfer, item(server)))
        await eventually(is_noted, 10, 0.001)
        go_on.set()
        assert await task == sha(CONTENT)


async def test_where_the_system_cannot_begin_to_write_early_nothing_else_changes(
    server: ScriptedServer, transfer: Transfer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_SYNC_FILE_RANGE", None)
    server.on("GET", "/s3/o", stored)
    assert await files.fetch(transfer, item(server)) == sha(CONTENT)
    assert files.content == CONTENT


def test_to_begin_writing_is_no_error_even_for_what_is_no_file() -> None:
    reader, writer = os.pipe()
    native.start_writing(writer, 0, 100)
    os.close(reader)
    os.close(writer)
    native.start_writing(writer, 0, 100)


# The journal -------------------------------------------------------------------------------------


async def test_a_journal_has_notes_of_its_own_content_only(server: ScriptedServer, files: Files) -> None:
    journal = Journal(files.fds[1], item(server))
    journal.begin(RANGE)
    journal.note(3, Note(7, b"d" * 32))

    again = Journal(files.fds[1], item(server))
    assert again.read() == RANGE
    assert again.noted(3) == Note(7, b"d" * 32)
    assert [again.noted(number) for number in (1, 2, 4, COUNT)] == [None] * 4
    for other in ({"size": len(CONTENT) + 1}, {"content_hash": sha(b"other")}):
        assert Journal(files.fds[1], item(server, **other)).read() is None


async def test_a_journal_that_cannot_be_read_counts_as_empty(
    server: ScriptedServer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.fill(item(server), ALL)

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    assert Journal(files.fds[1], item(server)).read() is None


@pytest.mark.parametrize("right", [True, False])
async def test_what_a_delta_fetches_between_two_differences_counts_once(
    server: ScriptedServer, transfer: Transfer, files: Files, right: bool
) -> None:
    """The few bytes between them are in the base, too."""
    server.on("GET", "/s3/o", stored)
    recipe = Recipe((Copy(0, 50_000), Literal(10), Copy(50_010, 90), Literal(10), Copy(50_110, 1_150_235)))
    encoded = base64.b64encode(encode(recipe)).decode()
    delta = DownloadDelta(**link(server), from_version_id="5" * 24, recipe=encoded)
    files.journal.write_bytes(CONTENT if right else CONTENT[::-1])

    base = (files.fds[1], len(CONTENT))
    found = await transfer.download_delta(delta, base, files.fds[0], hashlib.sha256())

    assert (found == sha(CONTENT)) is right
    assert transfer.tally.downloaded_bytes == 110
    assert transfer.tally.settled_bytes == (len(CONTENT) if right else 0)
