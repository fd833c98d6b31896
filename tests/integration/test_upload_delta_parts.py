"""Delta objects that are too large for one request: sent in parts, joined, and then put together."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from libs.contracts.errors import ConflictError
from libs.contracts.events import PartCompleted, UploadStarted
from libs.contracts.ids import new_id
from libs.contracts.keys import manifest_key
from libs.contracts.recipe import Literal, Recipe
from libs.mongo.names import UPLOAD_PARTS, UPLOADS
from services.upload.domain.session import Device
from services.upload.service.transfers import Parts
from tests.integration.test_upload_delta import (
    BASE,
    MIB,
    Made,
    content_of,
    edited,
    everything,
    made,
    opened,
    send_delta,
    sent,
    version_of,
)
from tests.integration.test_upload_races import process
from tests.support.upload_world import Account, Answer, Json, World, accept, refuse, sha256
from tests.support.waiting import eventually

NEW = os.urandom(6 * MIB)
WANTED = made(edited(5 * MIB, NEW))
"""6 MiB of 12 are new: a delta object of two parts of 5 MiB."""
OTHER = made(WANTED.content, Recipe((Literal(len(WANTED.content)),)))
"""Another delta object for the same content."""
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(uploads: World) -> World:
    return uploads


async def begun(world: World, account: Account, made: Made = WANTED, device: int = 0) -> tuple[Json, str]:
    """A session with the first part of its delta object, and the base."""
    base = await version_of(world, account, BASE)
    upload = await opened(world, account, made, base, device=device)
    assert (upload["entries"][0]["mode"], upload["entries"][0].get("put")) == ("delta", None)
    assert (upload["part_size"], upload["parts_total"]) == (5 * MIB, -(-len(made.delta) // (5 * MIB)))
    await send_delta(world, account, upload, made.delta, [1], device)
    return upload, base


async def asked(
    world: World, account: Account, made: Made, base: str | None = None, *, device: int = 0
) -> Answer:
    body = made.announced(base or "")
    if base is None:
        del body["delta"]
    return await world.call(account, "POST", "/uploads", body, device=device)


async def row_of(world: World, upload: Json) -> Json:
    row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    return dict(row)


async def quiet(world: World, upload: Json) -> None:
    """Let nothing have been heard of a session for years."""
    await world.database[UPLOADS].update_one({"_id": upload["id"]}, {"$set": {"updated_at": LONG_AGO}})


async def multiparts(world: World, account: Account) -> list[str]:
    return [key async for key, _, _ in world.store.walk_multiparts(f"t/{account.namespace_id}/")]


# One device -----------------------------------------------------------------------------------


async def test_a_large_delta_object_travels_in_parts_and_the_content_is_put_together(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    upload = await sent(world, account, WANTED, base)
    assert (await row_of(world, upload))["size"] == len(WANTED.content), "what is reserved"

    answer = await world.complete(account, upload)

    assert answer.status == 200, answer
    assert await content_of(world, upload) == WANTED.content
    (event,) = world.tree.asked
    assert event.entries[0].object.verified, "every byte was hashed on the way"
    assert await world.store.head(manifest_key(account.namespace_id, event.entries[0].object.id))
    assert len(await everything(world, account)) == 2, "base and content; the delta object is gone"
    assert await multiparts(world, account) == []
    row = await row_of(world, upload)
    assert not row["digests_enforced"], "digests of a delta object's parts are none of the content's"


async def test_each_part_is_told_of_and_the_session_shows_how_many_are_there(world: World) -> None:
    account = await world.account()
    upload, _ = await begun(world, account)

    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body

    digest = sha256(WANTED.delta[: 5 * MIB])
    assert (shown["parts_done"], shown["parts_total"]) == (1, 2)
    assert shown["parts"] == [{"number": 1, "size": 5 * MIB, "digest": digest}]

    async def told() -> bool:
        return len(world.events(PartCompleted, upload)) == 1

    await eventually(told, seconds=5)
    (part,) = world.events(PartCompleted, upload)
    assert (part.number, part.parts_done, part.parts_total) == (1, 1, 2)
    assert part.total_size == len(WANTED.content)
    (started,) = world.events(UploadStarted, upload)
    assert (started.parts_total, started.size) == (2, len(WANTED.content))


async def test_who_comes_back_finds_the_parts_that_s3_holds_told_of_or_not(world: World) -> None:
    account = await world.account()
    upload, base = await begun(world, account)
    digests = {"2": sha256(WANTED.delta[5 * MIB :])}
    body = {"parts": digests, "delta": sha256(WANTED.delta)}
    urls = (await world.call(account, "POST", f"/uploads/{upload['id']}/urls", body)).body
    assert (await world.send(urls["items"]["2"], WANTED.delta[5 * MIB :]))[0] == 200

    again = (await asked(world, account, WANTED, base)).body

    assert (again["id"], again["joined"]) == (upload["id"], True)
    assert [part["number"] for part in again["parts"]] == [1, 2]
    assert (await world.complete(account, again)).status == 200
    assert await content_of(world, upload) == WANTED.content


async def test_what_is_missing_is_named_and_only_that_is_sent(world: World) -> None:
    account = await world.account()
    upload, _ = await begun(world, account)

    answer = await world.complete(account, upload)

    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "parts_missing", [2])
    await send_delta(world, account, upload, WANTED.delta, [2])
    assert (await world.complete(account, upload)).status == 200


async def test_parts_that_s3_has_lost_are_asked_for_again(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    upload = await sent(world, account, WANTED, base)
    row = await row_of(world, upload)
    await world.store.abort_multipart(row["entries"][0]["delta"]["key"], row["delta_upload_id"])

    answer = await world.complete(account, upload)

    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "parts_missing", [1, 2])
    again = (await asked(world, account, WANTED, base)).body
    assert again["parts"] == []
    await send_delta(world, account, again, WANTED.delta)
    assert (await world.complete(account, upload)).status == 200


async def test_a_part_is_bound_to_its_digest_and_to_the_delta_object(world: World) -> None:
    account = await world.account()
    upload, _ = await begun(world, account)
    path = f"/uploads/{upload['id']}"
    digest = {"2": sha256(WANTED.delta[5 * MIB :])}

    async def code(kind: str, body: Json) -> object:
        return (await world.call(account, "POST", f"{path}/{kind}", body)).body.get("code")

    for kind in ("urls", "parts"):
        assert await code(kind, {"parts": digest}) == "upload_changed", "parts of the content"
        assert await code(kind, {"parts": digest, "delta": sha256(b"x")}) == "upload_changed"
        other = {"parts": {"1": sha256(b"x")}, "delta": sha256(WANTED.delta)}
        assert await code(kind, other) == "part_digest_fixed"
        beyond = {"parts": {"3": sha256(b"x")}, "delta": sha256(WANTED.delta)}
        assert await code(kind, beyond) == "invalid_request"
    urls = await world.call(account, "POST", f"{path}/urls", {"parts": digest, "delta": sha256(WANTED.delta)})
    assert (await world.send(urls.body["items"]["2"], WANTED.delta[5 * MIB : -1] + b"?"))[0] == 400


async def test_a_device_that_makes_another_delta_of_it_begins_anew_at_once(world: World) -> None:
    """After an update the compressor may give other bytes. It is its own work that it makes void."""
    account = await world.account()
    upload, base = await begun(world, account)
    before = await row_of(world, upload)

    again = (await asked(world, account, OTHER, base)).body

    assert (again["id"], again["parts"], again["parts_done"]) == (upload["id"], [], 0)
    assert (
        await world.store.list_parts(before["entries"][0]["delta"]["key"], before["delta_upload_id"]) is None
    )
    stale = {"parts": {"2": sha256(WANTED.delta[5 * MIB :])}, "delta": sha256(WANTED.delta)}
    answer = await world.call(account, "POST", f"/uploads/{upload['id']}/urls", stale)
    assert answer.body["code"] == "upload_changed", "a run that has not noticed spoils nothing"
    await send_delta(world, account, again, OTHER.delta)
    assert (await world.complete(account, again)).status == 200
    assert await content_of(world, upload) == WANTED.content


async def test_parts_stay_when_the_base_is_found_in_another_version(world: World) -> None:
    """The delta object is the same, byte for byte; what it was a difference to may be gone by now."""
    account = await world.account()
    upload, _ = await begun(world, account)
    again = await version_of(world, account, BASE)
    await world.store.delete([(await row_of(world, upload))["entries"][0]["delta"]["base_key"]])

    joined = (await asked(world, account, WANTED, again)).body

    assert [part["number"] for part in joined["parts"]] == [1]
    await send_delta(world, account, joined, WANTED.delta, [2])
    assert (await world.complete(account, joined)).status == 200
    assert await content_of(world, upload) == WANTED.content


async def test_a_delta_in_parts_that_lies_is_refused_and_leaves_nothing(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    lie = made(WANTED.content, Recipe((Literal(len(WANTED.content)),)), os.urandom(len(WANTED.content)))
    upload = await sent(world, account, lie, base)

    answer = await world.complete(account, upload)

    assert (answer.status, answer.body["code"]) == (409, "delta_refused")
    assert len(await everything(world, account)) == 1, "the base"
    assert await multiparts(world, account) == []
    assert await world.database[UPLOAD_PARTS].count_documents({"upload_id": upload["id"]}) == 0
    row = await row_of(world, upload)
    assert (row["delta_upload_id"], row["s3_upload_id"], row["parts_done"]) == (None, None, 0)
    whole = (await asked(world, account, WANTED)).body
    assert (whole["id"], whole["entries"][0]["mode"]) == (upload["id"], "multipart")
    await world.send_parts(account, whole, WANTED.content, list(range(1, whole["parts_total"] + 1)))
    assert (await world.complete(account, whole)).status == 200
    assert await content_of(world, upload) == WANTED.content


async def test_what_was_put_together_of_parts_goes_elsewhere_without_bytes(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    upload = await sent(world, account, WANTED, base)
    world.tree.decide = refuse("version_conflict")
    assert (await world.complete(account, upload)).body["code"] == "version_conflict"
    world.tree.decide = accept

    again = (await asked(world, account, WANTED, base)).body

    assert (again["id"], again["part_size"], again["parts_total"]) == (upload["id"], None, 0)
    assert (await world.complete(account, again, name="copy.txt")).status == 200


async def test_what_was_put_together_of_parts_and_has_vanished_is_asked_for_in_parts(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    upload = await sent(world, account, WANTED, base)
    world.tree.decide = refuse("version_conflict")
    await world.complete(account, upload)
    world.tree.decide = accept
    world.tree.asked.clear()
    await world.store.delete([(await row_of(world, upload))["entries"][0]["key"]])

    again = (await asked(world, account, WANTED, base)).body

    assert (again["id"], again["parts"], again["parts_total"]) == (upload["id"], [], 2)
    await send_delta(world, account, again, WANTED.delta)
    assert (await world.complete(account, again)).status == 200
    assert await content_of(world, upload) == WANTED.content


@pytest.mark.parametrize("half_made", [False, True], ids=["joined", "half put together"])
async def test_what_a_dead_process_had_joined_is_gone_on_with(world: World, half_made: bool) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    upload = await sent(world, account, WANTED, base)
    row = await row_of(world, upload)
    key, delta = row["entries"][0]["key"], row["entries"][0]["delta"]["key"]
    await world.store.abort_multipart(delta, row["delta_upload_id"])
    await world.store.put(delta, WANTED.delta)
    if half_made:
        left = await world.store.create_multipart(key)
        await world.store.put_part(key, left, 1, bytes(10 * MIB))
        await world.database[UPLOADS].update_one({"_id": upload["id"]}, {"$set": {"s3_upload_id": left}})

    again = (await asked(world, account, WANTED, base)).body
    assert [part["number"] for part in again["parts"]] == [1, 2], "nothing is to be sent"
    assert (await world.complete(account, upload)).status == 200

    assert await content_of(world, upload) == WANTED.content
    assert await multiparts(world, account) == []


@pytest.mark.parametrize("end", ["abort", "expire"])
async def test_the_end_of_a_session_aborts_both_of_its_multipart_uploads(world: World, end: str) -> None:
    account = await world.account()
    upload, _ = await begun(world, account)
    row = await row_of(world, upload)
    key = row["entries"][0]["key"]
    left = await world.store.create_multipart(key)
    await world.store.put_part(key, left, 1, bytes(10 * MIB))
    await world.database[UPLOADS].update_one({"_id": upload["id"]}, {"$set": {"s3_upload_id": left}})
    known = (await world.internal("known", {"s3_upload_ids": [left, row["delta_upload_id"], "none"]})).body
    assert known["s3_upload_ids"] == [left, row["delta_upload_id"]], "until then they are the session's"

    if end == "abort":
        assert (await world.call(account, "DELETE", f"/uploads/{upload['id']}")).status == 204
    else:
        past = {"expires_at": datetime.now(UTC) - timedelta(minutes=1)}
        await world.database[UPLOADS].update_one({"_id": upload["id"]}, {"$set": past})
        assert (await world.internal("expire")).body["done"] >= 1

    assert (await row_of(world, upload))["state"] == ("aborted" if end == "abort" else "expired")
    assert await world.store.list_parts(key, left) is None
    assert await world.store.list_parts(row["entries"][0]["delta"]["key"], row["delta_upload_id"]) is None
    known = (await world.internal("known", {"s3_upload_ids": [left, row["delta_upload_id"]]})).body
    assert known["s3_upload_ids"] == []


# Two devices ----------------------------------------------------------------------------------


async def test_another_device_with_the_same_delta_object_goes_on_with_it(world: World) -> None:
    account = await world.account(devices=2)
    upload, base = await begun(world, account)

    theirs = (await asked(world, account, WANTED, base, device=1)).body

    assert (theirs["id"], [part["number"] for part in theirs["parts"]]) == (upload["id"], [1])
    await send_delta(world, account, theirs, WANTED.delta, [2], device=1)
    assert (await world.complete(account, theirs)).status == 200
    assert await content_of(world, upload) == WANTED.content


@pytest.mark.parametrize("by", ["bytes", "another delta"])
async def test_another_device_that_cannot_help_waits_and_spoils_nothing(world: World, by: str) -> None:
    account = await world.account(devices=2)
    upload, base = await begun(world, account)
    before = await row_of(world, upload)

    answer = await asked(world, account, OTHER, None if by == "bytes" else base, device=1)

    assert (answer.status, answer.body["code"]) == (409, "delta_under_way")
    assert await row_of(world, upload) == before
    await send_delta(world, account, upload, WANTED.delta, [2])
    assert (await world.complete(account, upload)).status == 200
    assert await content_of(world, upload) == WANTED.content


@pytest.mark.parametrize("by", ["bytes", "another delta"])
async def test_a_device_of_which_nothing_is_heard_is_not_waited_for(world: World, by: str) -> None:
    account = await world.account(devices=2)
    upload, base = await begun(world, account)
    before = await row_of(world, upload)
    await quiet(world, upload)

    theirs = (await asked(world, account, OTHER, None if by == "bytes" else base, device=1)).body

    assert theirs["id"] == upload["id"]
    assert theirs["entries"][0]["mode"] == ("multipart" if by == "bytes" else "delta")
    assert theirs["parts"] == []
    assert (
        await world.store.list_parts(before["entries"][0]["delta"]["key"], before["delta_upload_id"]) is None
    )
    late = {"parts": {"2": sha256(WANTED.delta[5 * MIB :])}, "delta": sha256(WANTED.delta)}
    for kind in ("urls", "parts"):
        answer = await world.call(account, "POST", f"/uploads/{upload['id']}/{kind}", late)
        assert answer.body["code"] == "upload_changed", "who comes back late is told so"
    if by == "bytes":
        await world.send_parts(account, theirs, OTHER.content, list(range(1, theirs["parts_total"] + 1)))
    else:
        await send_delta(world, account, theirs, OTHER.delta, device=1)
    assert (await world.complete(account, theirs)).status == 200
    assert await content_of(world, upload) == WANTED.content
    assert await multiparts(world, account) == []


async def test_parts_of_the_content_are_not_made_void_by_a_delta(world: World) -> None:
    account = await world.account(devices=2)
    base = await version_of(world, account, BASE)
    upload = await world.open(account, WANTED.content)
    part = {"parts": {"1": sha256(WANTED.content[: upload["part_size"]])}}
    await world.send_parts(account, upload, WANTED.content, [1])
    assert (await world.call(account, "POST", f"/uploads/{upload['id']}/parts", part)).status == 200

    theirs = (await asked(world, account, WANTED, base, device=1)).body

    assert (theirs["id"], theirs["entries"][0]["mode"], theirs["parts_done"]) == (
        upload["id"],
        "multipart",
        1,
    )


async def test_a_device_that_was_about_to_send_all_is_told_that_a_delta_is_on_its_way(world: World) -> None:
    account = await world.account(devices=2)
    upload = await world.open(account, WANTED.content)
    base = await version_of(world, account, BASE)
    theirs = (await asked(world, account, WANTED, base, device=1)).body
    assert (theirs["id"], theirs["entries"][0]["mode"]) == (upload["id"], "delta")

    part = {"parts": {"1": sha256(WANTED.content[: upload["part_size"]])}}
    answer = await world.call(account, "POST", f"/uploads/{upload['id']}/urls", part)

    assert answer.body["code"] == "upload_changed"
    assert (await asked(world, account, WANTED)).body["code"] == "delta_under_way"
    await send_delta(world, account, theirs, WANTED.delta, device=1)
    assert (await world.complete(account, theirs)).status == 200


async def test_a_request_that_the_change_overtakes_fixes_no_digest(world: World) -> None:
    """It was read before the session changed, and is carried out after."""
    account = await world.account(devices=2)
    upload, _ = await begun(world, account)
    other = process(world)
    as_it_was = await other.session(upload)
    await quiet(world, upload)
    theirs = (await asked(world, account, WANTED, device=1)).body
    one, two = (Device(device, "d") for device in account.devices)
    first = {1: sha256(WANTED.content[: theirs["part_size"]])}
    await other.transfers.part_urls(await other.session(upload), two, Parts(first))

    late = {1: sha256(WANTED.delta[: 5 * MIB]), 2: sha256(WANTED.delta[5 * MIB :])}
    for digests in (late, {2: late[2]}):
        with pytest.raises(ConflictError, match="upload_changed"):
            await other.transfers.part_urls(as_it_was, one, Parts(digests, sha256(WANTED.delta)))

    notes = await other.deps.parts.of(await other.session(upload))
    assert {number: note.digest for number, note in notes.items()} == first
    await world.send_parts(account, theirs, WANTED.content, list(range(1, theirs["parts_total"] + 1)))
    assert (await world.complete(account, theirs)).status == 200
    assert await content_of(world, upload) == WANTED.content


async def test_a_base_of_nobody_turns_a_delta_in_parts_to_bytes(world: World) -> None:
    account = await world.account()
    upload, _ = await begun(world, account)

    again = (await asked(world, account, WANTED, new_id())).body

    assert (again["id"], again["entries"][0]["mode"], again["parts"]) == (upload["id"], "multipart", [])
