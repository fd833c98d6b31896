"""Several devices, or several files with the same content, and one set of bytes."""

import os
from collections.abc import AsyncIterator

import pytest

from tests.support.backends import Backends
from tests.support.upload_world import World, sha256, upload_world

MIB = 1024 * 1024
PART = 5 * MIB
CONTENT = os.urandom(2 * PART + MIB)


@pytest.fixture
async def world(backends: Backends) -> AsyncIterator[World]:
    async with upload_world(backends) as opened:
        yield opened


def digests(*numbers: int) -> dict[str, str]:
    return {str(n): sha256(CONTENT[(n - 1) * PART : n * PART]) for n in numbers}


async def test_a_device_that_asks_for_urls_hears_which_parts_another_has_sent(world: World) -> None:
    account = await world.account(devices=2)
    upload = await world.open(account, CONTENT)
    await world.open(account, CONTENT, device=1)
    await world.send_parts(account, upload, CONTENT, [1, 2])
    path = f"/uploads/{upload['id']}"
    before = await world.call(account, "POST", f"{path}/urls", {"parts": digests(1, 3)}, device=1)
    await world.call(account, "POST", f"{path}/parts", {"parts": digests(1)})

    after = await world.call(account, "POST", f"{path}/urls", {"parts": digests(1, 2, 3)}, device=1)

    assert before.body["done"] == [], "a part is done when its sender has said so"
    assert after.body["done"] == [1]
    assert sorted(after.body["items"]) == ["1", "2", "3"]


async def test_a_part_that_s3_turns_out_not_to_have_is_not_called_done_any_more(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, CONTENT)
    await world.send_parts(account, upload, CONTENT, [1, 3])
    path = f"/uploads/{upload['id']}"
    await world.call(account, "POST", f"{path}/urls", {"parts": digests(2)})
    await world.call(account, "POST", f"{path}/parts", {"parts": digests(1, 2, 3)})
    refused = await world.complete(account, upload)
    assert (refused.body["code"], refused.body["missing"]) == ("parts_missing", [2])

    asked = await world.call(account, "POST", f"{path}/urls", {"parts": digests(1, 2, 3)})

    assert asked.body["done"] == [1, 3]
    assert (await world.call(account, "GET", path)).body["parts_done"] == 2


async def test_two_devices_with_the_same_file_at_the_same_place_commit_once(world: World) -> None:
    account = await world.account(devices=2)
    upload = await world.open(account, CONTENT)
    await world.send_parts(account, upload, CONTENT, [1, 2, 3])

    first = await world.complete(account, upload, mtime_ns=1)
    second = await world.complete(account, upload, mtime_ns=2)
    elsewhere = await world.complete(account, upload, name="b.txt")

    assert (first.status, second.status) == (200, 200)
    assert second.body["results"] == first.body["results"]
    assert (elsewhere.status, elsewhere.body["code"]) == (409, "committed_elsewhere")
    assert len(world.tree.asked) == 1


async def test_content_that_is_being_verified_is_not_sent_a_second_time_unless_one_insists(
    world: World,
) -> None:
    account = await world.account()
    await world.stored_object(account, CONTENT, verified=False)
    body = {"content_hash": sha256(CONTENT), "size": len(CONTENT)}

    refused = await world.call(account, "POST", "/uploads", body)
    insisted = await world.call(account, "POST", "/uploads", {**body, "send_anyway": True})

    assert (refused.status, refused.body["code"]) == (409, "verification_pending")
    assert insisted.body["entries"][0]["mode"] == "multipart"
