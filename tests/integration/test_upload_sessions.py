"""Sessions of one file: opening, joining, sending, completing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.contracts.events import PartCompleted, UploadAborted, UploadStarted
from libs.storage.port import PartToJoin
from tests.support.backends import Backends
from tests.support.upload_world import World, accept, refuse, sha256, upload_world
from tests.support.waiting import eventually

MIB = 1024 * 1024
BIG = bytes(range(256)) * (11 * MIB // 256)
"""Three parts of 5, 5 and 1 MiB."""


@pytest.fixture(scope="module")
async def shared(backends: Backends) -> AsyncIterator[World]:
    async with upload_world(backends) as world:
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.tree.decide = accept
    return shared


async def test_a_small_file_is_sent_in_one_put_and_committed(world: World) -> None:
    account = await world.account()
    upload = await world.opened_and_sent(account, b"hello")
    answer = await world.complete(account, upload, mtime_ns=5, executable=True)
    assert answer.status == 200
    assert answer.body["state"] == "committed"
    assert answer.body["results"][0]["row"]["content_hash"] == sha256(b"hello")
    (asked,) = [one for one in world.tree.asked if one.upload_id == upload["id"]]
    assert asked.attempt == 1
    assert asked.device_name == "device 0"
    assert asked.entries[0].object.verified
    assert not asked.entries[0].object.existing
    assert asked.entries[0].target.mtime_ns == 5
    held = await world.store.head(asked.entries[0].object.key)
    assert held is not None
    assert held.size == 5


async def test_an_empty_file_is_an_upload_like_any_other(world: World) -> None:
    account = await world.account()
    upload = await world.opened_and_sent(account, b"")
    assert (await world.complete(account, upload)).status == 200


async def test_what_was_not_sent_cannot_be_committed(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, b"never sent")
    answer = await world.complete(account, upload)
    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "bytes_missing", [0])
    assert await world.state(account, upload) == "open"
    await world.send(upload["entries"][0]["put"], b"never sent")
    assert (await world.complete(account, upload)).status == 200


async def test_s3_refuses_bytes_with_another_hash_than_announced(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, b"right")
    status, _ = await world.send(upload["entries"][0]["put"], b"wrong")
    assert status == 400
    assert (await world.complete(account, upload)).body["code"] == "bytes_missing"


async def test_a_large_file_travels_in_parts(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, BIG)
    assert (upload["entries"][0]["mode"], upload["part_size"], upload["parts_total"]) == (
        "multipart",
        5 * MIB,
        3,
    )
    await world.send_parts(account, upload, BIG, [1, 2, 3])
    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body
    assert [(part["number"], part["size"]) for part in shown["parts"]] == [
        (1, 5 * MIB),
        (2, 5 * MIB),
        (3, MIB),
    ]
    assert shown["parts"][2]["digest"] == sha256(BIG[10 * MIB :])
    assert shown["parts_done"] == 3
    assert (await world.complete(account, upload)).status == 200
    (asked,) = [one for one in world.tree.asked if one.upload_id == upload["id"]]
    assert not asked.entries[0].object.verified
    read = b"".join([chunk async for chunk in world.store.read(asked.entries[0].object.key)])
    assert read == BIG


async def test_completing_names_the_parts_that_are_missing(world: World) -> None:
    account = await world.account()
    content = b"m" + BIG
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [2])
    answer = await world.complete(account, upload)
    assert (answer.status, answer.body["code"], answer.body["missing"]) == (409, "parts_missing", [1, 3])
    await world.send_parts(account, upload, content, [1, 3])
    assert (await world.complete(account, upload)).status == 200


async def test_s3_refuses_a_part_with_another_digest(world: World) -> None:
    account = await world.account()
    content = b"d" + BIG
    upload = await world.open(account, content)
    urls = await world.call(
        account, "POST", f"/uploads/{upload['id']}/urls", {"parts": {"3": sha256(content[10 * MIB :])}}
    )
    status, _ = await world.send(urls.body["items"]["3"], b"x" + content[10 * MIB + 1 :])
    assert status == 400
    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body
    assert shown["parts"] == []


async def test_the_digest_of_a_part_is_written_once(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, b"w" + BIG)
    path = f"/uploads/{upload['id']}/urls"
    assert (await world.call(account, "POST", path, {"parts": {"1": sha256(b"one")}})).status == 200
    assert (await world.call(account, "POST", path, {"parts": {"1": sha256(b"one")}})).status == 200
    answer = await world.call(account, "POST", path, {"parts": {"1": sha256(b"two"), "2": sha256(b"three")}})
    assert (answer.status, answer.body["code"], answer.body["parts"]) == (409, "part_digest_fixed", [1])


async def test_of_two_digests_named_at_once_one_holds(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, b"r" + BIG)
    path = f"/uploads/{upload['id']}/urls"
    bodies = [{"parts": {"1": sha256(bytes([n]))}} for n in range(8)]
    answers = await asyncio.gather(*(world.call(account, "POST", path, body) for body in bodies))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7


async def test_recorded_parts_are_announced_once_each(world: World) -> None:
    account = await world.account()
    content = b"p" + BIG
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 2])
    path = f"/uploads/{upload['id']}/parts"
    digests = {str(n): sha256(content[(n - 1) * 5 * MIB : n * 5 * MIB]) for n in (1, 2)}
    first = await world.call(account, "POST", path, {"parts": {"1": digests["1"]}})
    again = await world.call(account, "POST", path, {"parts": digests})
    assert (first.body["parts_done"], again.body["parts_done"]) == (1, 2)

    async def announced() -> bool:
        return len(world.events(PartCompleted, upload)) == 2

    await eventually(announced, seconds=5)
    events = world.events(PartCompleted, upload)
    assert [(one.number, one.parts_done, one.parts_total) for one in events] == [(1, 1, 3), (2, 2, 3)]


async def test_parts_nobody_asked_a_url_for_cannot_be_recorded(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, b"n" + BIG)
    path = f"/uploads/{upload['id']}/parts"
    answer = await world.call(account, "POST", path, {"parts": {"2": sha256(b"")}})
    assert (answer.body["code"], answer.body["missing"]) == ("parts_missing", [2])
    await world.call(account, "POST", f"/uploads/{upload['id']}/urls", {"parts": {"2": sha256(b"a")}})
    answer = await world.call(account, "POST", path, {"parts": {"2": sha256(b"b")}})
    assert answer.body["code"] == "part_digest_fixed"


async def test_another_device_of_the_account_joins_the_open_session(world: World) -> None:
    account = await world.account(devices=2)
    content = b"j" + BIG
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1])
    joined = await world.open(account, content, device=1)
    assert joined["id"] == upload["id"]
    assert [part["number"] for part in joined["parts"]] == [1]
    assert joined["device"] == "device 1"


async def test_other_accounts_and_other_content_get_sessions_of_their_own(world: World) -> None:
    one, other = await world.account(), await world.account()
    ids = {(await world.open(account, content))["id"] for account in (one, other) for content in (b"x", b"y")}
    assert len(ids) == 4


async def test_identical_creates_at_once_make_one_session(world: World) -> None:
    account = await world.account()
    uploads = await asyncio.gather(*(world.open(account, b"same time") for _ in range(10)))
    assert len({upload["id"] for upload in uploads}) == 1
    assert all(upload["entries"][0]["put"] for upload in uploads)
    listed = (await world.call(account, "GET", "/uploads")).body["items"]
    assert len(listed) == 1


async def test_identical_multipart_creates_at_once_leave_one_multipart_upload(world: World) -> None:
    account = await world.account()
    content = b"i" + BIG
    uploads = await asyncio.gather(*(world.open(account, content) for _ in range(6)))
    assert len({upload["id"] for upload in uploads}) == 1
    running = [one async for one in world.store.walk_multiparts(f"t/{account.namespace_id}/")]
    assert len(running) == 1


async def test_a_multipart_upload_that_s3_has_lost_is_begun_anew(world: World) -> None:
    account = await world.account()
    content = b"l" + BIG
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 2, 3])
    async for key, lost, _ in world.store.walk_multiparts(f"t/{account.namespace_id}/"):
        await world.store.abort_multipart(key, lost)
    answer = await world.complete(account, upload)
    assert (answer.body["code"], answer.body["missing"]) == ("parts_missing", [1, 2, 3])
    await world.send_parts(account, upload, content, [1, 2, 3])
    assert (await world.complete(account, upload)).status == 200


async def test_parts_that_were_joined_by_a_lost_answer_count_as_joined(world: World) -> None:
    account = await world.account()
    content = b"q" + BIG
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 2, 3])
    row = await world.database["uploads"].find_one({"_id": upload["id"]})
    assert row is not None
    key, running = row["entries"][0]["key"], row["s3_upload_id"]
    parts = await world.store.list_parts(key, running)
    size = 5 * MIB
    joined = [
        PartToJoin(p.number, p.etag, sha256(content[(p.number - 1) * size : p.number * size]))
        for p in parts or []
    ]
    await world.store.complete_multipart(key, running, joined)
    again = await world.open(account, content)
    assert (again["id"], again["parts_done"]) == (upload["id"], 3)
    assert (await world.complete(account, upload)).status == 200


async def test_verified_bytes_of_the_namespace_need_not_be_sent_again(world: World) -> None:
    account = await world.account()
    object_id = await world.stored_object(account, b"known")
    upload = await world.open(account, b"known")
    assert upload["entries"][0]["mode"] == "stored"
    assert upload["entries"][0]["put"] is None
    assert (await world.complete(account, upload)).status == 200
    (asked,) = [one for one in world.tree.asked if one.upload_id == upload["id"]]
    assert (asked.entries[0].object.id, asked.entries[0].object.existing) == (object_id, True)


async def test_unverified_or_other_peoples_bytes_must_be_sent(world: World) -> None:
    account, stranger = await world.account(), await world.account()
    await world.stored_object(account, b"doubtful", verified=False)
    await world.stored_object(stranger, b"theirs")
    assert (await world.open(account, b"doubtful"))["entries"][0]["mode"] == "put"
    assert (await world.open(account, b"theirs"))["entries"][0]["mode"] == "put"


async def test_stored_bytes_that_have_vanished_are_asked_for(world: World) -> None:
    account = await world.account()
    await world.stored_object(account, b"vanishing")
    upload = await world.open(account, b"vanishing")
    world.tree.decide = refuse("object_gone")
    answer = await world.complete(account, upload)
    assert (answer.status, answer.body["code"]) == (409, "object_gone")
    world.tree.decide = accept
    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body
    assert (shown["state"], shown["entries"][0]["mode"]) == ("open", "put")
    urls = await world.call(account, "POST", f"/uploads/{upload['id']}/urls", {"entries": [0]})
    assert (await world.send(urls.body["items"]["0"], b"vanishing"))[0] == 200
    assert (await world.complete(account, upload)).status == 200


async def test_large_stored_bytes_that_have_vanished_are_asked_for_in_parts(world: World) -> None:
    account = await world.account()
    content = b"v" + BIG
    await world.stored_object(account, content)
    upload = await world.open(account, content)
    world.tree.decide = refuse("object_gone")
    await world.complete(account, upload)
    world.tree.decide = accept
    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body
    assert (shown["entries"][0]["mode"], shown["parts_total"]) == ("multipart", 3)
    await world.send_parts(account, shown, content, [1, 2, 3])
    assert (await world.complete(account, upload)).status == 200


async def test_opening_is_announced(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, b"announced", path="b/c.txt")

    async def announced() -> bool:
        return len(world.events(UploadStarted, upload)) == 1

    await eventually(announced, seconds=5)
    (event,) = world.events(UploadStarted, upload)
    assert (event.size, event.path, event.user_id) == (9, "b/c.txt", account.user_id)


async def test_an_aborted_session_leaves_nothing_in_s3(world: World) -> None:
    account = await world.account()
    small = await world.opened_and_sent(account, b"to be given up")
    content = b"g" + BIG
    large = await world.open(account, content)
    await world.send_parts(account, large, content, [1])
    for upload in (small, large):
        assert (await world.call(account, "DELETE", f"/uploads/{upload['id']}")).status == 204
        assert (await world.call(account, "DELETE", f"/uploads/{upload['id']}")).status == 204
        assert await world.state(account, upload) == "aborted"
    prefix = f"t/{account.namespace_id}/"
    assert [item async for item in world.store.walk(prefix)] == []
    assert [one async for one in world.store.walk_multiparts(prefix)] == []

    async def announced() -> bool:
        return len(world.events(UploadAborted, small)) == 1

    await eventually(announced, seconds=5)
    answer = await world.complete(account, small)
    assert (answer.status, answer.body["code"]) == (409, "upload_not_open")
    assert (await world.open(account, b"to be given up"))["id"] != small["id"]


async def test_sessions_of_others_do_not_exist(world: World) -> None:
    account, stranger = await world.account(), await world.account()
    upload = await world.open(account, b"private")
    target = {"parent_id": stranger.namespace_id, "name": "a"}
    for method, path, body in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/urls", {"entries": [0]}),
        ("POST", "/parts", {"parts": {"1": sha256(b"")}}),
        ("POST", "/complete", target),
        ("POST", "/complete-batch", {"items": [{"index": 0, **target}]}),
    ]:
        answer = await world.call(stranger, method, f"/uploads/{upload['id']}{path}", body)
        assert (answer.status, answer.body["code"]) == (404, "not_found"), path
    assert (await world.call(stranger, "GET", "/uploads")).body["items"] == []
    single = {"namespace_id": account.namespace_id, "content_hash": sha256(b""), "size": 0}
    assert (await world.call(stranger, "POST", "/uploads", single)).status == 404
    batch = {"namespace_id": account.namespace_id, "items": [{"content_hash": sha256(b""), "size": 0}]}
    assert (await world.call(stranger, "POST", "/uploads/batch", batch)).status == 404


async def test_a_session_is_its_accounts_alone_in_a_namespace_of_many(world: World) -> None:
    account, other = await world.account(), await world.account()
    member = {"$push": {"members": {"user_id": other.user_id, "role": "editor"}}}
    await world.database["namespaces"].update_one({"_id": account.namespace_id}, member)
    upload = await world.open(account, b"mine alone")
    assert (await world.call(other, "GET", f"/uploads/{upload['id']}")).status == 404
    body = {"namespace_id": account.namespace_id, "content_hash": sha256(b"mine alone"), "size": 10}
    theirs = await world.call(other, "POST", "/uploads", body)
    assert theirs.status == 201
    assert theirs.body["id"] != upload["id"]


async def test_a_member_who_was_removed_reaches_the_session_no_more(world: World) -> None:
    account = await world.account()
    upload = await world.open(account, b"once mine")
    await world.database["namespaces"].update_one({"_id": account.namespace_id}, {"$set": {"members": []}})
    assert (await world.call(account, "GET", f"/uploads/{upload['id']}")).status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("", {"content_hash": "xyz", "size": 1}, 400, "invalid_request"),
        ("", {"content_hash": sha256(b""), "size": -1}, 400, "invalid_request"),
        ("", {"content_hash": sha256(b""), "size": 2**50}, 400, "invalid_request"),
        ("", {"content_hash": sha256(b""), "size": 0, "other": 1}, 400, "invalid_request"),
        ("", {"content_hash": sha256(b""), "size": 0, "namespace_id": "0" * 24}, 404, "not_found"),
        ("/batch", {"items": []}, 400, "invalid_request"),
        ("/batch", {"items": [{"content_hash": sha256(b""), "size": 0}] * 501}, 400, "invalid_request"),
        ("/batch", {"items": [{"content_hash": sha256(b""), "size": 5 * MIB}]}, 413, "file_too_large"),
        ("/nonsense/complete", {"parent_id": "0" * 24, "name": "a"}, 404, "not_found"),
        (f"/{'0' * 24}/complete", {"parent_id": "0" * 24, "name": "a"}, 404, "not_found"),
    ],
)
async def test_malformed_announcements_are_refused(
    world: World, path: str, body: object, status: int, code: str
) -> None:
    answer = await world.call(await world.account(), "POST", f"/uploads{path}", body)
    assert (answer.status, answer.body["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("urls", {"parts": {"1": sha256(b"")}}),
        ("urls", {"entries": [1]}),
        ("urls", {"entries": []}),
        ("urls", {}),
        ("parts", {"parts": {"1": sha256(b"")}}),
        ("complete", {"parent_id": "0" * 24}),
        ("complete", {"parent_id": "0" * 24, "name": "a/b"}),
        ("complete", {"node_id": "0" * 24}),
        ("complete-batch", {"items": [{"index": 0, "parent_id": "0" * 24, "name": "a"}]}),
    ],
)
async def test_requests_that_do_not_fit_a_session_of_one_put_are_refused(
    world: World, path: str, body: object
) -> None:
    account = await world.account()
    upload = await world.open(account, b"fit")
    answer = await world.call(account, "POST", f"/uploads/{upload['id']}/{path}", body)
    assert (answer.status, answer.body["code"] in {"invalid_request", "invalid_name"}) == (400, True)


@pytest.mark.parametrize("number", ["0", "4", "-1", "x"])
async def test_part_numbers_outside_the_file_are_refused(world: World, number: str) -> None:
    account = await world.account()
    upload = await world.open(account, b"o" + BIG)
    for path in ("urls", "parts"):
        answer = await world.call(
            account, "POST", f"/uploads/{upload['id']}/{path}", {"parts": {number: sha256(b"")}}
        )
        assert (answer.status, answer.body["code"]) == (400, "invalid_request")


async def test_lists_are_paged_newest_first(world: World) -> None:
    account = await world.account()
    made = [(await world.open(account, bytes([n]), path=str(n)))["id"] for n in range(5)]
    await world.call(account, "DELETE", f"/uploads/{made[2]}")
    for state, expected in (("all", made[::-1]), ("open", [made[4], made[3], made[1], made[0]])):
        found: list[str] = []
        cursor = ""
        while True:
            page = (await world.call(account, "GET", f"/uploads?state={state}&limit=2{cursor}")).body
            found += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert found == expected


async def test_lists_can_be_narrowed_to_a_content(world: World) -> None:
    account = await world.account()
    await world.open(account, b"one")
    two = await world.open(account, b"two")
    for state in ("open", "all"):
        page = await world.call(account, "GET", f"/uploads?state={state}&content_hash={sha256(b'two')}")
        assert [item["id"] for item in page.body["items"]] == [two["id"]]


@pytest.mark.parametrize(
    "query", ["state=closed", "content_hash=1", "cursor=!", "cursor=YQ", "limit=0", "more=1"]
)
async def test_malformed_queries_are_refused(world: World, query: str) -> None:
    answer = await world.call(await world.account(), "GET", f"/uploads?{query}")
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")


async def test_without_a_token_nothing_is_answered(world: World) -> None:
    for method, path in [
        ("GET", "/v1/uploads"),
        ("POST", "/v1/uploads"),
        ("POST", "/internal/uploads/expire"),
    ]:
        async with world.session.request(method, world.url + path) as answer:
            assert answer.status == 401
    account = await world.account()
    token = world.signer.access_token(account.user_id, account.devices[0], account.namespace_id)
    for path in ("expire", "redrive", "known"):
        url, headers = f"{world.url}/internal/uploads/{path}", {"Authorization": f"Bearer {token}"}
        async with world.session.post(url, headers=headers) as answer:
            assert answer.status == 401
