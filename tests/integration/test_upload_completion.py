"""Joining the parts at S3, when S3 is slow, lies, loses answers, or a process dies in between."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from libs.contracts.events import UploadCompleted
from libs.mongo.names import UPLOADS
from tests.support.backends import Backends
from tests.support.processes import Server
from tests.support.s3_proxy import LOST, Answered, Asked, S3Proxy, s3_proxy
from tests.support.upload_process import upload_process, url_of
from tests.support.upload_world import Account, Answer, Json, World, accept, refuse, sha256, upload_world
from tests.support.waiting import eventually

PART = 5 * 1024 * 1024
ILL = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A service whose S3 is behind a proxy; the test sends bytes to S3 itself."""

    world: World
    proxy: S3Proxy


@pytest.fixture(scope="module")
async def shared(backends: Backends) -> AsyncIterator[Scene]:
    async with s3_proxy(backends.s3_endpoint) as proxy:
        served = {"s3_endpoint": proxy.url, "s3_public_endpoint": backends.s3_endpoint}
        async with upload_world(backends, served=served, commit_wait=1.5, lease_seconds=1) as world:
            yield Scene(world, proxy)


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    before, after = shared.proxy.before, shared.proxy.after
    yield shared
    shared.proxy.before, shared.proxy.after = before, after


@pytest.fixture
async def second(scene: Scene) -> AsyncIterator[Server]:
    """Another process of the service, at the same proxy."""
    served = {
        "s3_endpoint": scene.proxy.url,
        "s3_public_endpoint": scene.world.settings.s3_endpoint,
    }
    async with upload_process(scene.world.settings.model_copy(update=served)) as server:
        yield server


async def sent(world: World) -> tuple[Account, Json, bytes]:
    account, content = await world.account(), secrets.token_bytes(2 * PART + 1)
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 2, 3])
    return account, upload, content


def asked_for(world: World, upload: Json) -> list[UploadCompleted]:
    return [one for one in world.tree.asked if one.upload_id == upload["id"]]


async def stored(world: World, upload: Json) -> bytes:
    key = asked_for(world, upload)[0].entries[0].object.key
    return b"".join([chunk async for chunk in world.store.read(key)])


async def committed_once(scene: Scene, account: Account, upload: Json, content: bytes) -> None:
    await scene.world.until_state(account, upload, "committed")
    assert len({(one.attempt, one.entries[0].object.id) for one in asked_for(scene.world, upload)}) == 1
    assert await stored(scene.world, upload) == content


async def until_ok(world: World, account: Account, upload: Json) -> Answer:
    """Complete as a client does: again while the answer says that a repeat helps."""
    answers: list[Answer] = []

    async def done() -> bool:
        answers.append(await world.complete(account, upload))
        return answers[-1].status in {200, 202}

    await eventually(done, seconds=30)
    return answers[-1]


