"""The commit: announced once, answered, refused, late, repeated, driven on."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from libs.contracts.events import (
    CommitRejected,
    DeviceRevoked,
    FileCommitted,
    UploadAborted,
    UploadCompleted,
    UploadExpired,
)
from libs.contracts.tree import ItemResult
from tests.support.backends import Backends
from tests.support.upload_world import Account, Json, World, accept, refuse, row_of, upload_world
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
async def shared(backends: Backends) -> AsyncIterator[World]:
    async with upload_world(backends) as world:
        yield world


@pytest.fixture(scope="module")
async def shared_impatient(backends: Backends) -> AsyncIterator[World]:
    async with upload_world(backends, commit_wait=0.3, redrive_seconds=0, lease_seconds=1) as world:
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.tree.decide = accept
    return shared


@pytest.fixture
def impatient(shared_impatient: World) -> World:
    """A service that waits a moment only for commits and takes everything pending for stuck."""
    shared_impatient.tree.decide = no_answer
    return shared_impatient


def no_answer(_event: UploadCompleted) -> None:
    return None


def asked_for(world: World, upload: Json) -> list[UploadCompleted]:
    return [one for one in world.tree.asked if one.upload_id == upload["id"]]


async def until_asked(world: World, upload: Json, times: int = 1) -> UploadCompleted:
    async def asked() -> bool:
        return len(asked_for(world, upload)) >= times

    await eventually(asked, seconds=10)
    return asked_for(world, upload)[-1]


async def pending(world: World, account: Account, content: bytes) -> Json:
    """A session that is committing, with nobody answering yet."""
    upload = await world.opened_and_sent(account, content)
    answer = await world.complete(account, upload)
    assert answer.status == 202, answer
    await until_asked(world, upload)
    return upload


async def test_a_lost_answer_can_be_asked_for_again(world: World) -> None:
    account = await world.account()
    upload = await world.opened_and_sent(account, b"lost answer")
    first = await world.complete(account, upload)
    again = await world.complete(account, upload)
    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert len(asked_for(world, upload)) == 1


async def test_bytes_are_committed_at_one_target_only(world: World) -> None:
    account = await world.account()
    upload = await world.opened_and_sent(account, b"one target")
    assert (await world.complete(account, upload)).status == 200
    answer = await world.complete(account, upload, name="other.txt")
    assert (answer.status, answer.body["code"]) == (409, "committed_elsewhere")
    assert len(asked_for(world, upload)) == 1


async def test_two_that_complete_at_once_commit_once(world: World) -> None:
    account = await world.account(devices=2)
    upload = await world.opened_and_sent(account, b"both")
    answers = await asyncio.gather(*(world.complete(account, upload) for _ in range(6)))
    assert [answer.status for answer in answers] == [200] * 6
    assert len({answer.body["results"][0]["row"]["version_id"] for answer in answers}) == 1
    assert len(asked_for(world, upload)) == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("version_conflict", 409),
        ("name_taken", 409),
        ("parent_deleted", 409),
        ("node_deleted", 409),
        ("node_moved", 409),
        ("not_found", 404),
        ("not_a_folder", 409),
        ("not_a_file", 409),
        ("depth_exceeded", 400),
        ("quota_exceeded", 413),
    ],
)
async def test_a_refused_commit_can_go_elsewhere_without_bytes(world: World, code: str, status: int) -> None:
    account = await world.account()
    upload = await world.opened_and_sent(account, code.encode())
    world.tree.decide = refuse(code)
    answer = await world.complete(account, upload)
    assert (answer.status, answer.body["code"]) == (status, code)
    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body
    assert (shown["state"], shown["code"]) == ("open", code)
    world.tree.decide = accept
    elsewhere = await world.complete(account, upload, name="copy.txt")
    assert (elsewhere.status, elsewhere.body["state"]) == (200, "committed")
    assert [one.attempt for one in asked_for(world, upload)] == [1, 2]


async def test_a_refusal_shows_the_row_that_stands_in_the_way(world: World) -> None:
    account = await world.account()
    upload = await world.opened_and_sent(account, b"in the way")

    def taken(event: UploadCompleted) -> list[ItemResult]:
        return [ItemResult(index=0, code="name_taken", current=row_of(event, 0))]

    world.tree.decide = taken
    answer = await world.complete(account, upload)
    assert answer.status == 409
    assert answer.body["current"]["name"] == "a.txt"


async def test_sent_bytes_that_have_vanished_fail_the_session_for_good(world: World) -> None:
    account = await world.account()
    upload = await world.opened_and_sent(account, b"gone for good")
    world.tree.decide = refuse("object_gone")
    for _ in range(2):
        answer = await world.complete(account, upload)
        assert (answer.status, answer.body["code"]) == (409, "object_gone")
    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body
    assert (shown["state"], shown["code"]) == ("failed", "object_gone")
    assert (await world.open(account, b"gone for good"))["id"] != upload["id"]


async def test_a_commit_that_takes_long_is_answered_with_the_sessions_url(impatient: World) -> None:
    account = await impatient.account()
    upload = await impatient.opened_and_sent(account, b"slow")
    answer = await impatient.complete(account, upload)
    assert (answer.status, answer.body["state"]) == (202, "committing")
    assert answer.headers["Location"] == f"/v1/uploads/{upload['id']}"
    event = await until_asked(impatient, upload)
    await impatient.tree.publish(impatient.tree.verdict(event, accept(event)))
    await impatient.until_state(account, upload, "committed")
    assert (await impatient.complete(account, upload)).status == 200


async def test_while_a_commit_is_pending_the_session_cannot_be_given_up_or_changed(impatient: World) -> None:
    account = await impatient.account()
    upload = await pending(impatient, account, b"held")
    for method, path, body, code in [
        ("DELETE", "", None, "commit_pending"),
        ("POST", "/urls", {"entries": [0]}, "upload_not_open"),
        ("POST", "/complete", {"parent_id": account.namespace_id, "name": "else"}, "commit_pending"),
    ]:
        answer = await impatient.call(account, method, f"/uploads/{upload['id']}{path}", body)
        assert (answer.status, answer.body["code"]) == (409, code)
    assert (await impatient.complete(account, upload)).status == 202
    assert (await impatient.open(account, b"held"))["id"] == upload["id"]
    assert await impatient.state(account, upload) == "committing"


async def test_answers_repeated_or_out_of_date_change_nothing(impatient: World) -> None:
    account = await impatient.account()
    upload = await pending(impatient, account, b"repeated")
    first = await until_asked(impatient, upload)
    refused = refuse("name_taken")(first)
    assert refused is not None
    await impatient.tree.publish(impatient.tree.verdict(first, refused))
    await impatient.until_state(account, upload, "open")
    assert (await impatient.complete(account, upload, name="second")).status == 202
    second = await until_asked(impatient, upload, times=2)
    for event, results in ((first, refused), (first, accept(first)), (second, accept(second))):
        await impatient.tree.publish(impatient.tree.verdict(event, results))
    await impatient.until_state(account, upload, "committed")
    shown = (await impatient.call(account, "GET", f"/uploads/{upload['id']}")).body
    assert shown["entries"][0]["result"]["row"]["name"] == "second"
    await impatient.tree.publish(impatient.tree.verdict(second, refused))
    await impatient.tree.publish(
        CommitRejected(namespace_id=account.namespace_id, upload_id="0" * 24, attempt=1, results=[])
    )
    restored = FileCommitted(namespace_id=account.namespace_id, first_seq=1, last_seq=1, changes=[])
    await impatient.tree.publish(restored)
    marker = await pending(impatient, account, b"marker")
    event = await until_asked(impatient, marker)
    await impatient.tree.publish(impatient.tree.verdict(event, accept(event)))
    await impatient.until_state(account, marker, "committed")
    assert await impatient.state(account, upload) == "committed"


async def test_a_commit_nobody_answers_is_announced_again_as_the_same_attempt(impatient: World) -> None:
    account = await impatient.account()
    upload = await pending(impatient, account, b"announce again")
    answer = await impatient.internal("redrive")
    assert answer.status == 200
    assert answer.body["done"] >= 1
    again = await until_asked(impatient, upload, times=2)
    first = asked_for(impatient, upload)[0]
    assert again == first


async def test_a_completion_whose_process_died_is_driven_on(impatient: World) -> None:
    account = await impatient.account()
    upload = await impatient.opened_and_sent(account, b"orphan")
    impatient.tree.decide = accept
    target = {"parent_id": account.namespace_id, "name": "a.txt"}
    dead = {
        "state": "completing",
        "attempt": 1,
        "entries.0.attempt": 1,
        "entries.0.target": target,
        "lease": {"owner": "dead", "until": datetime.now(UTC) - timedelta(seconds=1)},
    }
    await impatient.database["uploads"].update_one({"_id": upload["id"]}, {"$set": dead})
    assert (await impatient.internal("redrive")).body["done"] >= 1
    await impatient.until_state(account, upload, "committed")


async def test_a_completion_whose_process_lives_is_left_alone(impatient: World) -> None:
    account = await impatient.account()
    upload = await impatient.opened_and_sent(account, b"alive")
    alive = {
        "state": "completing",
        "attempt": 1,
        "lease": {"owner": "alive", "until": datetime.now(UTC) + timedelta(seconds=60)},
    }
    await impatient.database["uploads"].update_one({"_id": upload["id"]}, {"$set": alive})
    await impatient.internal("redrive")
    row = await impatient.database["uploads"].find_one({"_id": upload["id"]})
    assert row is not None
    assert (row["state"], row["lease"]["owner"]) == ("completing", "alive")


async def test_open_sessions_expire_and_pending_ones_never(impatient: World) -> None:
    account = await impatient.account()
    held = await pending(impatient, account, b"pending past its time")
    left = await impatient.opened_and_sent(account, b"left alone")
    fresh = await impatient.open(account, b"fresh")
    past = {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}
    ids = [held["id"], left["id"]]
    await impatient.database["uploads"].update_many({"_id": {"$in": ids}}, {"$set": past})
    assert (await impatient.internal("expire")).body["done"] >= 1
    states = [await impatient.state(account, upload) for upload in (held, left, fresh)]
    assert states == ["committing", "expired", "open"]
    keys = {item.key async for item in impatient.store.walk(f"t/{account.namespace_id}/")}
    assert keys == {asked_for(impatient, held)[0].entries[0].object.key}

    async def announced() -> bool:
        return len(impatient.events(UploadExpired, left)) == 1

    await eventually(announced, seconds=5)


async def test_sessions_that_ended_long_ago_are_forgotten(impatient: World) -> None:
    account = await impatient.account()
    old, recent = await impatient.open(account, b"old"), await impatient.open(account, b"recent")
    for upload in (old, recent):
        await impatient.call(account, "DELETE", f"/uploads/{upload['id']}")
    long_ago = {"updated_at": datetime.now(UTC) - timedelta(days=30)}
    await impatient.database["uploads"].update_one({"_id": old["id"]}, {"$set": long_ago})
    await impatient.internal("expire")
    found = [(await impatient.call(account, "GET", f"/uploads/{one['id']}")).status for one in (old, recent)]
    assert found == [404, 200]


async def test_the_sweep_learns_what_live_sessions_own(impatient: World) -> None:
    account = await impatient.account()
    content = b"k" * (2 * 1024 * 1024)
    large, given_up = await impatient.open(account, content), await impatient.open(account, content + b"!")
    rows = {row["_id"]: row async for row in impatient.database["uploads"].find({"user_id": account.user_id})}
    await impatient.call(account, "DELETE", f"/uploads/{given_up['id']}")
    asked = {
        "keys": [rows[one["id"]]["entries"][0]["key"] for one in (large, given_up)]
        + ["t/unknown/1-0", "odd"],
        "s3_upload_ids": [rows[one["id"]]["s3_upload_id"] for one in (large, given_up)] + ["unknown"],
    }
    known = (await impatient.internal("known", asked)).body
    assert known == {"keys": asked["keys"][:1], "s3_upload_ids": asked["s3_upload_ids"][:1]}


async def test_a_revoked_device_leaves_its_sessions_and_those_without_another_are_aborted(
    world: World,
) -> None:
    account = await world.account(devices=2)
    alone, joined = await world.open(account, b"alone"), await world.open(account, b"joined")
    await world.open(account, b"joined", device=1)
    revoked = DeviceRevoked(
        namespace_id=account.namespace_id, user_id=account.user_id, device_id=account.devices[0]
    )
    await world.tree.publish(revoked)

    async def left() -> bool:
        row = await world.database["uploads"].find_one({"_id": joined["id"]})
        return row is not None and row["devices"] == [account.devices[1]]

    await eventually(left, seconds=10)
    rows = {
        row["_id"]: row["state"] async for row in world.database["uploads"].find({"user_id": account.user_id})
    }
    assert rows == {alone["id"]: "aborted", joined["id"]: "open"}
    await world.tree.publish(revoked)

    async def announced() -> bool:
        return len(world.events(UploadAborted, alone)) == 1

    await eventually(announced, seconds=5)
    assert (await world.call(account, "GET", f"/uploads/{joined['id']}", device=1)).body["state"] == "open"
