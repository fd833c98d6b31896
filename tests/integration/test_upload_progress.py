"""What people and other devices see of a session, and how that stays the truth."""

import secrets
from collections.abc import AsyncIterator

import pytest

from libs.contracts.events import PartCompleted
from libs.mongo.names import UPLOADS
from libs.mongo.views import Views
from tests.support.backends import Backends
from tests.support.upload_world import Account, Json, World, sha256, upload_world
from tests.support.waiting import eventually

PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
async def world(backends: Backends) -> AsyncIterator[World]:
    async with upload_world(backends) as running:
        yield running


async def half_sent(world: World) -> tuple[Account, Json, bytes]:
    """Parts 1 to 3 are in S3; the device died before it could tell of the third."""
    account, content = await world.account(devices=2), secrets.token_bytes(4 * PART)
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 2, 3])
    await told(world, account, upload, content, 1, 2)
    return account, upload, content


async def told(world: World, account: Account, upload: Json, content: bytes, *numbers: int) -> Json:
    digests = {str(n): sha256(content[(n - 1) * PART : n * PART]) for n in numbers}
    answer = await world.call(account, "POST", f"/uploads/{upload['id']}/parts", {"parts": digests})
    assert answer.status == 200, answer
    return answer.body


async def listed(world: World, account: Account) -> Json:
    (item,) = (await world.call(account, "GET", "/uploads")).body["items"]
    return dict(item)


async def test_a_session_is_shown_with_what_s3_holds_and_not_with_what_was_told(world: World) -> None:
    account, upload, _ = await half_sent(world)
    assert (await listed(world, account))["parts_done"] == 2
    seen = (await world.call(account, "GET", f"/uploads/{upload['id']}", device=1)).body
    assert (seen["parts_done"], [part["number"] for part in seen["parts"]]) == (3, [1, 2, 3])


async def test_joining_notes_the_parts_that_were_sent_and_not_told_and_counts_none_twice(
    world: World,
) -> None:
    account, upload, content = await half_sent(world)
    joined = await world.open(account, content, device=1)
    assert (joined["id"], joined["parts_done"]) == (upload["id"], 3)
    row = await listed(world, account)
    assert (row["parts_done"], row["parts_total"], row["device"]) == (3, 4, "device 1")
    assert row["updated_at"] > upload["updated_at"]
    assert (await told(world, account, upload, content, 3))["parts_done"] == 3
    await world.send_parts(account, upload, content, [4])
    assert (await told(world, account, upload, content, 4))["parts_done"] == 4


async def test_each_part_that_is_told_is_announced_with_the_progress(world: World) -> None:
    account, upload, content = await half_sent(world)
    await world.open(account, content, device=1)
    await world.send_parts(account, upload, content, [4])
    await told(world, account, upload, content, 4)

    async def announced() -> bool:
        return len(world.events(PartCompleted, upload)) == 3

    await eventually(announced, seconds=10)
    last = max(world.events(PartCompleted, upload), key=lambda event: event.parts_done)
    assert (last.number, last.parts_done, last.parts_total) == (4, 4, 4)


async def test_a_session_that_has_ended_makes_no_progress_and_gives_no_urls(world: World) -> None:
    account, upload, content = await half_sent(world)
    row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    await world.call(account, "DELETE", f"/uploads/{upload['id']}")
    digests = {"parts": {"3": sha256(content[2 * PART : 3 * PART])}}
    for path in ("urls", "parts"):
        answer = await world.call(account, "POST", f"/uploads/{upload['id']}/{path}", digests)
        assert (answer.status, answer.body["code"]) == (409, "upload_not_open")
    assert await world.store.list_parts(row["entries"][0]["key"], row["s3_upload_id"]) is None
    assert len(world.events(PartCompleted, upload)) <= 2


async def test_bytes_are_reserved_once_whoever_joins_and_not_for_what_is_there_already(world: World) -> None:
    account, content = await world.account(devices=2), secrets.token_bytes(100)
    views = Views(world.database)
    upload = await world.open(account, content)
    assert (await world.open(account, content, device=1))["id"] == upload["id"]
    assert await views.reserved_bytes(account.user_id) == 100
    await world.stored_object(account, b"known")
    assert (await world.open(account, b"known"))["entries"][0]["mode"] == "stored"
    assert await views.reserved_bytes(account.user_id) == 100
    await world.call(account, "DELETE", f"/uploads/{upload['id']}")
    assert await views.reserved_bytes(account.user_id) == 0


async def test_of_a_batch_only_what_is_not_committed_yet_is_reserved(world: World) -> None:
    account = await world.account()
    contents = [secrets.token_bytes(100), secrets.token_bytes(50)]
    items = [{"content_hash": sha256(one), "size": len(one)} for one in contents]
    batch = (await world.call(account, "POST", "/uploads/batch", {"items": items})).body
    for entry, content in zip(batch["entries"], contents, strict=True):
        status, text = await world.send(entry["put"], content)
        assert status == 200, text
    asked = {"items": [{"index": 0, "parent_id": account.namespace_id, "name": "a"}]}
    path = f"/uploads/{batch['id']}/complete-batch"
    assert (await world.call(account, "POST", path, asked)).status == 200
    assert await Views(world.database).reserved_bytes(account.user_id) == 50
