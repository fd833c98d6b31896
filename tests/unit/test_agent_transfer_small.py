import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer import SmallSource, Transfer, split_batches
from libs.contracts.errors import LockstepError
from tests.support.agent_api import AT, UPLOAD, linked_transfer, upload
from tests.support.scripted import Answer, ScriptedServer, problem, resets, s3_error, says, scripted, stalls


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def transfer(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Transfer]:
    async with linked_transfer(server, tmp_path) as opened:
        yield opened


OK = says(b"")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def source(content: bytes, read: Callable[[], bytes] | None = None, path: str = "a") -> SmallSource:
    return SmallSource(path, len(content), sha(content), read or (lambda: content))


def signed(server: ScriptedServer, name: str, content: bytes) -> dict[str, Any]:
    headers = {
        "content-length": str(len(content)),
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(content).digest()).decode(),
    }
    return {"method": "PUT", "url": f"{server.url}/s3/{name}", "headers": headers, "expires_at": AT}


def session(server: ScriptedServer, *contents: bytes, stored: tuple[int, ...] = ()) -> Answer:
    """The answer to a batch: entry n is put to /s3/n."""
    entries = [
        {
            "index": index,
            "mode": "stored" if index in stored else "put",
            "content_hash": sha(content),
            "size": len(content),
            "put": None if index in stored else signed(server, str(index), content),
        }
        for index, content in enumerate(contents)
    ]
    return says(upload(entries), 201)


async def test_each_file_is_sent_with_exactly_the_signed_headers(
    server: ScriptedServer, transfer: Transfer
) -> None:
    contents = [b"one", b"", b"x" * 3_000_000]
    server.on("POST", "/v1/uploads/batch", session(server, *contents))
    for index in range(3):
        server.on("PUT", f"/s3/{index}", OK)

    result = await transfer.upload_small([source(content) for content in contents])

    assert result.upload_id == UPLOAD
    assert [item.ready for item in result.items] == [True, True, True]
    for index, content in enumerate(contents):
        (seen,) = server.calls(f"/s3/{index}")
        assert seen.body == content
        wanted = signed(server, "", content)["headers"]
        assert {name: seen.headers.getall(name) for name in wanted} == {k: [v] for k, v in wanted.items()}  # type: ignore[attr-defined]
        assert "Authorization" not in seen.headers
        assert "Content-Type" not in seen.headers
        assert "Transfer-Encoding" not in seen.headers
    assert transfer.tally.uploaded_bytes == 3_000_003
    assert transfer.tally.settled_files == 3


async def test_content_that_is_stored_already_is_not_sent(server: ScriptedServer, transfer: Transfer) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one", b"two", stored=(0, 1)))

    result = await transfer.upload_small([source(b"one"), source(b"two")])

    assert all(item.ready for item in result.items)
    assert transfer.tally.uploaded_bytes == 0
    assert (transfer.tally.settled_bytes, transfer.tally.settled_files) == (6, 2)


def _missing() -> bytes:
    raise FileNotFoundError(2, "No such file")


def _locked() -> bytes:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("read", "code"),
    [
        (lambda: b"uno", "changed"),
        (lambda: b"one more", "changed"),
        (lambda: b"", "changed"),
        (_missing, "changed"),
        (_locked, "unreadable"),
    ],
)
async def test_a_file_that_is_not_what_was_announced_is_not_sent_and_the_others_are(
    server: ScriptedServer, transfer: Transfer, read: Callable[[], bytes], code: str
) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one", b"two"))
    server.on("PUT", "/s3/1", OK)

    result = await transfer.upload_small([source(b"one", read), source(b"two")])

    assert [item.code for item in result.items] == [code, None]
    assert not server.calls("/s3/0")


@pytest.mark.parametrize(
    "trouble",
    [resets, s3_error(503, "SlowDown"), s3_error(500, "InternalError"), s3_error(400, "RequestTimeout")],
)
async def test_a_store_in_trouble_is_tried_again(
    server: ScriptedServer, transfer: Transfer, trouble: Answer
) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one"))
    server.on("PUT", "/s3/0", trouble, trouble, OK)

    result = await transfer.upload_small([source(b"one")])

    assert result.items[0].ready
    assert transfer.tally.uploaded_bytes == 3


async def test_a_stalled_transfer_is_started_again(server: ScriptedServer, transfer: Transfer) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one"))
    server.on("PUT", "/s3/0", stalls, OK)

    assert (await transfer.upload_small([source(b"one")])).items[0].ready


