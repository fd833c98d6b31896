"""What history keeps and what it gives up: old versions, what was deleted long ago, the bytes of both."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.contracts.ids import new_id
from libs.mongo.client import Database, Session, in_transaction
from libs.mongo.names import COUNTERS, NODES, OBJECTS, USAGE, VERSIONS
from services.metadata.domain.retention import Retention
from services.metadata.store import history as history_store
from services.metadata.store.removal import lock
from services.metadata.store.schema import migrations
from tests.support.backends import Backends
from tests.support.metadata_world import Account, Json, World, metadata_world

DAY = 24 * 3600


@pytest.fixture(scope="module")
async def world(backends: Backends) -> AsyncIterator[World]:
    """Two versions are kept whatever their age, and nothing for the sake of its age."""
    changed = {
        "garbage_age_seconds": 0, "doom_grace_seconds": 0,
        "retention_versions": 2, "retention_version_seconds": 0, "retention_trash_seconds": 90 * DAY,
    }  # fmt: skip
    async with metadata_world(backends, **changed) as world:
        yield world


@pytest.fixture
async def mine(world: World) -> Account:
    return await world.account()


async def post(world: World, path: str, body: Any = None) -> Json:
    answer = await world.internal("POST", path, body)
    assert answer.status == 200, answer
    return answer.body


async def expire_versions(world: World) -> int:
    """One whole round; return how many versions went."""
    done, place = 0, None
    while True:
        step = await post(world, "/versions/expire", {"after": place})
        done += int(step["done"])
        place = step["next"]
        if place is None:
            return done


async def until_done(world: World, path: str) -> int:
    done = 0
    while step := (await post(world, path))["done"]:
        done += step
    return done


async def edit(world: World, account: Account, row: Json, content: bytes) -> Json:
    return await world.commit(account, content, node_id=row["id"], base_version_id=row["version_id"])


async def history(world: World, account: Account, node_id: str) -> list[Json]:
    return list((await world.get(account, f"/files/{node_id}/versions")).body["items"])


async def delete(world: World, account: Account, row: Json) -> Json:
    seen = (await world.database[COUNTERS].find_one({"_id": account.namespace_id}) or {})["seq"]
    query = {"version_id": row["version_id"]} if row["kind"] == "file" else {"seen_seq": seen}
    answer = await world.call(account, "DELETE", f"/files/{row['id']}", None, **query)
    assert answer.status == 200, answer
    return answer.body


async def age(world: World, account: Account, days: int, **query: Any) -> None:
    """Make nodes look as if they had been changed some days before they were."""
    by = timedelta(days=days)
    async for row in world.database[NODES].find({"namespace_id": account.namespace_id, **query}):
        older: Json = {"changed_us": row["changed_us"] - days * DAY * 1_000_000}
        if "deleted_at" in row:
            older["deleted_at"] = row["deleted_at"] - by
        await world.database[NODES].update_one({"_id": row["_id"]}, {"$set": older})


async def recomputed(world: World, account: Account) -> tuple[int, int]:
    """Bytes of live objects and number of files, counted one by one."""
    mine = {"namespace_id": account.namespace_id}
    objects = world.database[OBJECTS].find({**mine, "state": "live"})
    files = await world.database[NODES].count_documents({**mine, "kind": "file", "deleted": False})
    return sum([row["size"] async for row in objects]), files


async def recorded(world: World, account: Account) -> tuple[int, int]:
    row = await world.database[USAGE].find_one({"_id": account.namespace_id}) or {}
    return row["used_bytes"], row["files"]


# Versions -----------------------------------------------------------------------------------------


async def test_versions_beyond_the_newest_go_and_their_bytes_after_them(world: World, mine: Account) -> None:
    row = await world.file(mine, "f", b"0")
    for number in range(1, 5):
        row = await edit(world, mine, row, b"%d" % number * (number + 1))
    other = await world.file(mine, "other", b"short")
    assert await expire_versions(world) == 3
    assert [item["size"] for item in await history(world, mine, row["id"])] == [5, 4]
    assert len(await history(world, mine, other["id"])) == 1
    assert await until_done(world, "/objects/doom") == 3
    assert (await world.get(mine, "/usage")).body["used_bytes"] == 5 + 4 + 5
    assert await expire_versions(world) == 0


async def test_a_young_version_is_kept_however_many_there_are(backends: Backends) -> None:
    async with metadata_world(backends, retention_versions=1, retention_version_seconds=DAY) as world:
        mine = await world.account()
        row = await world.file(mine, "f", b"0")
        for number in range(1, 4):
            row = await edit(world, mine, row, b"%d" % number)
        oldest = (await history(world, mine, row["id"]))[-1]["id"]
        assert await expire_versions(world) == 0
        before = {"$set": {"created_us": time.time_ns() // 1000 - 2 * DAY * 1_000_000}}
        await world.database[VERSIONS].update_one({"_id": oldest}, before)
        assert await expire_versions(world) == 1
        assert oldest not in {item["id"] for item in await history(world, mine, row["id"])}


async def test_what_a_file_shows_is_kept_though_newer_versions_are_there(world: World, mine: Account) -> None:
    """After a failed verification a file shows an older version than its newest ones."""
    row = good = await world.file(mine, "f", b"good")
    for text in (b"bad 1", b"bad 2", b"bad 3"):
        row = await edit(world, mine, row, text)
    newest = world.database[VERSIONS].find({"node_id": row["id"], "_id": {"$ne": good["version_id"]}})
    for version in await newest.to_list(None):
        await post(world, f"/objects/{version['object_id']}/verification", {"ok": False})
    assert (await world.get(mine, f"/files/{row['id']}")).body["version_id"] == good["version_id"]
    assert await expire_versions(world) == 1
    assert good["version_id"] in {item["id"] for item in await history(world, mine, row["id"])}


async def test_an_object_that_another_version_has_outlives_the_one_that_goes(
    world: World, mine: Account
) -> None:
    first = await world.file(mine, "f", b"shared")
    row = await edit(world, mine, await edit(world, mine, first, b"2"), b"3")
    restored = await world.call(
        mine, "POST", f"/files/{row['id']}/restore", {"version_id": first["version_id"]}
    )
    assert restored.status == 200
    await expire_versions(world)
    assert first["version_id"] not in {item["id"] for item in await history(world, mine, row["id"])}
    await until_done(world, "/objects/doom")
    states = {row["size"]: row["state"] async for row in objects_of(world, mine)}
    assert states[6] == "live"


def objects_of(world: World, account: Account) -> Any:
    return world.database[OBJECTS].find({"namespace_id": account.namespace_id})


async def test_128_a_version_restored_while_it_is_removed_is_whole_or_not_there(
    world: World, mine: Account
) -> None:
    """Restoring races with the removal of the version and with the collection of its object."""
    ends = set()
    for number in range(12):
        first = await world.file(mine, f"f{number}", b"first %d" % number)
        row = first
        for text in (b"2", b"3"):
            row = await edit(world, mine, row, text)

        async def collect() -> None:
            await expire_versions(world)
            await until_done(world, "/objects/doom")

        async def restore(row: Json = row, first: Json = first, number: int = number) -> int:
            await asyncio.sleep(0.002 * number)
            body = {"version_id": first["version_id"]}
            return (await world.call(mine, "POST", f"/files/{row['id']}/restore", body)).status

        status, _ = await asyncio.gather(restore(), collect())
        ends.add(status)
        shown = (await world.get(mine, f"/files/{row['id']}")).body
        version = await world.database[VERSIONS].find_one({"_id": shown["version_id"]})
        assert version is not None
        stored = await world.database[OBJECTS].find_one({"_id": version["object_id"]})
        assert stored is not None
        assert stored["state"] == "live"
        assert (shown["content_hash"] == first["content_hash"]) == (status == 200)
    assert ends <= {200, 404, 409}


async def test_bytes_without_a_version_stay_in_s3_for_the_grace_time(backends: Backends) -> None:
    """Who was given a URL just before can still read what it names."""
    async with metadata_world(
        backends, retention_versions=1, retention_version_seconds=0, garbage_age_seconds=0,
        doom_grace_seconds=3600,
    ) as world:  # fmt: skip
        mine = await world.account()
        row = await edit(world, mine, await world.file(mine, "f", b"old"), b"new")
        assert await expire_versions(world) == 1
        assert await until_done(world, "/objects/doom") == 1
        assert (await world.internal("GET", "/objects/doomed", limit=100)).body["items"] == []
        two_hours_ago = {"$set": {"doomed_at": datetime.now(UTC) - timedelta(hours=2)}}
        await world.database[OBJECTS].update_one({"state": "doomed"}, two_hours_ago)
        (item,) = (await world.internal("GET", "/objects/doomed", limit=100)).body["items"]
        (kept,) = await history(world, mine, row["id"])
        assert (item["size"], kept["id"]) == (3, row["version_id"])


async def test_a_file_that_goes_back_to_a_version_while_it_is_removed_keeps_it(
    world: World, mine: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file shows is changed under the namespace's lock, and so is what is removed."""
    row = first = await world.file(mine, "f", b"first")
    for text in (b"2", b"3"):
        row = await edit(world, mine, row, text)
    waits = asyncio.Event()

    async def told(database: Database, session: Session, namespace_id: str) -> bool:
        waits.set()
        return await lock(database, session, namespace_id)

    monkeypatch.setattr(history_store, "lock", told)
    store = history_store.HistoryStore(world.database, Retention(2, timedelta(0)), lambda: datetime.now(UTC))

    async def go_back(session: Session) -> "asyncio.Task[Any]":
        assert await lock(world.database, session, mine.namespace_id)
        shown = {"$set": {"version_id": first["version_id"]}}
        await world.database[NODES].update_one({"_id": row["id"]}, shown, session=session)
        thinning = asyncio.create_task(store.thin(None))
        asked = asyncio.create_task(waits.wait())
        await asyncio.wait({thinning, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        return thinning

    await (await in_transaction(world.database, go_back))

    assert first["version_id"] in {item["id"] for item in await history(world, mine, row["id"])}


# The trash ----------------------------------------------------------------------------------------


async def some_tree(world: World, mine: Account) -> dict[str, Json]:
    """A folder with folders and files, one of which was edited, one deleted before, one deleted after it."""
    top = await world.folder(mine, "top")
    sub = await world.folder(mine, "sub", top["id"])
    deep = await world.folder(mine, "deep", sub["id"])
    rows = {"top": top, "sub": sub, "deep": deep}
    for name, parent in (("a", top), ("b", sub), ("c", deep), ("before", sub), ("after", deep)):
        rows[name] = await world.file(mine, name, name.encode(), parent["id"])
    rows["a"] = await edit(world, mine, rows["a"], b"a, edited")
    await delete(world, mine, rows["before"])
    await delete(world, mine, top)
    await delete(world, mine, rows["after"])
    return rows


async def test_what_was_deleted_long_ago_is_purged_with_all_below_it(world: World, mine: Account) -> None:
    kept = await world.file(mine, "kept", b"kept")
    _, early = await world.feed(mine)
    await some_tree(world, mine)
    _, late = await world.feed(mine)
    assert await until_done(world, "/trash/purge") == 0
    await age(world, mine, 91)
    assert await until_done(world, "/trash/purge")
    rows, _ = await world.feed(mine)
    assert [row["id"] for row in rows] == [kept["id"]]
    left = world.database[VERSIONS].find({"namespace_id": mine.namespace_id})
    assert [row["node_id"] async for row in left] == [kept["id"]]
    assert (await world.get(mine, "/trash")).body["items"] == []
    old = await world.get(mine, "/sync", cursor=early)
    assert (old.status, old.code) == (410, "cursor_expired")
    since = await world.get(mine, "/sync", changed_since="2020-01-01T00:00:00Z")
    assert since.status == 410
    assert (await world.feed(mine, late))[0] == []
    await until_done(world, "/objects/doom")
    assert await recorded(world, mine) == await recomputed(world, mine) == (4, 1)


async def test_a_cursor_of_a_listing_that_began_before_the_purge_is_refused_when_it_could_miss_something(
    world: World, mine: Account
) -> None:
    """The listing has shown a file as live; its tombstone comes and is purged before the listing is over."""
    files = [await world.file(mine, f"f{number}", b"f") for number in range(4)]
    page = (await world.get(mine, "/sync", limit=2)).body
    assert page["items"][0]["id"] == files[0]["id"]
    await delete(world, mine, files[0])
    await age(world, mine, 91, deleted=True)
    await until_done(world, "/trash/purge")
    answer = await world.get(mine, "/sync", cursor=page["cursor"])
    assert (answer.status, answer.code) == (410, "cursor_expired")
    assert len((await world.feed(mine))[0]) == 3


async def test_what_a_folder_deleted_later_hides_is_kept_as_long_as_the_folder(
    world: World, mine: Account
) -> None:
    rows = await some_tree(world, mine)
    await age(world, mine, 91, _id=rows["before"]["id"])
    assert await until_done(world, "/trash/purge") == 1
    assert await world.database[NODES].find_one({"_id": rows["before"]["id"]}) is not None
    assert await until_done(world, "/trash/purge") == 0
    restored = await world.call(mine, "POST", f"/trash/{rows['top']['id']}/restore", {})
    assert restored.status == 200, restored
    assert (await world.get(mine, f"/files/{rows['c']['id']}")).status == 200


async def test_nothing_comes_back_out_of_what_is_being_purged(world: World, mine: Account) -> None:
    rows = await some_tree(world, mine)
    await age(world, mine, 91)
    await post(world, "/trash/purge")
    marked = await world.database[NODES].find_one({"_id": rows["top"]["id"]})
    assert marked is not None
    assert marked["purging"] is True
    top, deep = rows["top"], rows["deep"]
    assert (await world.get(mine, f"/files/{top['id']}")).status == 404
    assert (await world.call(mine, "POST", f"/trash/{top['id']}/restore", {})).status == 404
    move = {
        "expect_parent_id": deep["parent_id"], "expect_name": "deep",
        "parent_id": mine.namespace_id, "name": "rescued",
    }  # fmt: skip
    assert (await world.call(mine, "PATCH", f"/files/{deep['id']}", move)).status == 404
    assert (await world.get(mine, "/trash")).body["items"] == []
    after = rows["after"]
    refused = await world.refused(
        mine, b"x", node_id=after["id"], base_version_id=after["version_id"], undelete=True
    )
    assert refused["code"] == "parent_deleted"
    await until_done(world, "/trash/purge")
    assert (await world.feed(mine))[0] == []


async def test_of_a_restore_and_a_purge_at_once_one_wins_and_nothing_is_half_done(world: World) -> None:
    ends = set()
    for number in range(10):
        mine = await world.account()
        rows = await some_tree(world, mine)
        await age(world, mine, 91)

        async def restore(mine: Account = mine, rows: dict[str, Json] = rows, number: int = number) -> int:
            await asyncio.sleep(0.001 * number)
            return (await world.call(mine, "POST", f"/trash/{rows['top']['id']}/restore", {})).status

        status, _ = await asyncio.gather(restore(), until_done(world, "/trash/purge"))
        ends.add(status)
        live = {row["name"] for row in (await world.feed(mine))[0] if not row["deleted"]}
        if status == 200:
            assert live == {"top", "sub", "deep", "a", "b", "c"}
            assert len(await history(world, mine, rows["a"]["id"])) == 2
        else:
            assert status == 404
            assert live == set()
        assert (await recorded(world, mine))[1] == (await recomputed(world, mine))[1]
    assert ends <= {200, 404}


async def test_a_purge_in_one_account_is_not_held_up_by_a_closed_one(world: World, mine: Account) -> None:
    closed = await world.account()
    for account in (closed, mine):
        await delete(world, account, await world.file(account, "f", b"f"))
        await age(world, account, 91)
    await post(world, "/trash/purge")
    await world.internal("DELETE", f"/namespaces/{closed.namespace_id}", {"user_id": closed.user_id})
    await until_done(world, "/trash/purge")
    assert (await world.feed(mine))[0] == []
    await until_done(world, "/namespaces/purge")
    assert await world.database[NODES].count_documents({"namespace_id": closed.namespace_id}) == 0


async def test_an_account_deleted_after_a_purge_leaves_nothing(world: World, mine: Account) -> None:
    """What is older than the purged tombstones is still there, and has to go with the account."""
    await world.file(mine, "kept", b"kept")
    await delete(world, mine, await world.file(mine, "f", b"f"))
    await age(world, mine, 91, deleted=True)
    await until_done(world, "/trash/purge")
    await world.internal("DELETE", f"/namespaces/{mine.namespace_id}", {"user_id": mine.user_id})
    await until_done(world, "/namespaces/purge")
    for collection in (NODES, VERSIONS):
        assert await world.database[collection].count_documents({"namespace_id": mine.namespace_id}) == 0


async def test_what_an_older_schema_has_deleted_is_purged_too(world: World, mine: Account) -> None:
    """It did not note in which folder."""
    rows = await some_tree(world, mine)
    everything = {"namespace_id": mine.namespace_id, "seq": {"$gt": 0}}
    await world.database[NODES].update_many(everything, {"$unset": {"deleted_in": ""}})
    await migrations(3600)[1](world.database)
    found = world.database[NODES].find({"deleted_in": rows["deep"]["id"]})
    assert [row["_id"] async for row in found] == [rows["after"]["id"]]
    await age(world, mine, 91)
    await until_done(world, "/trash/purge")
    assert await world.database[NODES].count_documents({"namespace_id": mine.namespace_id}) == 0


# Used bytes ---------------------------------------------------------------------------------------


@dataclass
class Play:
    """Random operations on one account."""

    world: World
    mine: Account
    chance: random.Random
    folders: list[str]

    async def step(self) -> None:
        verbs = ("add", "add", "change", "change", "restore", "remove", "bring_back", "collect")
        rows = [row for row in (await self.world.feed(self.mine))[0] if row["kind"] == "file"]
        verb = self.chance.choice(verbs) if rows else "add"
        self.chance.shuffle(rows)
        await getattr(self, verb)(sorted(rows, key=lambda row: row["deleted"]))

    async def add(self, _: list[Json]) -> None:
        await self.world.file(self.mine, new_id(), self._content(), self.chance.choice(self.folders))

    async def change(self, rows: list[Json]) -> None:
        if not rows[0]["deleted"]:
            await edit(self.world, self.mine, rows[0], self._content())

    async def restore(self, rows: list[Json]) -> None:
        version = self.chance.choice(await history(self.world, self.mine, rows[0]["id"]))["id"]
        await self.world.call(self.mine, "POST", f"/files/{rows[0]['id']}/restore", {"version_id": version})

    async def remove(self, rows: list[Json]) -> None:
        await delete(self.world, self.mine, rows[0])

    async def bring_back(self, rows: list[Json]) -> None:
        await self.world.call(self.mine, "POST", f"/trash/{rows[-1]['id']}/restore", {})

    async def collect(self, _: list[Json]) -> None:
        await age(self.world, self.mine, self.chance.choice([0, 91]), deleted=True)
        await until_done(self.world, "/trash/purge")
        await expire_versions(self.world)
        await until_done(self.world, "/objects/doom")

    def _content(self) -> bytes:
        return self.chance.randbytes(self.chance.randrange(50))


async def test_used_bytes_and_files_are_those_of_live_objects_and_files_after_anything(
    world: World, mine: Account
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    folders = [mine.namespace_id, (await world.folder(mine, "folder"))["id"]]
    play = Play(world, mine, random.Random(seed), folders)
    for _ in range(100):
        await play.step()
        assert await recorded(world, mine) == await recomputed(world, mine), f"seed {seed}"
    await play.collect([])
    versions = world.database[VERSIONS].find({"namespace_id": mine.namespace_id})
    used = {row["object_id"] async for row in versions}
    assert {row["_id"] async for row in objects_of(world, mine) if row["state"] == "live"} == used, seed


async def test_a_deletion_just_made_is_not_yet_due(world: World, mine: Account) -> None:
    await delete(world, mine, await world.file(mine, "f", b"f"))
    await until_done(world, "/trash/purge")
    (item,) = (await world.get(mine, "/trash")).body["items"]
    assert datetime.now(UTC) - datetime.fromisoformat(item["deleted_at"]) < timedelta(hours=1)


# What it costs and for how long -------------------------------------------------------------------


async def costs(world: World, account: Account) -> Json:
    answer = await world.get(account, "/usage")
    assert answer.status == 200, answer
    return dict(answer.body)


async def test_usage_tells_what_files_hold_and_what_their_history_and_the_trash_cost(
    backends: Backends,
) -> None:
    """An object counts once, for the best reason: one that a file shows is no history anywhere else."""
    async with metadata_world(backends, usage_history_seconds=0, garbage_age_seconds=0) as world:
        mine = await world.account()
        assert (await costs(world, mine))["history"]["versions"] == 0
        row = await edit(world, mine, await world.file(mine, "f", b"old"), b"newer")
        folder = await world.folder(mine, "folder")
        inner = await world.file(mine, "inner", b"in a folder", folder["id"])
        gone = await world.file(mine, "gone", b"gone for now")
        shown = await world.commit(
            mine, b"newer", object_id=await object_id_of(world, row), parent_id=mine.namespace_id, name="copy"
        )
        await delete(world, mine, gone)
        await delete(world, mine, folder)
        used = await costs(world, mine)
        assert used["files"] == 3
        assert used["used_bytes"] == 5 + 3 + 11 + 12
        history = used["history"]
        sums = (history["current_bytes"], history["older_bytes"], history["deleted_bytes"])
        assert sums == (5, 3, 11 + 12)
        assert (history["versions"], history["objects"]) == (5, 4)
        await world.call(mine, "POST", f"/trash/{folder['id']}/restore", {})
        assert (await costs(world, mine))["history"]["deleted_bytes"] == 12
        assert inner["id"] != shown["id"]


async def object_id_of(world: World, row: Json) -> str:
    version = await world.database[VERSIONS].find_one({"_id": row["version_id"]})
    assert version is not None
    return str(version["object_id"])


async def test_a_large_account_is_measured_in_the_background_only(backends: Backends) -> None:
    async with metadata_world(backends, usage_history_rows=0) as world:
        mine = await world.account()
        await world.file(mine, "f", b"bytes")
        assert (await costs(world, mine))["history"] is None
        assert (await post(world, "/usage/measure", {}))["done"] == 1
        assert (await post(world, "/usage/measure", {}))["done"] == 0
        first = (await costs(world, mine))["history"]
        assert first["current_bytes"] == 5
        await world.file(mine, "g", b"more")
        assert (await costs(world, mine))["history"] == first
        assert (await post(world, "/usage/measure", {}))["done"] == 1
        assert (await costs(world, mine))["history"]["current_bytes"] == 9


async def test_each_version_says_why_and_until_when_it_is_kept(backends: Backends) -> None:
    async with metadata_world(backends, retention_versions=2, retention_version_seconds=DAY) as world:
        mine = await world.account()
        row = await world.file(mine, "f", b"0")
        for number in range(1, 5):
            row = await edit(world, mine, row, b"%d" % number)
        oldest = (await history(world, mine, row["id"]))[-1]
        before = {"$set": {"created_us": time.time_ns() // 1000 - 2 * DAY * 1_000_000}}
        await world.database[VERSIONS].update_one({"_id": oldest["id"]}, before)
        items = await history(world, mine, row["id"])
        assert [item["keep"] for item in items] == ["current", "recent", "age", "age", "over"]
        until = [item["kept_until"] for item in items]
        assert [moment is None for moment in until] == [True, True, False, False, True]
        made = datetime.fromisoformat(items[2]["created_at"])
        assert datetime.fromisoformat(until[2]) == made + timedelta(days=1)
        page = (await world.get(mine, f"/files/{row['id']}/versions", limit=3)).body
        rest = (await world.get(mine, f"/files/{row['id']}/versions", cursor=page["next_cursor"])).body
        assert [*page["items"], *rest["items"]] == items
