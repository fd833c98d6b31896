"""The change feed: complete, in order, never beyond its head; epochs and expiry."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from libs.contracts.cursor import Cursor
from libs.contracts.ids import new_id
from libs.mongo.names import COUNTERS
from services.metadata.__main__ import new_epoch
from tests.support.backends import Backends
from tests.support.metadata_world import Account, Json, World, metadata_world
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
async def world(backends: Backends) -> AsyncIterator[World]:
    async with metadata_world(backends) as world:
        yield world


@pytest.fixture
async def mine(world: World) -> Account:
    return await world.account()


def rename(account: Account, node: Json, name: str) -> Json:
    here = {"expect_parent_id": account.namespace_id, "parent_id": account.namespace_id}
    return {"op": "move", "node_id": node["id"], "expect_name": node["name"], "name": name, **here}


async def since(world: World, account: Account, moment: str, **more: object) -> Json:
    answer = await world.get(account, "/sync", changed_since=moment, **more)
    assert answer.status == 200, answer
    return answer.body


async def test_an_empty_namespace_has_an_empty_feed_with_a_cursor(world: World, mine: Account) -> None:
    rows, cursor = await world.feed(mine)
    assert rows == []
    assert Cursor.decode(cursor).seqs == {mine.namespace_id: 0}


async def test_each_node_comes_once_in_its_latest_state_in_order_of_seq(world: World, mine: Account) -> None:
    nodes = [await world.folder(mine, f"f{i}") for i in range(5)]
    await world.batch(
        mine, rename(mine, nodes[0], "z"), {"op": "delete", "node_id": nodes[1]["id"], "seen_seq": 6}
    )
    for limit in (1, 2, 1000):
        rows, _ = await world.feed(mine, limit=limit)
        assert [row["name"] for row in rows] == ["f2", "f3", "f4", "z", "f1"]
        assert [row["seq"] for row in rows] == [3, 4, 5, 6, 7]
        assert [row["deleted"] for row in rows] == [False, False, False, False, True]
        assert sorted(rows, key=lambda row: row["changed_at"]) == rows


async def test_a_cursor_gives_what_came_after_it(world: World, mine: Account) -> None:
    await world.folder(mine, "before")
    _, cursor = await world.feed(mine)
    after = await world.folder(mine, "after")
    rows, _ = await world.feed(mine, cursor)
    assert rows == [after]


async def test_a_node_that_moves_while_a_listing_runs_is_not_missed(world: World, mine: Account) -> None:
    nodes = [await world.folder(mine, f"f{i}") for i in range(4)]
    first = (await world.get(mine, "/sync", limit=2)).body
    await world.batch(mine, rename(mine, nodes[2], "moved"))
    rest, _ = await world.feed(mine, first["cursor"])
    assert {row["id"] for row in first["items"] + rest} == {node["id"] for node in nodes}


async def test_wide_gaps_are_crossed_in_one_page(world: World, mine: Account) -> None:
    node = await world.folder(mine, "0")
    for i in range(30):
        (result,) = await world.batch(mine, rename(mine, node, str(i + 1)))
        node = result["row"]
    page = (await world.get(mine, "/sync", limit=1)).body
    assert ([row["seq"] for row in page["items"]], page["has_more"]) == ([31], False)


async def test_a_reader_during_many_writes_sees_every_change_and_no_gap(world: World, mine: Account) -> None:
    """A cursor never passes a change that becomes visible later."""
    seen: dict[str, int] = {}
    writing = asyncio.gather(*(world.folder(mine, f"f{i}") for i in range(60)))
    cursor = None
    while True:
        finished = writing.done()
        rows, cursor = await world.feed(mine, cursor, limit=7)
        seen.update({row["id"]: row["seq"] for row in rows})
        if finished:
            break
    assert sorted(seen.values()) == list(range(1, 61))


async def test_changed_since_gives_live_and_deleted_nodes_and_goes_on_by_cursor(
    world: World, mine: Account
) -> None:
    nodes = [await world.folder(mine, f"f{i}") for i in range(6)]
    await world.batch(mine, {"op": "delete", "node_id": nodes[4]["id"], "seen_seq": 9})
    page = await since(world, mine, nodes[2]["changed_at"], limit=2)
    rest, _ = await world.feed(mine, page["cursor"])
    assert [row["name"] for row in page["items"] + rest] == ["f2", "f3", "f5", "f4"]
    assert (await since(world, mine, "1970-01-01T00:00:00Z"))["items"][0]["name"] == "f0"
    later = await since(world, mine, "2999-01-01T00:00:00Z")
    assert (later["items"], later["has_more"]) == ([], False)


async def test_times_of_changes_in_one_instant_still_order_them(world: World, mine: Account) -> None:
    ops = [{"op": "create_folder", "parent_id": mine.namespace_id, "name": f"f{i}"} for i in range(50)]
    rows = [result["row"] for result in await world.batch(mine, *ops)]
    assert len({row["changed_at"] for row in rows}) == 50
    found = await since(world, mine, rows[20]["changed_at"])
    assert [row["name"] for row in found["items"]] == [f"f{i}" for i in range(20, 50)]


async def test_a_cursor_ahead_of_the_head_is_of_another_epoch(world: World, mine: Account) -> None:
    page = (await world.get(mine, "/sync")).body
    ahead = Cursor(page["epoch"], {mine.namespace_id: 1}).encode()
    other = Cursor(page["epoch"] - 1, {mine.namespace_id: 0}).encode()
    for cursor in (ahead, other):
        answer = await world.get(mine, "/sync", cursor=cursor)
        assert (answer.status, answer.code, answer.body["epoch"]) == (410, "epoch_changed", page["epoch"])


async def test_a_cursor_below_what_was_purged_is_expired_but_a_listing_is_not(
    world: World, mine: Account
) -> None:
    for i in range(6):
        await world.folder(mine, f"f{i}")
    page = (await world.get(mine, "/sync", limit=2)).body
    old = Cursor(page["epoch"], {mine.namespace_id: 3}).encode()
    micros = int(datetime.now(UTC).timestamp() * 1_000_000)
    purged = {"$set": {"purged_seq": 4, "purged_us": micros}}
    await world.database[COUNTERS].update_one({"_id": mine.namespace_id}, purged)
    expired = await world.get(mine, "/sync", cursor=old)
    assert (expired.status, expired.code, expired.body["epoch"]) == (410, "cursor_expired", page["epoch"])
    rest, _ = await world.feed(mine, page["cursor"])
    assert len(rest) == 4
    horizon = await world.get(mine, "/sync", changed_since="2020-01-01T00:00:00Z")
    assert (horizon.status, horizon.code) == (410, "cursor_expired")


async def test_the_feed_tells_when_the_callers_uploads_changed(world: World, mine: Account) -> None:
    assert (await world.get(mine, "/sync")).body["uploads_changed_at"] is None
    moment = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    entries = [{"size": 7, "mode": "put", "result": None}, {"size": 9, "mode": "stored", "result": None}]
    row = {
        "_id": new_id(),
        "user_id": mine.user_id,
        "state": "open",
        "entries": entries,
        "updated_at": moment,
    }
    await world.database["uploads"].insert_one(row)
    assert (await world.get(mine, "/sync")).body["uploads_changed_at"] == "2026-11-23T12:00:00Z"
    assert (await world.get(mine, "/usage")).body["reserved_bytes"] == 7


async def test_a_new_epoch_is_noticed_refuses_old_cursors_and_marks_new_versions(backends: Backends) -> None:
    async with metadata_world(backends) as world:
        mine = await world.account()
        before = await world.file(mine, "before")
        _, cursor = await world.feed(mine)
        epoch = await new_epoch(world.settings)
        assert epoch > before["epoch"]

        async def noticed() -> bool:
            return bool((await world.get(mine, "/sync")).body["epoch"] == epoch)

        await eventually(noticed, seconds=5)
        answer = await world.get(mine, "/sync", cursor=cursor)
        assert (answer.status, answer.code, answer.body["epoch"]) == (410, "epoch_changed", epoch)
        after = await world.file(mine, "after")
        rows, _ = await world.feed(mine)
        assert {row["name"]: row["epoch"] for row in rows} == {"before": before["epoch"], "after": epoch}
        assert after["epoch"] == epoch
        assert await new_epoch(world.settings) > epoch