class Gate:
    """Holds up the joining of parts until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def hold(self, asked: Asked) -> Answered | None:
        if asked.completes:
            self.reached.set()
            await self.opened.wait()
        return None


async def test_a_joining_that_takes_long_is_answered_202_and_ends_by_itself(scene: Scene) -> None:
    account, upload, content = await sent(scene.world)
    gate = Gate()
    scene.proxy.before = gate.hold
    answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["state"]) == (202, "completing")
    again = await scene.world.complete(account, upload)
    assert (again.status, again.headers["Location"]) == (202, f"/v1/uploads/{upload['id']}")
    for path, method in ((f"/uploads/{upload['id']}", "DELETE"), (f"/uploads/{upload['id']}/urls", "POST")):
        refused = await scene.world.call(account, method, path, {"parts": {"1": sha256(content[:PART])}})
        assert refused.status == 409, refused
    gate.opened.set()
    await committed_once(scene, account, upload, content)


async def test_who_waits_for_a_joining_does_not_have_s3_asked_for_the_parts(scene: Scene) -> None:
    account, upload, content = await sent(scene.world)
    gate, listed = Gate(), list[str]()

    async def watch(asked: Asked) -> Answered | None:
        if asked.method == "GET" and "uploadId" in asked.query:
            listed.append(asked.path)
        return await gate.hold(asked)

    scene.proxy.before = watch
    assert (await scene.world.complete(account, upload)).status == 202
    await gate.reached.wait()
    assert len(listed) == 1
    assert await scene.world.state(account, upload) == "completing"
    assert len(listed) == 1
    gate.opened.set()
    await committed_once(scene, account, upload, content)


async def test_200_with_an_error_in_its_body_is_no_success_and_can_be_repeated(scene: Scene) -> None:
    account, upload, content = await sent(scene.world)

    async def ill(asked: Asked) -> Answered | None:
        return Answered(200, ILL) if asked.completes else None

    scene.proxy.before, as_it_is = ill, scene.proxy.before
    answer = await scene.world.complete(account, upload)
    while answer.status == 202:
        answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["code"]) == (503, "unavailable")
    assert asked_for(scene.world, upload) == []
    scene.proxy.before = as_it_is
    await until_ok(scene.world, account, upload)
    await committed_once(scene, account, upload, content)


async def test_a_lost_answer_of_the_joining_is_found_out_by_the_repeat(scene: Scene) -> None:
    account, upload, content = await sent(scene.world)
    lost = 0

    async def lose(asked: Asked, answered: Answered) -> Answered | None:
        nonlocal lost
        lost += asked.completes and answered.status == 200
        return LOST if asked.completes else answered

    scene.proxy.after, as_it_is = lose, scene.proxy.after
    answer = await scene.world.complete(account, upload)
    assert answer.status in {200, 202, 503}
    assert lost >= 1
    scene.proxy.after = as_it_is
    await until_ok(scene.world, account, upload)
    await committed_once(scene, account, upload, content)


async def test_what_a_killed_process_was_joining_is_joined_and_committed_once(
    scene: Scene, second: Server
) -> None:
    account, upload, content = await sent(scene.world)
    gate = Gate()
    scene.proxy.before, as_it_is = gate.hold, scene.proxy.before
    other = replace(scene.world, url=url_of(second))
    asking = asyncio.create_task(_ignoring(other.complete(account, upload)))
    await gate.reached.wait()
    second.kill(signal.SIGKILL)
    await asking
    assert await scene.world.state(account, upload) == "completing"
    scene.proxy.before = as_it_is
    gate.opened.set()
    await until_redriven(scene.world, upload)
    await committed_once(scene, account, upload, content)


async def test_a_process_that_slept_over_its_lease_does_not_commit_again(
    scene: Scene, second: Server
) -> None:
    account, upload, content = await sent(scene.world)
    gate = Gate()
    scene.proxy.before, as_it_is = gate.hold, scene.proxy.before
    other = replace(scene.world, url=url_of(second))
    asking = asyncio.create_task(_ignoring(other.complete(account, upload)))
    await gate.reached.wait()
    second.kill(signal.SIGSTOP)
    scene.proxy.before = as_it_is
    await until_redriven(scene.world, upload)
    await committed_once(scene, account, upload, content)
    gate.opened.set()
    second.kill(signal.SIGCONT)
    await asking
    await other.until_state(account, upload, "committed")
    await committed_once(scene, account, upload, content)


async def _ignoring(call: Any) -> None:
    await asyncio.gather(call, return_exceptions=True)


async def until_redriven(world: World, upload: Json) -> None:
    """Do the janitor's round until somebody has taken the session over, once its lease has lapsed."""

    async def driven() -> bool:
        await world.internal("redrive")
        row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
        return row is not None and row["state"] != "completing"

    await eventually(driven, seconds=30)


