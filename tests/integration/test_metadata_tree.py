"""The tree over HTTP: changes, listings, versions, the trash, who may see what."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.contracts.ids import new_id
from tests.support.backends import Backends
from tests.support.metadata_world import Account, Json, World, metadata_world


@pytest.fixture(scope="module")
async def world(backends: Backends) -> AsyncIterator[World]:
    async with metadata_world(backends) as world:
        yield world


@pytest.fixture
async def mine(world: World) -> Account:
    return await world.account()


def names(answer: Json) -> list[str]:
    return [row["name"] for row in answer["items"]]


async def test_a_folder_is_made_found_by_path_and_listed(world: World, mine: Account) -> None:
    top = await world.folder(mine, "top")
    inner = await world.folder(mine, "caf\u00e9", top["id"])
    found = await world.get(mine, "/files", path="/top/cafe\u0301")
    assert found.body["items"] == [inner]
    assert names((await world.get(mine, "/files")).body) == ["top"]
    assert names((await world.get(mine, "/files", parent=top["id"])).body) == ["caf\u00e9"]
    assert (await world.get(mine, f"/files/{inner['id']}")).body == inner


async def test_a_folder_is_listed_by_name_in_pages(world: World, mine: Account) -> None:
    ops = [
        {"op": "create_folder", "parent_id": mine.namespace_id, "name": f"f{i:02}"} for i in (3, 1, 4, 0, 2)
    ]
    await world.batch(mine, *ops)
    found: list[str] = []
    cursor: Json = {}
    while True:
        page = (await world.get(mine, "/files", limit=2, **cursor)).body
        found += names(page)
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == ["f00", "f01", "f02", "f03", "f04"]


async def test_what_is_below_a_deleted_folder_is_not_found_by_path_or_listing(
    world: World, mine: Account
) -> None:
    top = await world.folder(mine, "top")
    inner = await world.folder(mine, "inner", top["id"])
    await world.file(mine, "f", parent_id=inner["id"])
    deleted = await world.call(mine, "DELETE", f"/files/{top['id']}", seen_seq=3)
    assert (deleted.status, deleted.body["deleted"]) == (200, True)
    assert (await world.get(mine, "/files", path="top/inner/f")).code == "not_found"
    assert (await world.get(mine, "/files", parent=inner["id"])).code == "not_found"
    assert (await world.get(mine, "/files", parent=top["id"])).code == "not_found"
    assert (await world.get(mine, f"/files/{inner['id']}")).body["deleted"] is False


async def test_a_move_answers_the_new_row_and_a_conflict_the_row_in_the_way(
    world: World, mine: Account
) -> None:
    a, b = await world.folder(mine, "a"), await world.folder(mine, "b")
    place = {"expect_parent_id": mine.namespace_id, "expect_name": "a"}
    moved = await world.call(mine, "PATCH", f"/files/{a['id']}", {**place, "parent_id": b["id"], "name": "c"})
    assert (moved.body["parent_id"], moved.body["name"], moved.body["seq"]) == (b["id"], "c", 3)
    again = await world.call(mine, "PATCH", f"/files/{a['id']}", {**place, "parent_id": b["id"], "name": "d"})
    assert (again.status, again.code, again.body["current"]) == (409, "node_moved", moved.body)


async def test_names_are_exchanged_in_one_batch_through_a_third(world: World, mine: Account) -> None:
    a, b = await world.file(mine, "a", b"1"), await world.file(mine, "b", b"2")

    def rename(node: Json, before: str, after: str) -> Json:
        here = {"expect_parent_id": mine.namespace_id, "parent_id": mine.namespace_id}
        return {"op": "move", "node_id": node["id"], "expect_name": before, "name": after, **here}

    results = await world.batch(mine, rename(a, "a", "t"), rename(b, "b", "a"), rename(a, "t", "b"))
    assert [result["code"] for result in results] == [None, None, None]
    listed = (await world.get(mine, "/files")).body["items"]
    assert [(row["name"], row["id"]) for row in listed] == [("a", b["id"]), ("b", a["id"])]


async def test_a_place_left_in_a_batch_can_be_taken_in_it(world: World, mine: Account) -> None:
    a, b = await world.folder(mine, "a"), await world.folder(mine, "b")
    root = mine.namespace_id
    results = await world.batch(
        mine,
        {"op": "delete", "node_id": a["id"], "seen_seq": b["seq"]},
        {
            "op": "move",
            "node_id": b["id"],
            "expect_parent_id": root,
            "expect_name": "b",
            "parent_id": root,
            "name": "a",
        },
        {"op": "create_folder", "parent_id": root, "name": "b"},
    )
    assert [result["code"] for result in results] == [None, None, None]


async def test_a_batch_of_500_makes_folders_in_folders_it_makes(world: World, mine: Account) -> None:
    ids = [new_id() for _ in range(500)]
    parents = [mine.namespace_id, *ids[:99]] * 5
    ops = [
        {"op": "create_folder", "id": node_id, "parent_id": parent, "name": f"f{i}"}
        for i, (node_id, parent) in enumerate(zip(ids, parents, strict=True))
    ]
    results = await world.batch(mine, *ops)
    assert [result["row"]["id"] for result in results] == ids
    repeated = await world.batch(mine, *ops)
    assert repeated == results


async def test_the_root_is_no_node(world: World, mine: Account) -> None:
    root = mine.namespace_id
    assert (await world.get(mine, f"/files/{root}")).code == "not_found"
    assert (await world.get(mine, "/files", path="/")).code == "not_found"
    results = await world.batch(
        mine,
        {"op": "delete", "node_id": root, "seen_seq": 1},
        {"op": "create_folder", "id": root, "parent_id": root, "name": "x"},
    )
    assert [result["code"] for result in results] == ["not_found", "id_taken"]


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "code"),
    [
        ("POST", "/folders", {"parent_id": "x", "name": "a"}, {}, "invalid_request"),
        ("POST", "/folders", {"parent_id": "1" * 24, "name": "a"}, {}, "not_found"),
        ("POST", "/folders", {"parent_id": "ROOT", "name": "a/b"}, {}, "invalid_name"),
        ("POST", "/folders", {"parent_id": "ROOT", "name": "n" * 256}, {}, "invalid_name"),
        ("POST", "/folders", {"parent_id": "ROOT", "name": "a", "x": 1}, {}, "invalid_request"),
        ("POST", "/folders", ["no"], {}, "invalid_request"),
        ("POST", "/files/batch", {"ops": []}, {}, "invalid_request"),
        ("POST", "/files/batch", {"ops": [{"op": "format"}]}, {}, "invalid_request"),
        ("PATCH", "/files/zzz", {}, {}, "not_found"),
        ("DELETE", "/files/NODE", None, {}, "invalid_target"),
        ("DELETE", "/files/NODE", None, {"seen_seq": "-1"}, "invalid_request"),
        ("DELETE", "/files/NODE", None, {"version_id": "1"}, "invalid_request"),
        ("GET", "/files", None, {"path": "a", "parent": "ROOT"}, "invalid_request"),
        ("GET", "/files", None, {"path": "../a"}, "invalid_name"),
        ("GET", "/files", None, {"parent": "nope"}, "not_found"),
        ("GET", "/files", None, {"parent": "ROOT", "limit": "0"}, "invalid_request"),
        ("GET", "/files", None, {"parent": "ROOT", "limit": "1001"}, "invalid_request"),
        ("GET", "/files", None, {"parent": "ROOT", "cursor": "?"}, "invalid_request"),
        ("GET", "/files", None, {"colour": "red"}, "invalid_request"),
        ("GET", "/files/NODE/versions", None, {}, "not_a_file"),
        ("GET", "/trash", None, {"cursor": "e30"}, "invalid_request"),
        ("GET", "/usage", None, {"x": "1"}, "invalid_request"),
        ("GET", "/sync", None, {"cursor": "!!"}, "invalid_request"),
        ("GET", "/sync", None, {"changed_since": "yesterday"}, "invalid_request"),
        ("GET", "/sync", None, {"changed_since": "2026-01-01T00:00:00Z", "cursor": "e30"}, "invalid_request"),
        ("GET", "/sync", None, {"limit": "ten"}, "invalid_request"),
        ("POST", "/files/NODE/restore", {"version_id": "1" * 24}, {}, "not_a_file"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_with_a_code(
    world: World, mine: Account, method: str, path: str, body: object, query: Json, code: str
) -> None:
    node = await world.folder(mine, "node")
    path = path.replace("NODE", node["id"])
    if isinstance(body, dict):
        body = {key: mine.namespace_id if value == "ROOT" else value for key, value in body.items()}
    query = {key: mine.namespace_id if value == "ROOT" else value for key, value in query.items()}
    answer = await world.call(mine, method, path, body, **query)
    assert answer.code == code, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_nobody_sees_or_changes_what_is_anothers(world: World, mine: Account) -> None:
    other = await world.account()
    folder, file = await world.folder(mine, "secret"), await world.file(mine, "f")
    version = file["version_id"]
    target = {
        "expect_parent_id": mine.namespace_id,
        "expect_name": "f",
        "parent_id": other.namespace_id,
        "name": "f",
    }
    calls: list[tuple[str, str, object, Json]] = [
        ("GET", f"/files/{file['id']}", None, {}),
        ("GET", f"/files/{file['id']}/versions", None, {}),
        ("GET", "/files", None, {"parent": folder["id"]}),
        ("GET", "/files", None, {"parent": mine.namespace_id}),
        ("GET", "/files", None, {"path": "f", "namespace_id": mine.namespace_id}),
        ("GET", "/trash", None, {"namespace_id": mine.namespace_id}),
        ("PATCH", f"/files/{file['id']}", target, {}),
        ("DELETE", f"/files/{file['id']}", None, {"version_id": version}),
        ("POST", "/folders", {"parent_id": folder["id"], "name": "x"}, {}),
        ("POST", f"/files/{file['id']}/restore", {"version_id": version}, {}),
        ("POST", f"/trash/{file['id']}/restore", None, {}),
    ]
    for method, path, body, query in calls:
        answer = await world.call(other, method, path, body, **query)
        missing = await world.call(other, method, path.replace(file["id"], "9" * 24), body, **query)
        assert (answer.status, answer.code) == (404, "not_found"), (method, path)
        assert {**answer.body, "request_id": ""} == {**missing.body, "request_id": ""}
    results = await world.batch(
        other,
        {"op": "delete", "node_id": file["id"], "version_id": version},
        {"op": "move", "node_id": file["id"], **target},
        {"op": "create_folder", "parent_id": folder["id"], "name": "x"},
        {"op": "create_folder", "id": folder["id"], "parent_id": other.namespace_id, "name": "x"},
    )
    assert [result["code"] for result in results] == ["not_found", "not_found", "not_found", "id_taken"]
    assert all(result["current"] is None for result in results)
    assert (await world.get(mine, f"/files/{file['id']}")).body == file


async def test_without_a_valid_token_nothing_is_answered(world: World, mine: Account) -> None:
    for path, token in (
        ("/v1/usage", "x"),
        ("/internal/objects/doom", world.signer.access_token("1", "2", "3")),
    ):
        method = "GET" if path.startswith("/v1") else "POST"
        async with world.session.request(
            method, world.url + path, headers={"Authorization": f"Bearer {token}"}
        ) as answer:
            assert answer.status == 401


# Versions and the trash -----------------------------------------------------------------------


async def test_versions_are_listed_newest_first_and_an_old_one_becomes_a_new_one(
    world: World, mine: Account
) -> None:
    first = await world.file(mine, "f", b"one")
    second = await world.commit(mine, b"two!", node_id=first["id"], base_version_id=first["version_id"])
    restored = await world.call(
        mine, "POST", f"/files/{first['id']}/restore", {"version_id": first["version_id"]}
    )
    assert (restored.body["size"], restored.body["seq"]) == (3, 3)
    page = (await world.get(mine, f"/files/{first['id']}/versions", limit=2)).body
    assert [item["id"] for item in page["items"]] == [restored.body["version_id"], second["version_id"]]
    assert [item["current"] for item in page["items"]] == [True, False]
    rest = (await world.get(mine, f"/files/{first['id']}/versions", cursor=page["next_cursor"])).body
    assert ([item["id"] for item in rest["items"]], rest["next_cursor"]) == ([first["version_id"]], None)
    stale = {"version_id": first["version_id"], "base_version_id": second["version_id"]}
    refused = await world.call(mine, "POST", f"/files/{first['id']}/restore", stale)
    assert (refused.code, refused.body["current"]) == ("version_conflict", restored.body)


async def test_the_trash_shows_topmost_deleted_nodes_with_their_paths_last_deleted_first(
    world: World, mine: Account
) -> None:
    top = await world.folder(mine, "top")
    inner = await world.folder(mine, "inner", top["id"])
    file = await world.file(mine, "f", parent_id=inner["id"])
    lone = await world.file(mine, "lone", parent_id=top["id"])
    await world.call(mine, "DELETE", f"/files/{lone['id']}", version_id=lone["version_id"])
    await world.call(mine, "DELETE", f"/files/{file['id']}", version_id=file["version_id"])
    await world.call(mine, "DELETE", f"/files/{inner['id']}", seen_seq=6)
    page = (await world.get(mine, "/trash", limit=1)).body
    rest = (await world.get(mine, "/trash", cursor=page["next_cursor"])).body
    assert [item["path"] for item in page["items"] + rest["items"]] == ["top/inner", "top/lone"]
    back = await world.call(mine, "POST", f"/trash/{inner['id']}/restore")
    assert (back.status, back.body["deleted"]) == (200, False)
    shown = (await world.get(mine, "/trash")).body["items"]
    assert [item["path"] for item in shown] == ["top/inner/f", "top/lone"]
    assert shown[0]["deleted_at"] == shown[0]["row"]["changed_at"]


async def test_restoring_a_folder_brings_back_all_below_with_ids_and_versions(
    world: World, mine: Account
) -> None:
    top = await world.folder(mine, "top")
    file = await world.file(mine, "f", parent_id=top["id"])
    await world.call(mine, "DELETE", f"/files/{top['id']}", seen_seq=2)
    taken = await world.folder(mine, "top")
    back = await world.call(mine, "POST", f"/trash/{top['id']}/restore")
    assert (back.body["id"], back.body["name"]) == (top["id"], "top (restored)")
    assert (await world.get(mine, "/files", path="top (restored)/f")).body["items"] == [file]
    assert taken["id"] != top["id"]
    assert world.changes(mine)[-1].changes[0].name == "top (restored)"


async def test_usage_counts_bytes_of_objects_and_files_that_are_not_deleted(
    world: World, mine: Account
) -> None:
    file = await world.file(mine, "f", b"12345")
    await world.commit(mine, b"123", node_id=file["id"], base_version_id=file["version_id"])
    used = (await world.get(mine, "/usage")).body
    assert (used["used_bytes"], used["files"], used["reserved_bytes"], used["quota_bytes"]) == (8, 1, 0, None)


async def test_changes_at_the_same_time_are_all_carried_out_without_gaps(world: World, mine: Account) -> None:
    made = await asyncio.gather(*(world.folder(mine, f"f{i}") for i in range(40)))
    assert sorted(row["seq"] for row in made) == list(range(1, 41))
    told = [row.seq for event in world.changes(mine) for row in event.changes]
    assert told == list(range(1, 41))
