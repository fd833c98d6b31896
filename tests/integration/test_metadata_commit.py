"""The commit: one transaction, once, whoever asks again; and two processes at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
from pydantic import SecretStr

from libs.contracts.events import CommitRejected, FileCommitted
from libs.contracts.ids import new_id
from libs.contracts.tree import BaseVersion
from libs.mongo.names import COMMITS, NODES, OBJECTS, VERSIONS
from libs.web.auth import TokenSigner
from tests.support.backends import Backends
from tests.support.metadata_world import (
    Account,
    World,
    entry,
    metadata_world,
    running_app,
    settings_for,
    sha256,
    started_app,
)
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
async def world(backends: Backends) -> AsyncIterator[World]:
    async with metadata_world(backends) as world:
        yield world


@pytest.fixture
async def mine(world: World) -> Account:
    return await world.account()


async def test_a_completion_of_500_files_is_one_event_with_every_row(world: World, mine: Account) -> None:
    top = await world.folder(mine, "top")
    entries = [entry(i, str(i).encode(), parent_id=top["id"], name=f"f{i}") for i in range(500)]
    done = await world.verdict(world.completed(mine, entries))
    assert isinstance(done, FileCommitted)
    assert [result.index for result in done.results] == list(range(500))
    assert [row.seq for row in done.changes] == list(range(2, 502))
    assert (done.first_seq, done.last_seq, len(done.objects)) == (2, 501, 500)
    rows, _ = await world.feed(mine)
    assert len(rows) == 501
    assert rows[1]["content_hash"] == sha256(b"0")


async def test_a_completion_told_twice_commits_once_and_is_answered_twice(
    world: World, mine: Account
) -> None:
    event = world.completed(mine, [entry(0, b"x", parent_id=mine.namespace_id, name="f")])
    first = await world.verdict(event)
    second = await world.verdict(event, times=2)
    assert first.results == second.results
    assert isinstance(second, FileCommitted)
    assert (second.first_seq, second.changes) == (0, [])
    assert len((await world.feed(mine))[0]) == 1


async def test_twenty_copies_of_a_completion_at_once_commit_once(world: World, mine: Account) -> None:
    event = world.completed(mine, [entry(0, b"x", parent_id=mine.namespace_id, name="f")])
    await asyncio.gather(*(world.publish(event) for _ in range(20)))
    done = await world.verdict(event, times=21)
    assert done.results[0].ok
    assert await world.database[VERSIONS].count_documents({"namespace_id": mine.namespace_id}) == 1
    assert len([event for event in world.changes(mine) if event.changes]) == 1


async def test_a_refused_completion_can_go_elsewhere_with_the_same_bytes(world: World, mine: Account) -> None:
    taken = await world.file(mine, "f")
    event = world.completed(mine, [entry(0, b"x", parent_id=mine.namespace_id, name="f")])
    refused = await world.verdict(event)
    assert isinstance(refused, CommitRejected)
    assert refused.results[0].code == "name_taken"
    assert refused.results[0].current is not None
    assert refused.results[0].current.id == taken["id"]
    again = event.entries[0].model_copy(
        update={"target": event.entries[0].target.model_copy(update={"name": "g"})}
    )
    second = world.completed(mine, [again], upload_id=event.upload_id, attempt=2)
    done = await world.verdict(second, times=2)
    assert isinstance(done, FileCommitted)
    assert done.attempt == 2
    late = await world.verdict(event, times=3)
    assert isinstance(late, FileCommitted), "an older attempt hears of the newer one's outcome"


async def test_an_entry_commits_once_even_after_its_outcome_was_forgotten(
    world: World, mine: Account
) -> None:
    event = world.completed(mine, [entry(0, b"x", parent_id=mine.namespace_id, name="f")])
    first = await world.verdict(event)
    await world.database[COMMITS].delete_one({"_id": event.upload_id})
    second = await world.verdict(event, times=2)
    assert second.results == first.results
    assert await world.database[VERSIONS].count_documents({"namespace_id": mine.namespace_id}) == 1
    assert len((await world.feed(mine))[0]) == 1


async def test_a_file_with_content_that_is_here_refers_to_the_same_object(
    world: World, mine: Account
) -> None:
    await world.file(mine, "f", b"same")
    stored = await world.database[OBJECTS].find_one({"namespace_id": mine.namespace_id})
    assert stored is not None
    row = await world.commit(mine, b"same", object_id=stored["_id"], parent_id=mine.namespace_id, name="g")
    assert row["content_hash"] == sha256(b"same")
    assert await world.database[OBJECTS].count_documents({"namespace_id": mine.namespace_id}) == 1
    assert (await world.get(mine, "/usage")).body["used_bytes"] == 4


async def test_the_feed_tells_what_a_content_was_put_together_from(world: World, mine: Account) -> None:
    first = await world.file(mine, "f", b"first")
    base = BaseVersion(node_id=first["id"], version_id=first["version_id"], content_hash=sha256(b"first"))
    composed = entry(0, b"second", parent_id=mine.namespace_id, name="g").model_copy(update={"base": base})
    done = await world.verdict(world.completed(mine, [composed]))
    assert isinstance(done, FileCommitted)
    assert [row.base for row in done.changes] == [base]
    rows, _ = await world.feed(mine)
    assert {row["name"]: row["base"] for row in rows} == {"f": None, "g": base.model_dump()}
    version = await world.database[VERSIONS].find_one({"_id": done.changes[0].version_id})
    assert version is not None
    assert version["base"] == base.model_dump()


async def test_an_object_that_is_not_live_is_gone(world: World, mine: Account) -> None:
    missing = await world.refused(mine, b"x", object_id=new_id(), parent_id=mine.namespace_id, name="f")
    assert missing["code"] == "object_gone"


async def test_an_edit_and_a_deletion_meet_in_either_order_and_the_edit_survives(
    world: World, mine: Account
) -> None:
    file = await world.file(mine, "f", b"one")
    base = {"node_id": file["id"], "base_version_id": file["version_id"]}
    await world.call(mine, "DELETE", f"/files/{file['id']}", version_id=file["version_id"])
    refused = await world.refused(mine, b"two", **base)
    assert (refused["code"], refused["current"]["deleted"]) == ("node_deleted", True)
    back = await world.commit(mine, b"two", **base, undelete=True)
    assert (back["id"], back["deleted"]) == (file["id"], False)
    gone = await world.call(mine, "DELETE", f"/files/{file['id']}", version_id=file["version_id"])
    assert (gone.status, gone.code, gone.body["current"]) == (409, "version_conflict", back)


async def test_a_quota_that_is_reached_refuses_and_lets_in_what_fits(backends: Backends) -> None:
    async with metadata_world(backends, quota_bytes=10) as world:
        mine = await world.account()
        await world.file(mine, "a", b"12345678")
        refused = await world.refused(mine, b"123", parent_id=mine.namespace_id, name="b")
        assert refused["code"] == "quota_exceeded"
        await world.file(mine, "c", b"12")
        assert (await world.get(mine, "/usage")).body["quota_bytes"] == 10


async def test_a_completion_for_a_namespace_that_is_gone_is_rejected(world: World, mine: Account) -> None:
    body = {"user_id": mine.user_id}
    assert (await world.internal("DELETE", f"/namespaces/{mine.namespace_id}", body)).status == 200
    refused = await world.refused(mine, b"x", parent_id=mine.namespace_id, name="f")
    assert refused["code"] == "not_found"


async def test_bytes_of_the_largest_and_the_smallest_mtime_are_kept(world: World, mine: Account) -> None:
    for name, mtime in (("new", 2**63 - 1), ("old", -(2**63))):
        row = await world.commit(mine, b"x", parent_id=mine.namespace_id, name=name, mtime_ns=mtime)
        assert (await world.get(mine, f"/files/{row['id']}")).body["mtime_ns"] == mtime


async def test_two_processes_of_the_service_keep_the_sequence_gapless_and_names_unique(
    world: World, backends: Backends
) -> None:
    mine = await world.account()
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(running_app(world.settings))
        urls = [world.url, second]
        calls = [
            _create(world, mine, urls[i % 2], name=f"f{i // 2}") for i in range(40)
        ]  # each name is asked for by both at once
        answers = await asyncio.gather(*calls)
        events = [
            world.completed(mine, [entry(0, b"%d" % i, parent_id=mine.namespace_id, name=f"file{i}")])
            for i in range(20)
        ]
        await asyncio.gather(*(world.verdict(event) for event in events))
    assert sorted(answers) == [201] * 20 + [409] * 20
    rows, _ = await world.feed(mine)
    assert [row["seq"] for row in rows] == list(range(1, 41))
    assert await world.database[NODES].count_documents({"namespace_id": mine.namespace_id}) == 40

    async def told() -> bool:
        return len({row.seq for event in world.changes(mine) for row in event.changes}) == 40

    await eventually(told, seconds=10)


async def test_a_process_that_stops_in_the_middle_loses_no_completion(backends: Backends) -> None:
    async with metadata_world(backends) as world:
        mine = await world.account()
        events = [
            world.completed(mine, [entry(0, b"%d" % i, parent_id=mine.namespace_id, name=f"f{i}")])
            for i in range(60)
        ]

        async def some_done() -> bool:
            return any(world.verdicts(event.upload_id) for event in events)

        async with running_app(world.settings):  # takes its share of the messages, and goes away
            await asyncio.gather(*(world.publish(event) for event in events))
            await eventually(some_done, seconds=20)
        for event in events:
            await eventually(_ended(world, event.upload_id), seconds=30)
        rows, _ = await world.feed(mine)
        assert [row["seq"] for row in rows] == list(range(1, 61))


def _ended(world: World, upload_id: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return bool(world.verdicts(upload_id))

    return check


async def test_a_service_starts_while_the_database_is_away_and_says_so(backends: Backends) -> None:
    nowhere = SecretStr("mongodb://127.0.0.1:9/?replicaSet=none")
    settings = settings_for(backends, mongo_url=nowhere, mongo_timeout=0.3)
    token = TokenSigner(settings).access_token(new_id(), new_id(), new_id())
    async with started_app(settings) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/healthz") as alive, session.get(f"{url}/readyz") as ready:
            assert (alive.status, ready.status) == (200, 503)
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(f"{url}/v1/usage", headers=headers) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) >= 1


async def _create(world: World, account: Account, url: str, *, name: str) -> int:
    token = world.signer.access_token(account.user_id, account.device_id, account.namespace_id)
    body = {"parent_id": account.namespace_id, "name": name}
    headers = {"Authorization": f"Bearer {token}"}
    async with world.session.post(f"{url}/v1/folders", json=body, headers=headers) as answer:
        return answer.status
