import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.errors import LocalError
from agent.transfer import Transfer
from libs.contracts.api import Download
from libs.contracts.errors import NotFoundError, UnavailableError
from tests.support.agent_api import AT, NODE, VERSION, linked_transfer
from tests.support.scripted import Answer, ScriptedServer, problem, resets, s3_error, says, scripted, stalls
from tests.unit.test_agent_transfer_small import sha

CONTENT = os.urandom(300_000)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def transfer(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Transfer]:
    async with linked_transfer(server, tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.touch()
    return path


@pytest.fixture
def fd(temporary: Path) -> Iterator[int]:
    handle = os.open(temporary, os.O_RDWR)
    yield handle
    os.close(handle)


def link(server: ScriptedServer, path: str = "/s3/o", **changes: Any) -> dict[str, Any]:
    base = {"node_id": NODE, "version_id": VERSION, "url": server.url + path, "expires_at": AT}
    return {**base, "size": len(CONTENT), "content_hash": sha(CONTENT), **changes}


def item(server: ScriptedServer, **changes: Any) -> Download:
    return Download.model_validate(link(server, **changes))


async def ranged(request: web.Request) -> web.StreamResponse:
    """Answer as S3 does, ranges included."""
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    return web.Response(body=CONTENT[start:], status=206 if "Range" in request.headers else 200)


def breaks_after(count: int) -> Answer:
    """Announce everything that is asked for and break after `count` bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(CONTENT) - start
        await response.prepare(request)
        await response.write(CONTENT[start : start + count])
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def starts(server: ScriptedServer, path: str = "/s3/o") -> list[str | None]:
    return [seen.headers.get("Range") for seen in server.calls(path)]


async def test_a_file_arrives_whole_and_verified(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path
) -> None:
    server.on("GET", "/s3/o", ranged)

    assert await transfer.download(item(server), fd) == sha(CONTENT)
    assert temporary.read_bytes() == CONTENT
    assert transfer.tally.downloaded_bytes == len(CONTENT)
    assert "Authorization" not in server.seen[0].headers


async def test_an_empty_file_needs_no_request(server: ScriptedServer, transfer: Transfer, fd: int) -> None:
    assert await transfer.download(item(server, size=0, content_hash=sha(b"")), fd) == sha(b"")
    assert not server.seen


async def test_an_interrupted_download_continues_where_the_file_ends(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path
) -> None:
    temporary.write_bytes(CONTENT[:100_000])
    server.on("GET", "/s3/o", ranged)

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT
    assert starts(server) == ["bytes=100000-"]
    assert transfer.tally.downloaded_bytes == 200_000


async def test_a_file_that_is_there_as_a_whole_is_only_verified(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path
) -> None:
    temporary.write_bytes(CONTENT)

    assert await transfer.download(item(server), fd) == sha(CONTENT)
    assert not server.seen


@pytest.mark.parametrize("left", [b"x" * 100, CONTENT + b"x", b"x" * len(CONTENT)])
async def test_what_was_left_by_something_else_is_dropped(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path, left: bytes
) -> None:
    temporary.write_bytes(left)
    server.on("GET", "/s3/o", ranged)

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT


async def test_a_broken_connection_is_continued_at_the_byte_where_it_broke(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path
) -> None:
    server.on("GET", "/s3/o", breaks_after(1000), breaks_after(1000), ranged)

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT
    assert starts(server) == [None, "bytes=1000-", "bytes=2000-"]
    assert transfer.tally.downloaded_bytes == len(CONTENT)


async def test_a_line_that_breaks_often_but_moves_on_is_never_given_up(
    server: ScriptedServer, tmp_path: Path, fd: int, temporary: Path
) -> None:
    server.on("GET", "/s3/o", breaks_after(50_000))
    async with linked_transfer(server, tmp_path / "home", transfer_attempts=2) as transfer:
        await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT
    assert len(server.seen) == 6


@pytest.mark.parametrize("trouble", [resets, stalls, s3_error(503, "SlowDown")])
async def test_a_store_in_trouble_is_asked_again(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path, trouble: Answer
) -> None:
    server.on("GET", "/s3/o", trouble, ranged)

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT


async def test_a_store_that_ignores_ranges_is_read_from_the_start(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path
) -> None:
    temporary.write_bytes(CONTENT[:1000])
    server.on("GET", "/s3/o", says(CONTENT))

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT
    assert len(server.seen) == 1


WRONG = [
    pytest.param(b"<html>Sign in to the hotel's network</html>", id="a page of something else"),
    pytest.param(CONTENT[:-1], id="cut off"),
    pytest.param(CONTENT + b"x", id="too long"),
    pytest.param(bytes([CONTENT[0] ^ 1]) + CONTENT[1:], id="a bit flipped"),
    pytest.param(b"", id="nothing"),
]


async def test_an_answer_of_unknown_length_is_not_read_beyond_the_files_end(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(CONTENT)

    server.on("GET", "/s3/o", endless, ranged)

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_bytes_are_fetched_once_more(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path, wrong: bytes
) -> None:
    server.on("GET", "/s3/o", says(wrong), ranged)

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", WRONG)
async def test_bytes_that_stay_wrong_are_an_error_and_nothing_of_them_is_kept(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path, wrong: bytes
) -> None:
    server.on("GET", "/s3/o", says(wrong))

    with pytest.raises(LocalError, match="corrupt_download"):
        await transfer.download(item(server), fd)
    assert temporary.read_bytes() == b""
    assert len(server.seen) == 2


@pytest.mark.parametrize("refusal", [s3_error(403, "AccessDenied"), s3_error(404, "NoSuchKey")])
async def test_an_expired_url_is_replaced_and_what_arrived_is_kept(
    server: ScriptedServer, transfer: Transfer, fd: int, temporary: Path, refusal: Answer
) -> None:
    server.on("GET", "/s3/o", breaks_after(1000), refusal)
    server.on("GET", f"/v1/files/{NODE}/download", says(link(server, "/s3/fresh")))
    server.on("GET", "/s3/fresh", ranged)

    await transfer.download(item(server), fd)

    assert temporary.read_bytes() == CONTENT
    assert starts(server, "/s3/fresh") == ["bytes=1000-"]
    assert server.calls(f"/v1/files/{NODE}/download")[0].query == {"version": VERSION}


async def test_a_file_that_was_deleted_meanwhile_is_not_found(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    server.on("GET", "/s3/o", s3_error(404, "NoSuchKey"))
    server.on("GET", f"/v1/files/{NODE}/download", problem("not_found"))

    with pytest.raises(NotFoundError):
        await transfer.download(item(server), fd)


async def test_a_store_that_is_away_is_unavailable_and_what_arrived_is_kept(
    server: ScriptedServer, tmp_path: Path, fd: int, temporary: Path
) -> None:
    server.on("GET", "/s3/o", breaks_after(1000), resets)
    async with linked_transfer(server, tmp_path / "home", transfer_retry_seconds=0.3) as transfer:
        with pytest.raises(UnavailableError):
            await transfer.download(item(server), fd)
    assert temporary.read_bytes() == CONTENT[:1000]


async def test_a_file_that_cannot_be_written_is_a_problem_of_the_disk(
    server: ScriptedServer, transfer: Transfer, temporary: Path
) -> None:
    server.on("GET", "/s3/o", ranged)
    readonly = os.open(temporary, os.O_RDONLY)
    try:
        with pytest.raises(LocalError, match="unwritable"):
            await transfer.download(item(server), readonly)
    finally:
        os.close(readonly)


async def test_bytes_never_come_in_the_clear_from_another_machine(
    server: ScriptedServer, transfer: Transfer, fd: int
) -> None:
    with pytest.raises(LocalError, match="insecure_server"):
        await transfer.download(item(server, url="http://s3.example.org/o"), fd)