async def test_two_processes_that_complete_at_once_commit_once(scene: Scene, second: Server) -> None:
    account, upload, content = await sent(scene.world)
    other = replace(scene.world, url=url_of(second))
    answers = await asyncio.gather(
        *(world.complete(account, upload) for world in (scene.world, other) for _ in range(4))
    )
    assert {answer.status for answer in answers} <= {200, 202}
    await committed_once(scene, account, upload, content)
    rows = {answer.body["results"][0]["row"]["version_id"] for answer in answers if answer.status == 200}
    assert len(rows) <= 1


# Parts that are not what they should be ---------------------------------------------------------


async def replaced(world: World, upload: Json, number: int, content: bytes) -> None:
    """Put other bytes in the place of a part, as only somebody with S3's own secret can."""
    row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    key = row["entries"][0]["key"]
    signed = await world.store.presign_part(
        key, row["s3_upload_id"], number, size=len(content), sha256=sha256(content)
    )
    status, text = await world.send({"url": signed.url, "headers": signed.headers}, content)
    assert status == 200, text


async def with_wrong_part(world: World, wrong: bytes) -> tuple[Account, Json, bytes]:
    """A session whose second part is `wrong`: only this, because an S3 may keep replaced parts, too."""
    account, content = await world.account(), secrets.token_bytes(2 * PART + 1)
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 3])
    asked = {"parts": {"2": sha256(content[PART : 2 * PART])}}
    assert (await world.call(account, "POST", f"/uploads/{upload['id']}/urls", asked)).status == 200
    await replaced(world, upload, 2, wrong)
    return account, upload, content


async def test_a_part_replaced_by_one_of_another_size_is_named_and_only_it_is_sent_again(
    scene: Scene,
) -> None:
    account, upload, content = await with_wrong_part(scene.world, b"short")
    answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "parts_missing", [2])
    held = (await scene.world.open(account, content))["parts"]
    assert [part["number"] for part in held] == [1, 3]
    await scene.world.send_parts(account, upload, content, [2])
    await until_ok(scene.world, account, upload)
    await committed_once(scene, account, upload, content)


async def test_a_part_whose_listed_checksum_is_another_is_named(scene: Scene) -> None:
    """Amazon S3 lists the parts' SHA-256; this one does not, so the proxy adds it."""
    account, upload, content = await sent(scene.world)
    wrong = "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE="

    async def with_checksum(asked: Asked, answered: Answered) -> Answered | None:
        if asked.method != "GET" or "uploadId" not in asked.query:
            return answered
        named = b"<PartNumber>3</PartNumber>"
        told = b"<ChecksumSHA256>" + wrong.encode() + b"</ChecksumSHA256>"
        return replace(answered, body=answered.body.replace(named, named + told))

    scene.proxy.after, as_it_is = with_checksum, scene.proxy.after
    answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "parts_missing", [3])
    await scene.world.send_parts(account, upload, content, [3])
    scene.proxy.after = as_it_is
    await until_ok(scene.world, account, upload)
    await committed_once(scene, account, upload, content)


async def test_a_part_replaced_by_others_of_its_size_is_refused_by_s3_and_all_are_sent_again(
    scene: Scene,
) -> None:
    """S3 compares with the digests and does not say which differs: none can be trusted."""
    account, upload, content = await with_wrong_part(scene.world, secrets.token_bytes(PART))
    answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "parts_missing", [1, 2, 3])
    assert asked_for(scene.world, upload) == []
    again = await scene.world.open(account, content)
    assert (again["id"], again["parts"], again["parts_done"]) == (upload["id"], [], 0)
    await scene.world.send_parts(account, upload, content, [1, 2, 3])
    await until_ok(scene.world, account, upload)
    await committed_once(scene, account, upload, content)


