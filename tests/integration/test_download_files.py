"""Files committed and read back through the real services."""

import asyncio
import hashlib
import io
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from libs.mongo.names import OBJECTS, UPLOAD_PARTS, UPLOADS
from tests.support.stack import Stack
from tests.support.waiting import eventually

Json = dict[str, Any]
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class User:
    """An account with one device, at the gateway."""

    url: str
    http: aiohttp.ClientSession
    namespace_id: str
    token: str

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.http.request(
            method, f"{self.url}/v1{path}", json=body, headers=headers, allow_redirects=False
        ) as answer:
            content = await answer.json() if "json" in answer.content_type else None
            return Answer(answer.status, content, dict(answer.headers))

    async def ok(self, method: str, path: str, body: object = None) -> Json:
        answer = await self.call(method, path, body)
        assert answer.status < 300, answer
        return answer.body or {}

    async def send(self, request: Json, content: bytes) -> None:
        async with self.http.put(
            request["url"],
            data=io.BytesIO(content),
            headers=request["headers"],
            skip_auto_headers=["Content-Type"],
        ) as answer:
            assert answer.status == 200, await answer.text()

    async def put(self, name: str, content: bytes, *, parent: str | None = None) -> Json:
        """Commit a new file; return its row."""
        return await self._commit(content, {"parent_id": parent or self.namespace_id, "name": name})

    async def edit(self, row: Json, content: bytes) -> Json:
        return await self._commit(content, {"node_id": row["id"], "base_version_id": row["version_id"]})

    async def _commit(self, content: bytes, target: Json) -> Json:
        digest = hashlib.sha256(content).hexdigest()
        upload = await self.ok("POST", "/uploads", {"content_hash": digest, "size": len(content)})
        if upload["entries"][0]["put"]:
            await self.send(upload["entries"][0]["put"], content)
        row: Json = (await self.ok("POST", f"/uploads/{upload['id']}/complete", target))["results"][0]["row"]
        return row

    async def read(self, url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        async with self.http.get(url, headers=headers) as answer:
            return answer.status, await answer.read(), dict(answer.headers)


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def register(stack: Stack, http: aiohttp.ClientSession) -> User:
    email = f"{secrets.token_hex(6)}@example.com"
    body = {"email": email, "password": "a long password", "device_name": "test"}
    async with http.post(f"{stack.gateway_url}/v1/auth/register", json=body) as answer:
        assert answer.status == 201, await answer.text()
        tokens = await answer.json()
    return User(stack.gateway_url, http, tokens["namespace_id"], tokens["access_token"])


@pytest.fixture
async def user(stack: Stack, http: aiohttp.ClientSession) -> User:
    return await register(stack, http)


@pytest.fixture
async def stranger(stack: Stack, http: aiohttp.ClientSession) -> User:
    return await register(stack, http)


async def test_what_was_committed_is_read_back(user: User) -> None:
    row = await user.put("a.txt", b"hello")
    found = await user.ok("GET", f"/files/{row['id']}/download")
    assert (found["size"], found["version_id"]) == (5, row["version_id"])
    status, content, _ = await user.read(found["url"])
    assert (status, content) == (200, b"hello")
    status, content, _ = await user.read(found["url"], Range="bytes=1-3")
    assert (status, content) == (206, b"ell")


async def test_an_empty_file_is_read_back(user: User) -> None:
    row = await user.put("empty", b"")
    found = await user.ok("GET", f"/files/{row['id']}/download")
    assert (await user.read(found["url"]))[:2] == (200, b"")


async def put_in_parts(user: User, name: str, content: bytes) -> tuple[Json, dict[str, str]]:
    """Commit a new large file; return its row and the digests of its parts."""
    digest = hashlib.sha256(content).hexdigest()
    upload = await user.ok("POST", "/uploads", {"content_hash": digest, "size": len(content)})
    size = upload["part_size"]
    parts = {n + 1: content[n * size : (n + 1) * size] for n in range(upload["parts_total"])}
    digests = {str(n): hashlib.sha256(part).hexdigest() for n, part in parts.items()}
    urls = await user.ok("POST", f"/uploads/{upload['id']}/urls", {"parts": digests})
    for number, part in parts.items():
        await user.send(urls["items"][str(number)], part)
    recorded = await user.ok("POST", f"/uploads/{upload['id']}/parts", {"parts": digests})
    assert recorded["parts_done"] == len(parts)
    target = {"parent_id": user.namespace_id, "name": name}
    answer = await user.ok("POST", f"/uploads/{upload['id']}/complete", target)
    assert answer["state"] == "committed"
    return answer["results"][0]["row"], digests


async def test_a_large_file_goes_through_parts_and_comes_back_whole(user: User) -> None:
    content = secrets.token_bytes(MIB) * 21
    row, _ = await put_in_parts(user, "large", content)
    found = await user.ok("GET", f"/files/{row['id']}/download")
    assert (await user.read(found["url"]))[1] == content


async def test_the_digests_of_the_parts_of_a_large_file_are_read_by_page(user: User) -> None:
    content = secrets.token_bytes(MIB) * 21
    row, digests = await put_in_parts(user, "large", content)
    path = f"/files/{row['id']}/parts"
    whole = await user.ok("GET", path)
    assert (whole["part_size"], whole["parts_total"]) == (10 * MIB, 3)
    assert {str(item["number"]): item["digest"] for item in whole["items"]} == digests
    assert [item["size"] for item in whole["items"]] == [10 * MIB, 10 * MIB, MIB]
    named = await user.ok("GET", f"{path}?version={row['version_id']}&first=2&limit=1")
    assert named == {**whole, "items": whole["items"][1:2]}
    assert (await user.ok("GET", f"{path}?first=4"))["items"] == []


async def test_a_copy_that_needed_no_bytes_has_the_digests_of_the_upload_that_brought_them(
    user: User, stack: Stack
) -> None:
    content = secrets.token_bytes(MIB) * 11
    row, digests = await put_in_parts(user, "large", content)
    await verified(stack, row)
    copy = await user.put("copy", content)
    found = await user.ok("GET", f"/files/{copy['id']}/parts")
    assert {str(item["number"]): item["digest"] for item in found["items"]} == digests


async def verified(stack: Stack, row: Json) -> None:
    """Wait until the janitor has read the object: only then it stands for others of its content."""
    client: AsyncIOMotorClient[Json] = AsyncIOMotorClient(stack.env["LOCKSTEP_MONGO_URL"])
    try:
        objects = client[stack.env["LOCKSTEP_MONGO_DATABASE"]][OBJECTS]

        async def seen() -> bool:
            return bool(await objects.find_one({"content_hash": row["content_hash"], "verified": True}))

        await eventually(seen, seconds=30)
    finally:
        client.close()


async def test_of_a_file_sent_in_one_request_no_parts_are_known(user: User) -> None:
    row = await user.put("small", b"small")
    nothing: Json = {"part_size": None, "parts_total": 0, "items": []}
    assert await user.ok("GET", f"/files/{row['id']}/parts") == nothing


async def test_of_an_upload_that_is_forgotten_no_parts_are_known(user: User, stack: Stack) -> None:
    row, _ = await put_in_parts(user, "large", secrets.token_bytes(MIB) * 11)
    client: AsyncIOMotorClient[Json] = AsyncIOMotorClient(stack.env["LOCKSTEP_MONGO_URL"])
    try:
        database = client[stack.env["LOCKSTEP_MONGO_DATABASE"]]
        session = await database[UPLOADS].find_one({"entries.content_hash": row["content_hash"]})
        assert session is not None
        await database[UPLOAD_PARTS].delete_one({"_id": f"{session['_id']}:2"})
        assert (await user.ok("GET", f"/files/{row['id']}/parts"))["part_size"] is None
        await database[UPLOADS].delete_one({"_id": session["_id"]})
        assert (await user.ok("GET", f"/files/{row['id']}/parts"))["part_size"] is None
    finally:
        client.close()


async def test_a_refused_commit_goes_elsewhere_without_bytes(user: User) -> None:
    await user.put("taken", b"first")
    digest = hashlib.sha256(b"second").hexdigest()
    upload = await user.ok("POST", "/uploads", {"content_hash": digest, "size": 6})
    await user.send(upload["entries"][0]["put"], b"second")
    complete = f"/uploads/{upload['id']}/complete"
    refused = await user.call("POST", complete, {"parent_id": user.namespace_id, "name": "taken"})
    assert (refused.status, refused.body["code"]) == (409, "name_taken")
    row = (await user.ok("POST", complete, {"parent_id": user.namespace_id, "name": "copy"}))["results"][0][
        "row"
    ]
    found = await user.ok("GET", f"/files/{row['id']}/download")
    assert (await user.read(found["url"]))[1] == b"second"


async def test_the_second_file_of_a_content_needs_no_bytes(user: User) -> None:
    await user.put("one", b"same content")
    digest = hashlib.sha256(b"same content").hexdigest()
    upload = await user.ok("POST", "/uploads", {"content_hash": digest, "size": 12})
    assert upload["entries"][0]["mode"] == "stored"
    row = await user.put("two", b"same content")
    found = await user.ok("GET", f"/files/{row['id']}/download")
    assert (await user.read(found["url"]))[1] == b"same content"


async def test_a_batch_of_hundreds_is_committed_and_read_as_one(user: User) -> None:
    contents = [f"content {i}".encode() for i in range(200)]
    items = [{"content_hash": hashlib.sha256(one).hexdigest(), "size": len(one)} for one in contents]
    upload = await user.ok("POST", "/uploads/batch", {"items": items})
    gate = asyncio.Semaphore(16)

    async def send(entry: Json) -> None:
        async with gate:
            await user.send(entry["put"], contents[entry["index"]])

    await asyncio.gather(*(send(entry) for entry in upload["entries"]))
    targets = [{"index": i, "parent_id": user.namespace_id, "name": f"f{i}"} for i in range(200)]
    answer = await user.ok("POST", f"/uploads/{upload['id']}/complete-batch", {"items": targets})
    assert answer["state"] == "committed"
    wanted = [{"node_id": result["row"]["id"]} for result in answer["results"]]
    found = (await user.ok("POST", "/downloads/batch", {"items": wanted}))["items"]
    assert [item["index"] for item in found] == list(range(200))
    for index in (0, 77, 199):
        assert (await user.read(found[index]["download"]["url"]))[1] == contents[index]


async def test_older_versions_can_be_read(user: User) -> None:
    first = await user.put("a", b"one")
    second = await user.edit(first, b"two")
    for row, content in ((first, b"one"), (second, b"two")):
        found = await user.ok("GET", f"/files/{row['id']}/download?version={row['version_id']}")
        assert (await user.read(found["url"]))[1] == content
    other = await user.put("b", b"three")
    answer = await user.call("GET", f"/files/{first['id']}/download?version={other['version_id']}")
    assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_a_deleted_file_is_read_by_its_versions_only(user: User) -> None:
    folder = await user.ok("POST", "/folders", {"parent_id": user.namespace_id, "name": "folder"})
    inside = await user.put("inside", b"inside", parent=folder["id"])
    alone = await user.put("alone", b"alone")
    head = (await user.ok("GET", "/sync"))["items"][-1]["seq"]
    await user.ok("DELETE", f"/files/{folder['id']}?seen_seq={head}")
    await user.ok("DELETE", f"/files/{alone['id']}?version_id={alone['version_id']}")
    for row, content in ((inside, b"inside"), (alone, b"alone")):
        path = f"/files/{row['id']}/download"
        assert (await user.call("GET", path)).status == 404
        found = await user.ok("GET", f"{path}?version={row['version_id']}")
        assert (await user.read(found["url"]))[1] == content


async def test_a_redirect_leads_to_an_attachment_of_the_files_name(user: User) -> None:
    row = await user.put('ä "b".txt', b"named")
    answer = await user.call("GET", f"/files/{row['id']}/download?redirect=1")
    assert answer.status == 302
    assert answer.headers["Cache-Control"] == "no-store"
    status, content, headers = await user.read(answer.headers["Location"])
    assert (status, content) == (200, b"named")
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''%C3%A4%20%22b%22.txt"


async def test_each_item_of_a_batch_has_its_own_result(user: User, stranger: User) -> None:
    mine, theirs = await user.put("mine", b"mine"), await stranger.put("theirs", b"theirs")
    folder = await user.ok("POST", "/folders", {"parent_id": user.namespace_id, "name": "folder"})
    asked = [
        {"node_id": mine["id"]},
        {"node_id": theirs["id"]},
        {"node_id": theirs["id"], "version_id": theirs["version_id"]},
        {"node_id": mine["id"], "version_id": theirs["version_id"]},
        {"node_id": folder["id"]},
        {"node_id": "0" * 24},
        {"node_id": mine["id"], "version_id": mine["version_id"]},
    ]
    found = (await user.ok("POST", "/downloads/batch", {"items": asked}))["items"]
    codes = [None, "not_found", "not_found", "not_found", "not_a_file", "not_found", None]
    assert [item["code"] for item in found] == codes
    assert [item["download"] is None for item in found] == [code is not None for code in codes]


async def test_other_peoples_files_do_not_exist(user: User, stranger: User) -> None:
    row = await user.put("private", b"private")
    version = f"?version={row['version_id']}"
    for path in ("download", "download?redirect=1", f"download{version}", "parts", f"parts{version}"):
        answer = await stranger.call("GET", f"/files/{row['id']}/{path}")
        assert (answer.status, answer.body["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/files/{'0' * 24}/download", 404, "not_found"),
        ("/files/nonsense/download", 404, "not_found"),
        (f"/files/{'0' * 24}/download?version=1", 404, "not_found"),
        (f"/files/{'0' * 24}/download?redirect=yes", 400, "invalid_request"),
        (f"/files/{'0' * 24}/download?other=1", 400, "invalid_request"),
        (f"/files/{'0' * 24}/parts", 404, "not_found"),
        (f"/files/{'0' * 24}/parts?first=0", 400, "invalid_request"),
        (f"/files/{'0' * 24}/parts?first=9501", 400, "invalid_request"),
        (f"/files/{'0' * 24}/parts?limit=1001", 400, "invalid_request"),
    ],
)
async def test_malformed_reads_are_refused(user: User, path: str, status: int, code: str) -> None:
    answer = await user.call("GET", path)
    assert (answer.status, answer.body["code"]) == (status, code)


@pytest.mark.parametrize(
    "body", [{}, {"items": []}, {"items": [{"node_id": "x"}]}, {"items": [{"node_id": "0" * 24}] * 501}]
)
async def test_malformed_batches_are_refused(user: User, body: object) -> None:
    answer = await user.call("POST", "/downloads/batch", body)
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")


async def test_without_a_token_nothing_is_read(stack: Stack, http: aiohttp.ClientSession) -> None:
    for method, path in [("GET", f"/v1/files/{'0' * 24}/download"), ("POST", "/v1/downloads/batch")]:
        async with http.request(method, stack.url("download") + path) as answer:
            assert answer.status == 401


async def test_a_tampered_url_is_refused_by_s3(user: User) -> None:
    row, other = await user.put("one", b"one"), await user.put("two", b"two")
    urls = [(await user.ok("GET", f"/files/{one['id']}/download"))["url"] for one in (row, other)]
    mixed = urls[0].partition("?")[0] + "?" + urls[1].partition("?")[2]
    assert (await user.read(mixed))[0] == 403