async def test_an_expired_url_is_replaced(server: ScriptedServer, transfer: Transfer) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one"))
    server.on("PUT", "/s3/0", s3_error(403, "AccessDenied"))
    server.on("POST", f"/v1/uploads/{UPLOAD}/urls", says({"items": {"0": signed(server, "fresh", b"one")}}))
    server.on("PUT", "/s3/fresh", OK)

    result = await transfer.upload_small([source(b"one")])

    assert result.items[0].ready
    assert server.calls(f"/v1/uploads/{UPLOAD}/urls")[0].json == {"entries": [0]}


async def test_a_store_that_refuses_every_url_is_given_up(server: ScriptedServer, transfer: Transfer) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one"))
    server.on("PUT", "/s3/0", s3_error(403, "AccessDenied"))
    server.on("POST", f"/v1/uploads/{UPLOAD}/urls", says({"items": {"0": signed(server, "0", b"one")}}))

    result = await transfer.upload_small([source(b"one")])

    assert result.items[0].code == "refused_by_store"


async def test_bytes_damaged_on_the_way_up_are_read_and_sent_again(
    server: ScriptedServer, transfer: Transfer
) -> None:
    reads: list[int] = []

    def read() -> bytes:
        reads.append(1)
        return b"one"

    server.on("POST", "/v1/uploads/batch", session(server, b"one"))
    server.on("PUT", "/s3/0", s3_error(400, "BadDigest"), OK)

    assert (await transfer.upload_small([source(b"one", read)])).items[0].ready
    assert len(reads) == 2


async def test_bytes_damaged_every_time_are_a_problem_of_the_file(
    server: ScriptedServer, transfer: Transfer
) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one", b"two"))
    server.on("PUT", "/s3/0", s3_error(400, "BadDigest"))
    server.on("PUT", "/s3/1", OK)

    result = await transfer.upload_small([source(b"one"), source(b"two")])

    assert [item.code for item in result.items] == ["corrupt_upload", None]


async def test_a_store_that_is_away_is_not_waited_for_by_each_file(
    server: ScriptedServer, tmp_path: Path
) -> None:
    contents = [bytes([n]) for n in range(200)]
    server.on("POST", "/v1/uploads/batch", session(server, *contents))
    for index in range(200):
        server.on("PUT", f"/s3/{index}", resets)
    async with linked_transfer(server, tmp_path, transfer_retry_seconds=0.5) as transfer:
        result = await transfer.upload_small([source(content) for content in contents])

    assert {item.code for item in result.items} == {"unavailable"}
    puts = [seen for seen in server.seen if seen.method == "PUT"]
    assert len(puts) < 3 * len(contents), "each file waited by itself"


async def test_bytes_never_travel_in_the_clear_to_another_machine(
    server: ScriptedServer, transfer: Transfer
) -> None:
    entry = {"index": 0, "mode": "put", "content_hash": sha(b"one"), "size": 3}
    put = {**signed(server, "0", b"one"), "url": "http://s3.example.org/0"}
    server.on("POST", "/v1/uploads/batch", says(upload([{**entry, "put": put}])))

    assert (await transfer.upload_small([source(b"one")])).items[0].code == "insecure_server"


async def test_undecodable_names_are_shown_to_people_as_well_as_can_be(
    server: ScriptedServer, transfer: Transfer
) -> None:
    server.on("POST", "/v1/uploads/batch", session(server, b"one", stored=(0,)))

    await transfer.upload_small([source(b"one", path="caf\udce9/\N{SNOWMAN}")])

    assert server.seen[0].json["items"][0]["path"] == "caf?/\N{SNOWMAN}"


async def test_an_error_of_the_server_is_raised_for_the_whole_batch(
    server: ScriptedServer, transfer: Transfer
) -> None:
    server.on("POST", "/v1/uploads/batch", problem("quota_exceeded"))

    with pytest.raises(LockstepError, match="quota_exceeded"):
        await transfer.upload_small([source(b"one")])


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 7), st.integers(1, 100))
def test_batches_hold_every_file_once_in_order_and_within_the_limits(
    sizes: list[int], items: int, size: int
) -> None:
    sources = [SmallSource(str(n), length, "", bytes) for n, length in enumerate(sizes)]

    batches = list(split_batches(sources, items=items, size=size))

    assert [one for batch in batches for one in batch] == sources
    assert all(0 < len(batch) <= items for batch in batches)
    assert all(len(batch) == 1 or sum(one.size for one in batch) <= size for batch in batches)