async def test_a_part_that_changes_between_listing_and_joining_is_taken_as_it_is_now(scene: Scene) -> None:
    """The same bytes, sent once more by another device: another ETag with some S3, and the same content."""
    account, upload, content = await sent(scene.world)
    joins = 0

    async def refuse_once(asked: Asked) -> Answered | None:
        nonlocal joins
        joins += asked.completes
        if asked.completes and joins == 1:
            text = b"<Error><Code>InvalidPart</Code><Message>gone</Message></Error>"
            return Answered(400, text)
        return None

    async def new_etag_once(asked: Asked, answered: Answered) -> Answered | None:
        if asked.method == "GET" and "uploadId" in asked.query and joins == 0:
            return replace(answered, body=answered.body.replace(b"<ETag>&#34;", b"<ETag>&#34;0", 1))
        return answered

    scene.proxy.before, scene.proxy.after = refuse_once, new_etag_once
    await until_ok(scene.world, account, upload)
    assert joins == 2
    await committed_once(scene, account, upload, content)


async def test_parts_that_s3_has_lost_are_asked_for_again_at_the_end(scene: Scene) -> None:
    account, upload, content = await sent(scene.world)
    row = await scene.world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    await scene.world.store.abort_multipart(row["entries"][0]["key"], row["s3_upload_id"])
    answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["missing"]) == (409, [1, 2, 3])
    assert (await scene.world.open(account, content))["id"] == upload["id"]
    await scene.world.send_parts(account, upload, content, [1, 2, 3])
    scene.world.tree.decide = accept
    await until_ok(scene.world, account, upload)
    await committed_once(scene, account, upload, content)


async def test_parts_that_are_lost_while_they_are_joined_are_asked_for_again(scene: Scene) -> None:
    account, upload, content = await sent(scene.world)
    row = await scene.world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None

    async def lose_first(asked: Asked) -> Answered | None:
        if asked.completes:
            await scene.world.store.abort_multipart(row["entries"][0]["key"], row["s3_upload_id"])
        return None

    scene.proxy.before, as_it_is = lose_first, scene.proxy.before
    answer = await scene.world.complete(account, upload)
    assert answer.status in {409, 503}, answer
    scene.proxy.before = as_it_is
    answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["missing"]) == (409, [1, 2, 3])
    await scene.world.send_parts(account, upload, content, [1, 2, 3])
    await until_ok(scene.world, account, upload)
    await committed_once(scene, account, upload, content)


@pytest.mark.parametrize("size", [100, 2 * PART + 1], ids=["put", "parts"])
async def test_bytes_that_were_seen_before_a_refusal_are_looked_for_again(scene: Scene, size: int) -> None:
    account, content = await scene.world.account(), secrets.token_bytes(size)
    upload = await scene.world.open(account, content)
    await send_all(scene.world, account, upload, content)
    scene.world.tree.decide = refuse("quota_exceeded")
    refused = await scene.world.complete(account, upload)
    assert refused.body["code"] == "quota_exceeded"
    scene.world.tree.decide = accept
    await scene.world.store.delete([asked_for(scene.world, upload)[0].entries[0].object.key])
    answer = await scene.world.complete(account, upload)
    assert (answer.status, answer.body["code"]) == (
        409,
        "bytes_missing" if size == 100 else "parts_missing",
    )
    assert len(asked_for(scene.world, upload)) == 1
    again = await scene.world.open(account, content)
    assert again["id"] == upload["id"]
    await send_all(scene.world, account, again, content)
    assert (await until_ok(scene.world, account, upload)).status == 200
    assert await stored(scene.world, upload) == content


async def send_all(world: World, account: Account, upload: Json, content: bytes) -> None:
    put = upload["entries"][0]["put"]
    if put is None:
        await world.send_parts(account, upload, content, [1, 2, 3])
        return
    status, text = await world.send(put, content)
    assert status == 200, text


async def test_an_object_of_another_size_than_announced_is_not_committed(scene: Scene) -> None:
    world = scene.world
    account, content = await world.account(), b"what was announced"
    upload = await world.open(account, content)
    row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    await world.store.put(row["entries"][0]["key"], content[:-1])

    answer = await world.complete(account, upload)

    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "bytes_missing", [0])
    assert not [event for event in world.tree.asked if event.upload_id == upload["id"]]
