"""Batch sessions: many small files, one session, one commit."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.contracts.events import UploadCompleted
from libs.contracts.tree import ItemResult
from tests.support.backends import Backends
from tests.support.upload_world import Account, Answer, Json, World, accept, row_of, sha256, upload_world


@pytest.fixture(scope="module")
async def shared(backends: Backends) -> AsyncIterator[World]:
    async with upload_world(backends) as world:
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.tree.decide = accept
    return shared


async def opened(world: World, account: Account, contents: list[bytes]) -> Json:
    items = [
        {"content_hash": sha256(one), "size": len(one), "path": str(i)} for i, one in enumerate(contents)
    ]
    answer = await world.call(account, "POST", "/uploads/batch", {"items": items})
    assert answer.status == 201, answer
    return answer.body


async def send_all(world: World, upload: Json, contents: list[bytes], skip: tuple[int, ...] = ()) -> None:
    waiting = asyncio.Semaphore(16)

    async def send(entry: Json) -> None:
        async with waiting:
            status, text = await world.send(entry["put"], contents[entry["index"]])
            assert status == 200, text

    entries = [one for one in upload["entries"] if one["put"] is not None and one["index"] not in skip]
    await asyncio.gather(*(send(entry) for entry in entries))


async def complete(
    world: World, account: Account, upload: Json, indexes: list[int], name: str = "f"
) -> Answer:
    items = [{"index": i, "parent_id": account.namespace_id, "name": f"{name}{i}"} for i in indexes]
    return await world.call(account, "POST", f"/uploads/{upload['id']}/complete-batch", {"items": items})


def refusing(codes: dict[int, str]) -> object:
    def decide(event: UploadCompleted) -> list[ItemResult]:
        return [
            ItemResult(index=one.index, code=codes[one.index])
            if one.index in codes
            else ItemResult(index=one.index, row=row_of(event, one.index))
            for one in event.entries
        ]

    return decide


def asked_for(world: World, upload: Json) -> list[UploadCompleted]:
    return [one for one in world.tree.asked if one.upload_id == upload["id"]]


async def test_five_hundred_files_are_one_session_one_event_and_one_answer(world: World) -> None:
    account = await world.account()
    contents = [f"file {i}".encode() for i in range(500)]
    upload = await opened(world, account, contents)
    assert {entry["mode"] for entry in upload["entries"]} == {"put"}
    await send_all(world, upload, contents)
    answer = await complete(world, account, upload, list(range(500)))
    assert (answer.status, answer.body["state"]) == (200, "committed")
    assert [item["index"] for item in answer.body["results"]] == list(range(500))
    (event,) = asked_for(world, upload)
    assert len(event.entries) == 500
    assert all(entry.object.verified for entry in event.entries)


async def test_what_is_stored_already_needs_no_bytes(world: World) -> None:
    account = await world.account()
    await world.stored_object(account, b"known")
    contents = [b"known", b"new", b""]
    upload = await opened(world, account, contents)
    assert [entry["mode"] for entry in upload["entries"]] == ["stored", "put", "put"]
    await send_all(world, upload, contents)
    assert (await complete(world, account, upload, [0, 1, 2])).body["state"] == "committed"
    (event,) = asked_for(world, upload)
    assert [entry.object.existing for entry in event.entries] == [True, False, False]


async def test_equal_contents_in_one_batch_are_files_of_their_own(world: World) -> None:
    account = await world.account()
    upload = await opened(world, account, [b"twin", b"twin"])
    await send_all(world, upload, [b"twin", b"twin"])
    assert (await complete(world, account, upload, [0, 1])).body["state"] == "committed"


async def test_entries_whose_bytes_are_missing_are_named_and_nothing_is_committed(world: World) -> None:
    account = await world.account()
    contents = [bytes([n]) for n in range(5)]
    upload = await opened(world, account, contents)
    await send_all(world, upload, contents, skip=(1, 3))
    answer = await complete(world, account, upload, [0, 1, 2, 3, 4])
    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "bytes_missing", [1, 3])
    assert asked_for(world, upload) == []
    urls = await world.call(account, "POST", f"/uploads/{upload['id']}/urls", {"entries": [1, 3]})
    for index in (1, 3):
        assert (await world.send(urls.body["items"][str(index)], contents[index]))[0] == 200
    assert (await complete(world, account, upload, [0, 1, 2, 3, 4])).body["state"] == "committed"


async def test_a_part_of_the_entries_can_be_committed_first(world: World) -> None:
    account = await world.account()
    contents = [bytes([n]) for n in range(4)]
    upload = await opened(world, account, contents)
    await send_all(world, upload, contents)
    first = await complete(world, account, upload, [0, 2])
    assert (first.status, first.body["state"], len(first.body["results"])) == (200, "open", 2)
    again = await complete(world, account, upload, [0, 2])
    assert again.body["results"] == first.body["results"]
    rest = await complete(world, account, upload, [0, 1, 2, 3])
    assert (rest.body["state"], len(rest.body["results"])) == ("committed", 4)
    assert [[entry.index for entry in event.entries] for event in asked_for(world, upload)] == [
        [0, 2],
        [1, 3],
    ]


async def test_refused_entries_are_answered_one_by_one_and_can_go_elsewhere(world: World) -> None:
    account = await world.account()
    contents = [bytes([n]) for n in range(3)]
    upload = await opened(world, account, contents)
    await send_all(world, upload, contents)
    world.tree.decide = refusing({1: "name_taken"})  # type: ignore[assignment]
    answer = await complete(world, account, upload, [0, 1, 2])
    assert (answer.status, answer.body["state"]) == (200, "open")
    assert [item.get("code") for item in answer.body["results"]] == [None, "name_taken", None]
    world.tree.decide = accept
    elsewhere = await complete(world, account, upload, [1], name="copy")
    assert (elsewhere.body["state"], elsewhere.body["results"][0]["row"]["name"]) == ("committed", "copy1")


async def test_a_batch_refused_whole_stays_open(world: World) -> None:
    account = await world.account()
    upload = await opened(world, account, [b"a", b"b"])
    await send_all(world, upload, [b"a", b"b"])
    world.tree.decide = refusing({0: "parent_deleted", 1: "parent_deleted"})  # type: ignore[assignment]
    answer = await complete(world, account, upload, [0, 1])
    assert (answer.status, answer.body["state"]) == (200, "open")
    assert [item["code"] for item in answer.body["results"]] == ["parent_deleted"] * 2


async def test_an_entry_lost_for_good_does_not_keep_the_others_open(world: World) -> None:
    account = await world.account()
    upload = await opened(world, account, [b"a", b"b"])
    await send_all(world, upload, [b"a", b"b"])
    world.tree.decide = refusing({1: "object_gone"})  # type: ignore[assignment]
    answer = await complete(world, account, upload, [0, 1])
    assert answer.body["state"] == "committed"
    assert [item.get("code") for item in answer.body["results"]] == [None, "object_gone"]


async def test_committed_bytes_stay_when_the_rest_is_given_up(world: World) -> None:
    account = await world.account()
    upload = await opened(world, account, [b"kept", b"dropped"])
    await send_all(world, upload, [b"kept", b"dropped"])
    await complete(world, account, upload, [0])
    assert (await world.call(account, "DELETE", f"/uploads/{upload['id']}")).status == 204
    held = [item.key async for item in world.store.walk(f"t/{account.namespace_id}/")]
    assert held == [asked_for(world, upload)[0].entries[0].object.key]


@pytest.mark.parametrize("indexes", [[5], [0, 0]])
async def test_entries_that_are_not_there_or_named_twice_are_refused(
    world: World, indexes: list[int]
) -> None:
    account = await world.account()
    upload = await opened(world, account, [b"a", b"b"])
    answer = await complete(world, account, upload, indexes)
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")


async def test_a_batch_is_completed_as_a_batch(world: World) -> None:
    account = await world.account()
    upload = await opened(world, account, [b"a"])
    answer = await world.complete(account, upload)
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")
