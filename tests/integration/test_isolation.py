"""Account B asks every endpoint for what is account A's: nothing is told and nothing changes.

The cases are made from the table of endpoints, and a test holds them complete: an endpoint that is
added without a case fails it.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from libs.contracts.api import Tokens
from libs.contracts.endpoints import ENDPOINTS
from tests.support.gateway_client import Api, Reply, open_api
from tests.support.stack import Stack

CONTENT = b"what A wrote"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass(frozen=True, slots=True)
class Belongings:
    """What A has: ids that B may have come to know."""

    tokens: Tokens
    namespace: str
    folder: str
    file: str
    version: str
    upload: str
    open_upload: str


@dataclass(frozen=True, slots=True)
class Case:
    """A call with A's ids in it, and the answer that B gets."""

    endpoint: str
    path: str
    body: dict[str, Any] | None = None
    expect: str = "not_found"
    """The problem's code, or where the answer is 200: the code of its first item, or "empty"."""


CASES = (
    Case("revoke_device", "/v1/devices/{device}"),
    Case(
        "create_upload",
        "/v1/uploads",
        {"namespace_id": "{namespace}", "content_hash": DIGEST, "size": len(CONTENT)},
    ),
    Case(
        "create_upload_batch",
        "/v1/uploads/batch",
        {"namespace_id": "{namespace}", "items": [{"content_hash": DIGEST, "size": len(CONTENT)}]},
    ),
    Case("list_uploads", "/v1/uploads?state=all", expect="empty"),
    Case("get_upload", "/v1/uploads/{upload}"),
    Case("upload_urls", "/v1/uploads/{open_upload}/urls", {"entries": [0]}),
    Case("record_parts", "/v1/uploads/{open_upload}/parts", {"parts": {"1": DIGEST}}),
    Case("complete_upload", "/v1/uploads/{open_upload}/complete", {"parent_id": "{namespace}", "name": "x"}),
    Case(
        "complete_upload_batch",
        "/v1/uploads/{open_upload}/complete-batch",
        {"items": [{"index": 0, "parent_id": "{namespace}", "name": "x"}]},
    ),
    Case("abort_upload", "/v1/uploads/{open_upload}"),
    Case("download", "/v1/files/{file}/download"),
    Case("download", "/v1/files/{file}/download?version={version}"),
    Case("part_digests", "/v1/files/{file}/parts"),
    Case("part_digests", "/v1/files/{file}/parts?version={version}"),
    Case("download_delta", "/v1/files/{file}/delta?from={version}"),
    Case("download_batch", "/v1/downloads/batch", {"items": [{"node_id": "{file}"}]}),
    Case("list_files", "/v1/files?parent={folder}"),
    Case("list_files", "/v1/files?parent={namespace}"),
    Case("list_files", "/v1/files?path=folder&namespace_id={namespace}"),
    Case("get_file", "/v1/files/{file}"),
    Case("create_folder", "/v1/folders", {"parent_id": "{folder}", "name": "x"}),
    Case("create_folder", "/v1/folders", {"parent_id": "{namespace}", "name": "x"}),
    Case(
        "move_file",
        "/v1/files/{file}",
        {"expect_parent_id": "{folder}", "expect_name": "file", "parent_id": "{own}", "name": "stolen"},
    ),
    Case("delete_file", "/v1/files/{file}?version_id={version}"),
    Case(
        "tree_batch",
        "/v1/files/batch",
        {"ops": [{"op": "delete", "node_id": "{file}", "version_id": "{version}"}]},
    ),
    Case(
        "tree_batch",
        "/v1/files/batch",
        {"ops": [{"op": "create_folder", "parent_id": "{folder}", "name": "x"}]},
    ),
    Case("list_versions", "/v1/files/{file}/versions"),
    Case("restore_version", "/v1/files/{file}/restore", {"version_id": "{version}"}),
    Case("list_trash", "/v1/trash?namespace_id={namespace}"),
    Case("restore_trash", "/v1/trash/{file}/restore"),
    Case("sync", "/v1/sync", expect="empty"),
)
"""Endpoints without an id of somebody's: signing in and out, one's own account, usage and pushes."""

OWN = {
    "register", "login", "refresh", "logout", "change_password", "delete_account", "list_devices",
    "usage", "events",
}  # fmt: skip


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    stack.ensure_running()
    async with open_api(stack.gateway_url) as client:
        yield client


async def belongings(api: Api) -> Belongings:
    tokens = await api.register()
    owner = api.of(tokens)
    folder = await owner.make_folder(tokens.namespace_id, "folder")
    upload = (await owner.call("POST", "/v1/uploads", {"content_hash": DIGEST, "size": len(CONTENT)})).body
    put = upload["entries"][0]["put"]
    async with api.session.put(put["url"], data=CONTENT, headers=put["headers"]) as sent:
        assert sent.status == 200
    target = {"parent_id": folder["id"], "name": "file"}
    done = await owner.call("POST", f"/v1/uploads/{upload['id']}/complete", target)
    row = done.body["results"][0]["row"]
    other = hashlib.sha256(b"other").hexdigest()
    still_open = (await owner.call("POST", "/v1/uploads", {"content_hash": other, "size": 5})).body
    return Belongings(
        tokens,
        tokens.namespace_id,
        folder["id"],
        row["id"],
        row["version_id"],
        upload["id"],
        still_open["id"],
    )


def filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        return value.format(**ids) if "{" in value else value
    if isinstance(value, dict):
        return {key: filled(item, ids) for key, item in value.items()}
    return [filled(item, ids) for item in value] if isinstance(value, list) else value


def told(reply: Reply) -> str:
    """What an answer gives away: the code, per item where the answer is a list."""
    if reply.status >= 400:
        return reply.code
    items = reply.body["items"]
    return str(items[0]["code"]) if items else "empty"


def test_every_endpoint_has_a_case() -> None:
    assert {case.endpoint for case in CASES} | OWN == {endpoint.name for endpoint in ENDPOINTS}


async def test_another_accounts_ids_are_not_found_anywhere(api: Api) -> None:
    owned = await belongings(api)
    stranger = await api.register()
    before = await state_of(api.of(owned.tokens))
    ids = {
        "device": owned.tokens.device_id, "namespace": owned.namespace, "folder": owned.folder,
        "file": owned.file, "version": owned.version, "upload": owned.upload,
        "open_upload": owned.open_upload, "own": stranger.namespace_id,
    }  # fmt: skip
    methods = {endpoint.name: endpoint.method for endpoint in ENDPOINTS}
    answers = {}
    for case in CASES:
        path, body = case.path.format(**ids), None if case.body is None else filled(case.body, ids)
        reply = await api.of(stranger).call(methods[case.endpoint], path, body)
        answers[case.endpoint, case.path] = (told(reply), case.expect)
    assert {key: got for key, (got, expected) in answers.items() if got != expected} == {}
    assert await state_of(api.of(owned.tokens)) == before


async def state_of(owner: Api) -> dict[str, Any]:
    """What A sees: the tree, the sessions, the devices."""
    rows = (await owner.call("GET", "/v1/sync")).body["items"]
    uploads = (await owner.call("GET", "/v1/uploads?state=all")).body["items"]
    devices = (await owner.call("GET", "/v1/devices")).body["items"]
    return {
        "rows": rows,
        "uploads": {upload["id"]: upload["state"] for upload in uploads},
        "revoked": {device["id"]: device["revoked"] for device in devices},
    }
