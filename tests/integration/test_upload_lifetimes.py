"""Sessions that are left alone, given up, over the quota or of a revoked device; and the sweeps meanwhile.

A stack of its own, whose janitor hardly rests and gives unowned things a few seconds.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.contracts.api import Tokens
from libs.contracts.events import Envelope as EventEnvelope
from libs.contracts.events import EventData, UploadAborted, UploadExpired, unwrap
from libs.contracts.tree import NodeRow
from libs.messaging.rabbit import open_bus
from libs.mongo.client import Database, open_database
from libs.mongo.names import OBJECTS, UPLOADS
from libs.storage.s3 import S3ObjectStore, open_store
from services.upload.settings import Settings
from tests.support.backends import Backends
from tests.support.gateway_client import Api, new_email, open_api
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually

MIB = 1024 * 1024
PART = 5 * MIB
QUOTA = 64 * MIB
RESTLESS = {
    "LOCKSTEP_PART_BYTES": str(PART),
    "LOCKSTEP_SINGLE_PUT_BYTES": str(MIB),
    "LOCKSTEP_QUOTA_BYTES": str(QUOTA),
    "LOCKSTEP_SWEEP_GRACE": "2",
    "LOCKSTEP_EPOCH_QUIET": "0",
    "LOCKSTEP_GARBAGE_AGE_SECONDS": "1",
    "LOCKSTEP_DOOM_GRACE_SECONDS": "1",
    **{
        f"LOCKSTEP_JANITOR_{job}_INTERVAL": "0.3"
        for job in ("EXPIRE", "REDRIVE", "VERIFY", "GARBAGE", "SWEEP", "PURGE")
    },
}


@pytest.fixture(scope="module")
def restless(backends: Backends) -> Iterator[Stack]:
    with running_stack(backends, RESTLESS) as stack:
        yield stack


@dataclass
class Scene:
    """The stack, its database and S3, and what its services publish."""

    stack: Stack
    api: Api
    database: Database
    store: S3ObjectStore
    seen: list[EventData]

    async def session(self, upload: dict[str, Any]) -> dict[str, Any]:
        row = await self.database[UPLOADS].find_one({"_id": upload["id"]})
        assert row is not None
        return row

    async def until(self, upload: dict[str, Any], state: str) -> None:
        async def reached() -> bool:
            return bool((await self.session(upload))["state"] == state)

        await eventually(reached, seconds=30)

    async def is_gone(self, row: dict[str, Any]) -> bool:
        """Whether S3 holds nothing of a session any more."""
        key = row["entries"][0]["key"]
        parts = row["s3_upload_id"] and await self.store.list_parts(key, row["s3_upload_id"])
        return parts in {None, ""} and await self.store.head(key) is None

    async def quota(self, size: int) -> None:
        """Restart the services that know the quota with another one."""
        for name in ("metadata", "upload"):
            await asyncio.to_thread(self.stack.restart_with, name, {"LOCKSTEP_QUOTA_BYTES": str(size)})

    async def rounds(self, *jobs: str) -> None:
        """Wait until the janitor has begun and ended each of these jobs at least once more."""
        before = await self._runs()

        async def twice() -> bool:
            now = await self._runs()
            return all(now.get(job, 0) >= before.get(job, 0) + 2 for job in jobs)

        await eventually(twice, seconds=60)

    async def _runs(self) -> dict[str, float]:
        async with self.api.session.get(f"{self.stack.url('janitor')}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        named = (line.rpartition(" ") for line in lines if line.startswith("lockstep_janitor_runs_total{"))
        return {
            name.split('job="')[1].split('"')[0]: float(value)
            for name, _, value in named
            if 'result="done"' in name
        }


@pytest.fixture
async def scene(restless: Stack) -> AsyncIterator[Scene]:
    given = {name.removeprefix("LOCKSTEP_").lower(): value for name, value in restless.env.items()}
    settings = Settings.model_validate({**given, "port": 0})
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(open_api(restless.gateway_url))
        database = await stack.enter_async_context(open_database(settings))
        store = await stack.enter_async_context(open_store(settings))
        bus = await stack.enter_async_context(open_bus(settings, service="test"))
        seen: list[EventData] = []

        async def collect(envelope: EventEnvelope) -> None:
            data = unwrap(envelope)
            if data is not None:
                seen.append(data)

        await bus.wait_ready()
        await bus.listen(("#",), collect)
        yield Scene(restless, api, database, store, seen)


async def reserved(api: Api) -> int:
    return int((await api.call("GET", "/v1/usage")).body["reserved_bytes"])


async def announce(api: Api, content: bytes) -> dict[str, Any]:
    asked = {"content_hash": hashlib.sha256(content).hexdigest(), "size": len(content)}
    answer = await api.call("POST", "/v1/uploads", asked)
    assert answer.status == 201, answer.body
    upload: dict[str, Any] = answer.body
    return upload


async def send_part(api: Api, upload: dict[str, Any], content: bytes, number: int) -> None:
    part = content[(number - 1) * PART : number * PART]
    digests = {str(number): hashlib.sha256(part).hexdigest()}
    urls = await api.call("POST", f"/v1/uploads/{upload['id']}/urls", {"parts": digests})
    assert urls.status == 200, urls.body
    await api.put(urls.body["items"][str(number)], part)
    assert (await api.call("POST", f"/v1/uploads/{upload['id']}/parts", {"parts": digests})).status == 200


async def read(api: Api, node_id: str) -> bytes:
    found = await api.call("GET", f"/v1/files/{node_id}/download")
    assert found.status == 200, found.body
    async with api.session.get(found.body["url"]) as answer:
        assert answer.status == 200
        return await answer.read()


# Expiry ---------------------------------------------------------------------------------------


async def test_sessions_left_alone_for_their_time_are_expired_with_their_bytes_once(scene: Scene) -> None:
    tokens = await scene.api.register()
    mine = scene.api.of(tokens)
    large, small = secrets.token_bytes(2 * PART), secrets.token_bytes(1000)
    parts = await announce(mine, large)
    await send_part(mine, parts, large, 1)
    put = await mine.begin(small)
    kept = await announce(mine, secrets.token_bytes(500))
    assert await reserved(mine) == 2 * PART + 1500
    week = datetime.fromisoformat(parts["expires_at"]) - datetime.fromisoformat(parts["updated_at"])
    assert week == timedelta(days=7)
    past = {"$set": {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}}
    for upload in (parts, put):
        await scene.database[UPLOADS].update_one({"_id": upload["id"]}, past)
    for upload in (parts, put):
        await scene.until(upload, "expired")
        row = await scene.session(upload)

        async def gone(row: dict[str, Any] = row) -> bool:
            return await scene.is_gone(row)

        await eventually(gone, seconds=10)
    await scene.rounds("expire")
    for upload in (parts, put):

        async def told(upload: dict[str, Any] = upload) -> bool:
            return [one.upload_id for one in scene.seen if isinstance(one, UploadExpired)].count(
                upload["id"]
            ) == 1

        await eventually(told, seconds=10)
        answer = await mine.call(
            "POST", f"/v1/uploads/{upload['id']}/complete", {"parent_id": tokens.namespace_id, "name": "x"}
        )
        assert answer.code == "upload_not_open"
    assert (await scene.session(kept))["state"] == "open"
    assert await reserved(mine) == 500
    assert (await announce(mine, large))["id"] != parts["id"]


async def test_a_session_that_is_touched_lives_on(scene: Scene) -> None:
    mine = scene.api.of(await scene.api.register())
    content = secrets.token_bytes(2 * PART)
    upload = await announce(mine, content)
    soon = {"$set": {"expires_at": datetime.now(UTC) + timedelta(seconds=2)}}
    await scene.database[UPLOADS].update_one({"_id": upload["id"]}, soon)
    await send_part(mine, upload, content, 1)
    row = await scene.session(upload)
    assert row["expires_at"] > datetime.now(UTC) + timedelta(days=6)
    await scene.rounds("expire")
    assert (await scene.session(upload))["state"] == "open"


async def test_a_session_that_nothing_is_to_be_sent_for_ends_within_the_hour_unless_it_is_completed(
    scene: Scene,
) -> None:
    """Killed before it completes, its device has lost nothing; another one may come later, or never."""
    tokens = await scene.api.register()
    mine, content = scene.api.of(tokens), secrets.token_bytes(500)
    await mine.upload(tokens.namespace_id, "there", content)
    left, unsent = await announce(mine, content), await announce(mine, secrets.token_bytes(500))
    assert (left["entries"][0]["mode"], unsent["entries"][0]["mode"]) == ("stored", "put")
    assert lifetime(left) == timedelta(hours=1)
    assert lifetime(unsent) == timedelta(days=7)

    past = {"$set": {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}}
    await scene.database[UPLOADS].update_one({"_id": left["id"]}, past)
    await scene.until(left, "expired")
    answer = await mine.call("POST", f"/v1/uploads/{left['id']}/complete", at(tokens, "late"))
    assert (answer.status, answer.body["code"]) == (409, "upload_not_open")

    again = await announce(mine, content)
    assert again["id"] != left["id"]
    done = await mine.call("POST", f"/v1/uploads/{again['id']}/complete", at(tokens, "late"))
    assert done.status == 200, done.body


async def test_a_session_that_nothing_was_to_be_sent_for_lives_on_when_its_bytes_have_vanished(
    scene: Scene,
) -> None:
    tokens = await scene.api.register()
    mine, content = scene.api.of(tokens), secrets.token_bytes(500)
    await mine.upload(tokens.namespace_id, "there", content)
    upload = await announce(mine, content)
    stored = (await scene.session(upload))["entries"][0]
    await scene.database[OBJECTS].update_one({"_id": stored["object_id"]}, {"$set": {"state": "doomed"}})
    refused = await mine.call("POST", f"/v1/uploads/{upload['id']}/complete", at(tokens, "other"))
    assert (refused.status, refused.body["code"]) == (409, "object_gone")
    row = await scene.session(upload)
    assert row["entries"][0]["mode"] == "put"
    assert row["expires_at"] > datetime.now(UTC) + timedelta(days=6)


def lifetime(upload: dict[str, Any]) -> timedelta:
    return datetime.fromisoformat(upload["expires_at"]) - datetime.fromisoformat(upload["updated_at"])


def at(tokens: Tokens, name: str) -> dict[str, str]:
    return {"parent_id": tokens.namespace_id, "name": name}


# Quota ----------------------------------------------------------------------------------------


async def test_bytes_that_no_longer_fit_are_kept_and_committed_when_there_is_room_again(
    scene: Scene,
) -> None:
    email = new_email()
    tokens = await scene.api.register(email)
    mine, other = scene.api.of(tokens), scene.api.of(await scene.api.login(email, "desktop"))
    content = secrets.token_bytes(2 * PART)
    upload = await mine.begin(content)
    assert (await announce(other, content))["id"] == upload["id"]
    assert await reserved(mine) == len(content)

    await scene.quota(len(content) - 1)
    target = {"parent_id": tokens.namespace_id, "name": "large"}
    path = f"/v1/uploads/{upload['id']}"
    refused = await mine.call("POST", f"{path}/complete", target)
    assert refused.code == "quota_exceeded"
    shown = (await mine.call("GET", path)).body
    assert (shown["state"], shown["code"]) == ("open", "quota_exceeded")
    await scene.rounds("sweep", "garbage", "expire")
    more = {"content_hash": "ab" * 32, "size": 1}
    assert (await mine.call("POST", "/v1/uploads", more)).code == "quota_exceeded"

    await scene.quota(len(content))
    done = await mine.call("POST", f"{path}/complete", target)
    assert done.status == 200, done.body
    assert await read(mine, done.body["results"][0]["row"]["id"]) == content
    await scene.quota(QUOTA)
    usage = (await mine.call("GET", "/v1/usage")).body
    assert (usage["used_bytes"], usage["reserved_bytes"]) == (len(content), 0)


# Revocation -----------------------------------------------------------------------------------


async def test_a_device_revoked_in_the_middle_gets_no_urls_and_its_own_sessions_are_given_up(
    scene: Scene,
) -> None:
    email = new_email()
    tokens = await scene.api.register(email)
    mine, other = scene.api.of(tokens), scene.api.of(await scene.api.login(email, "desktop"))
    alone, shared = secrets.token_bytes(2 * PART), secrets.token_bytes(2 * PART)
    left, joined = await announce(mine, alone), await announce(mine, shared)
    await send_part(mine, left, alone, 1)
    await send_part(mine, joined, shared, 1)
    assert (await announce(other, shared))["id"] == joined["id"]
    assert (await other.call("DELETE", f"/v1/devices/{tokens.device_id}")).status == 204

    digests = {"parts": {"2": hashlib.sha256(shared[PART:]).hexdigest()}}

    async def refused() -> bool:
        answer = await mine.call("POST", f"/v1/uploads/{joined['id']}/urls", digests)
        return answer.status == 401 and answer.code == "device_revoked"

    await eventually(refused, seconds=8)
    await scene.until(left, "aborted")
    row = await scene.session(left)

    async def gone() -> bool:
        aborted = [one.upload_id for one in scene.seen if isinstance(one, UploadAborted)]
        return await scene.is_gone(row) and aborted.count(left["id"]) == 1

    await eventually(gone, seconds=10)
    await send_part(other, joined, shared, 2)
    target = {"parent_id": tokens.namespace_id, "name": "shared"}
    done = await other.call("POST", f"/v1/uploads/{joined['id']}/complete", target)
    assert done.status == 200, done.body
    assert await read(other, done.body["results"][0]["row"]["id"]) == shared


# Garbage and sweeps ---------------------------------------------------------------------------


async def test_sweeps_and_garbage_take_nothing_of_a_long_upload_nor_of_a_restore(scene: Scene) -> None:
    tokens = await scene.api.register()
    mine = scene.api.of(tokens)
    orphan = f"t/{tokens.namespace_id}/{secrets.token_hex(12)}-0"
    await scene.store.put(orphan, b"nobody's")
    first = secrets.token_bytes(2000)
    old = await mine.upload(tokens.namespace_id, "kept", first)
    newer = await replaced(mine, old, secrets.token_bytes(2000))

    content = secrets.token_bytes(3 * PART)
    upload = await announce(mine, content)
    for number in (1, 2, 3):
        await send_part(mine, upload, content, number)
        await scene.rounds("sweep", "garbage")
    target = {"parent_id": tokens.namespace_id, "name": "long"}
    done = await mine.call("POST", f"/v1/uploads/{upload['id']}/complete", target)
    assert done.status == 200, done.body

    deleted = await mine.call("DELETE", f"/v1/files/{newer['id']}?version_id={newer['version_id']}")
    assert deleted.status == 200, deleted.body
    await scene.rounds("sweep", "garbage")
    back = await mine.call("POST", f"/v1/trash/{newer['id']}/restore")
    assert back.status == 200, back.body
    restored = await mine.call("POST", f"/v1/files/{newer['id']}/restore", {"version_id": old["version_id"]})
    assert restored.status == 200, restored.body
    await scene.rounds("sweep", "garbage")

    assert await read(mine, done.body["results"][0]["row"]["id"]) == content
    assert await read(mine, newer["id"]) == first

    async def swept() -> bool:
        return await scene.store.head(orphan) is None

    await eventually(swept, seconds=30)


async def replaced(api: Api, row: dict[str, Any], content: bytes) -> dict[str, Any]:
    upload = await api.begin(content)
    target = {"node_id": row["id"], "base_version_id": row["version_id"]}
    done = await api.call("POST", f"/v1/uploads/{upload['id']}/complete", target)
    assert done.status == 200, done.body
    return NodeRow.model_validate(done.body["results"][0]["row"]).model_dump()
