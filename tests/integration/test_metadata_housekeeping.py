"""What other services ask of metadata: namespaces, verification, garbage."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from libs.contracts.ids import new_id
from libs.mongo.names import COUNTERS, NAMESPACES, NODES, OBJECTS, USAGE, VERSIONS
from libs.mongo.views import Views
from services.metadata.store.objects import ObjectStore
from tests.support.backends import Backends
from tests.support.metadata_world import Account, Json, World, entry, metadata_world, sha256


@pytest.fixture(scope="module")
async def world(backends: Backends) -> AsyncIterator[World]:
    async with metadata_world(backends, garbage_age_seconds=0, doom_grace_seconds=0) as world:
        yield world


@pytest.fixture
async def mine(world: World) -> Account:
    return await world.account()


async def object_of(world: World, account: Account, content: bytes) -> Json:
    query = {"namespace_id": account.namespace_id, "content_hash": sha256(content)}
    found = await world.database[OBJECTS].find_one(query)
    assert found is not None
    return found


async def post(world: World, path: str, body: Any = None, **query: Any) -> Json:
    answer = await world.internal("POST", path, body, **query)
    assert answer.status == 200, answer
    return answer.body


async def purged(world: World) -> None:
    while (await post(world, "/namespaces/purge"))["done"]:
        pass


async def test_a_namespace_is_made_once_and_only_for_one_user(world: World, mine: Account) -> None:
    await world.folder(mine, "a")
    body = {"namespace_id": mine.namespace_id, "user_id": mine.user_id}
    assert (await world.internal("POST", "/namespaces", body)).status == 200
    assert len((await world.feed(mine))[0]) == 1
    other = await world.internal("POST", "/namespaces", {**body, "user_id": new_id()})
    assert (other.status, other.code) == (409, "id_taken")


async def test_a_removed_namespace_refuses_all_access_at_once(world: World, mine: Account) -> None:
    folder = await world.folder(mine, "a")
    stranger = await world.internal("DELETE", f"/namespaces/{mine.namespace_id}", {"user_id": new_id()})
    assert stranger.status == 404
    for _ in range(2):
        answer = await world.internal("DELETE", f"/namespaces/{mine.namespace_id}", {"user_id": mine.user_id})
        assert answer.status == 200
    for path in ("/sync", "/files", "/trash", f"/files/{folder['id']}"):
        assert (await world.get(mine, path)).status == 404
    refused = await world.call(mine, "POST", "/folders", {"parent_id": mine.namespace_id, "name": "b"})
    assert refused.status == 404
    assert await Views(world.database).members(mine.namespace_id) == {}


async def test_what_a_removed_namespace_held_is_purged_doomed_and_forgotten(
    world: World, mine: Account
) -> None:
    kept = await world.account()
    await world.file(kept, "kept", b"kept")
    top = await world.folder(mine, "top")
    for i in range(3):
        await world.file(mine, f"f{i}", b"%d" % i, parent_id=top["id"])
    keys = [row["key"] async for row in world.database[OBJECTS].find({"namespace_id": mine.namespace_id})]
    await world.internal("DELETE", f"/namespaces/{mine.namespace_id}", {"user_id": mine.user_id})
    await purged(world)
    for collection in (NODES, VERSIONS):
        assert await world.database[collection].count_documents({"namespace_id": mine.namespace_id}) == 0
    for collection in (NAMESPACES, COUNTERS, USAGE):
        assert await world.database[collection].find_one({"_id": mine.namespace_id}) is None
    assert (await post(world, "/objects/doom"))["done"] == 3
    assert (await post(world, "/objects/doom"))["done"] == 0
    doomed = (await world.internal("GET", "/objects/doomed", limit=100)).body["items"]
    assert {item["key"] for item in doomed} == set(keys)
    unknown = "t/nobody/nothing"
    known = await post(world, "/objects/known", {"keys": [*keys, unknown]})
    assert set(known["keys"]) == set(keys)
    forgotten = await post(world, "/objects/forget", {"ids": [item["id"] for item in doomed]})
    assert forgotten["done"] == 3
    assert (await post(world, "/objects/known", {"keys": keys}))["keys"] == []
    assert (await world.get(kept, "/usage")).body["used_bytes"] == 4
    assert len((await world.feed(kept))[0]) == 1


async def test_an_object_in_use_is_neither_doomed_nor_forgotten(world: World, mine: Account) -> None:
    await world.file(mine, "f", b"used")
    stored = await object_of(world, mine, b"used")
    suspect = {"$set": {"suspect_at": datetime(2020, 1, 1, tzinfo=UTC)}}
    await world.database[OBJECTS].update_one({"_id": stored["_id"]}, suspect)
    assert (await post(world, "/objects/doom"))["done"] == 1
    assert (await post(world, "/objects/doom"))["done"] == 0
    assert (await post(world, "/objects/forget", {"ids": [stored["_id"]]}))["done"] == 0
    after = await object_of(world, mine, b"used")
    assert (after["state"], "suspect_at" in after) == ("live", False)


async def test_a_doomed_object_cannot_be_referred_to_and_frees_its_bytes(world: World, mine: Account) -> None:
    await world.file(mine, "f", b"12345")
    stored = await object_of(world, mine, b"12345")
    await world.database[VERSIONS].delete_many({"object_id": stored["_id"]})
    suspect = {"$set": {"suspect_at": datetime(2020, 1, 1, tzinfo=UTC)}}
    await world.database[OBJECTS].update_one({"_id": stored["_id"]}, suspect)
    assert (await post(world, "/objects/doom"))["done"] == 1
    target = {"parent_id": mine.namespace_id, "name": "g"}
    refused = await world.refused(mine, b"12345", object_id=stored["_id"], **target)
    assert refused["code"] == "object_gone"
    assert (await world.get(mine, "/usage")).body["used_bytes"] == 0


async def test_an_object_referred_to_lately_is_not_doomed(backends: Backends) -> None:
    async with metadata_world(backends, garbage_age_seconds=3600) as world:
        mine = await world.account()
        await world.file(mine, "f", b"late")
        stored = await object_of(world, mine, b"late")
        await world.database[VERSIONS].delete_many({"object_id": stored["_id"]})
        suspect = {"$set": {"suspect_at": datetime(2020, 1, 1, tzinfo=UTC)}}
        await world.database[OBJECTS].update_one({"_id": stored["_id"]}, suspect)
        assert (await post(world, "/objects/doom"))["done"] == 0


# Verification --------------------------------------------------------------------------------


async def unverified(world: World, account: Account, name: str, content: bytes) -> Json:
    """Commit a file whose hash is only claimed; return its row."""
    target = {"parent_id": account.namespace_id, "name": name}
    done = await world.verdict(world.completed(account, [entry(0, content, verified=False, **target)]))
    row = done.results[0].row
    assert row is not None
    return row.model_dump(mode="json")


async def verify(world: World, stored: Json, *, ok: bool) -> None:
    await post(world, f"/objects/{stored['_id']}/verification", {"ok": ok})


async def waiting(world: World) -> list[str]:
    answer = await world.internal("GET", "/objects/unverified", limit=1000)
    return [item["id"] for item in answer.body["items"]]


async def test_only_a_verified_object_counts_as_stored(world: World, mine: Account) -> None:
    await unverified(world, mine, "f", b"claimed")
    stored = await object_of(world, mine, b"claimed")
    views = Views(world.database)
    assert await views.stored(mine.namespace_id, [sha256(b"claimed")]) == {}
    assert stored["_id"] in await waiting(world)
    await verify(world, stored, ok=True)
    assert list(await views.stored(mine.namespace_id, [sha256(b"claimed")])) == [sha256(b"claimed")]
    assert stored["_id"] not in await waiting(world)


async def test_a_corrupt_version_stays_in_history_and_the_file_goes_back_to_the_last_good_one(
    world: World, mine: Account
) -> None:
    good = await world.file(mine, "f", b"good")
    base = {"node_id": good["id"], "base_version_id": good["version_id"]}
    done = await world.verdict(world.completed(mine, [entry(0, b"bad", verified=False, **base)]))
    stored = await object_of(world, mine, b"bad")
    await verify(world, stored, ok=False)
    row = (await world.get(mine, f"/files/{good['id']}")).body
    assert (row["version_id"], row["size"], row["seq"]) == (good["version_id"], 4, 3)
    versions = (await world.get(mine, f"/files/{good['id']}/versions")).body["items"]
    assert [(item["corrupt"], item["current"]) for item in versions] == [(True, False), (False, True)]
    bad_id = done.results[0].row.version_id if done.results[0].row else None
    restored = await world.call(mine, "POST", f"/files/{good['id']}/restore", {"version_id": bad_id})
    assert restored.code == "object_gone"
    await verify(world, stored, ok=False)
    await verify(world, stored, ok=True)
    assert await Views(world.database).stored(mine.namespace_id, [sha256(b"bad")]) == {}
    assert (await world.get(mine, f"/files/{good['id']}")).body == row
    assert [type(event).__name__ for event in world.changes(mine)][-1] == "FileUpdated"


async def test_a_file_without_a_good_version_is_deleted_and_can_be_sent_again(
    world: World, mine: Account
) -> None:
    bad = await unverified(world, mine, "f", b"bad")
    await verify(world, await object_of(world, mine, b"bad"), ok=False)
    assert (await world.get(mine, f"/files/{bad['id']}")).body["deleted"] is True
    again = await world.commit(
        mine, b"bad", node_id=bad["id"], base_version_id=bad["version_id"], undelete=True
    )
    assert (again["id"], again["deleted"]) == (bad["id"], False)


async def test_an_unknown_object_is_not_found(world: World) -> None:
    answer = await world.internal("POST", f"/objects/{new_id()}/verification", {"ok": True})
    assert (answer.status, answer.code) == (404, "not_found")


async def test_objects_are_walked_by_key_a_page_at_a_time_without_doomed_and_corrupt_ones(
    world: World, mine: Account
) -> None:
    """A page must hold as many good ones as it can: a shorter one is taken for the last."""
    contents = [f"walked {n}".encode() for n in range(7)]
    for content in contents:
        await world.file(mine, content.decode(), content)
    found = sorted(
        [await object_of(world, mine, content) for content in contents], key=lambda o: str(o["key"])
    )
    await world.database[OBJECTS].update_one({"_id": found[0]["_id"]}, {"$set": {"corrupt": True}})
    await world.database[OBJECTS].update_one({"_id": found[2]["_id"]}, {"$set": {"state": "doomed"}})
    store = ObjectStore(world.database, lambda: datetime.now(UTC))
    prefix = f"t/{mine.namespace_id}/"

    page = await store.between(prefix, None, 3)

    assert [item.key for item in page] == [found[n]["key"] for n in (1, 3, 4)]
    rest = await store.between(page[-1].key, found[5]["key"], 3)
    assert [item.key for item in rest] == [found[5]["key"]]
