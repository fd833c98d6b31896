"""The janitor's jobs against the running stack and real S3."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from libs.contracts.ids import new_id
from libs.contracts.internal import HousedObject
from libs.contracts.keys import PROBE_PREFIX
from libs.mongo.client import Database, open_database
from libs.mongo.names import LEASES, OBJECTS
from libs.mongo.views import Views
from libs.storage.port import ObjectStore
from libs.storage.s3 import S3ObjectStore, open_store
from libs.web.auth import TokenSigner
from libs.web.client import open_client
from services.janitor.service.housekeeping import Housekeeping
from services.janitor.service.jobs import Jobs
from services.janitor.service.schedule import Job, Schedule
from services.janitor.service.verification import Verifier
from services.janitor.settings import Settings
from services.janitor.store import Leases
from tests.support.gateway_client import Api, open_api
from tests.support.stack import Stack
from tests.support.waiting import eventually

PART = 10 * 1024 * 1024
MISSED = {"$set": {"verified": False, "unverified_since": datetime(2026, 1, 1, tzinfo=UTC)}}
"""An object that nobody has verified, as after a crash of everything that should have."""


@dataclass
class World:
    """A janitor's parts, to be run one by one."""

    jobs: Jobs
    store: S3ObjectStore
    database: Database
    housekeeping: Housekeeping
    verifier: Verifier


def settings_of(stack: Stack, **overrides: Any) -> Settings:
    given = {name.removeprefix("LOCKSTEP_").lower(): value for name, value in stack.env.items()}
    return Settings.model_validate({**given, "port": 0, "sweep_grace": 0, "epoch_quiet": 0, **overrides})


async def _open(stack: Stack, exit_stack: AsyncExitStack, **overrides: Any) -> World:
    settings = settings_of(stack, **overrides)
    database = await exit_stack.enter_async_context(open_database(settings))
    store = await exit_stack.enter_async_context(open_store(settings))
    client = await exit_stack.enter_async_context(open_client(TokenSigner(settings), "janitor"))
    housekeeping = Housekeeping(client, metadata_url=settings.metadata_url, upload_url=settings.upload_url)
    verifier = Verifier(store, housekeeping)
    jobs = Jobs(settings, housekeeping, store, Views(database), verifier)
    return World(jobs, store, database, housekeeping, verifier)


@pytest.fixture
async def world(stack: Stack) -> AsyncIterator[World]:
    async with AsyncExitStack() as exit_stack:
        yield await _open(stack, exit_stack)


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    async with open_api(stack.gateway_url) as api:
        yield api


async def keys(world: World) -> set[str]:
    return {item.key async for item in world.store.walk("t/")}


async def multiparts(world: World) -> set[str]:
    return {upload_id async for _, upload_id, _ in world.store.walk_multiparts("t/")}


async def test_an_object_of_parts_is_verified_by_reading_every_byte_after_its_commit(
    api: Api, world: World
) -> None:
    tokens = await api.register()
    content = secrets.token_bytes(PART) + b"and one part more"
    row = await api.of(tokens).upload(tokens.namespace_id, "large.bin", content)
    query = {"namespace_id": tokens.namespace_id, "content_hash": row["content_hash"]}

    async def is_verified() -> bool:
        document = await world.database[OBJECTS].find_one(query)
        return bool(document and document["verified"])

    await eventually(is_verified, 30)


async def test_an_object_whose_event_was_missed_is_found_by_the_regular_look(api: Api, world: World) -> None:
    tokens = await api.register()
    row = await api.of(tokens).upload(tokens.namespace_id, "a.bin", secrets.token_bytes(100))
    query = {"namespace_id": tokens.namespace_id, "content_hash": row["content_hash"]}
    document = await world.database[OBJECTS].find_one(query)
    assert document is not None
    await world.database[OBJECTS].update_one({"_id": document["_id"]}, MISSED)
    await world.jobs.find_unverified()
    work = asyncio.create_task(world.verifier.run())

    async def is_verified() -> bool:
        found = await world.database[OBJECTS].find_one({"_id": document["_id"]})
        return bool(found and found["verified"])

    await eventually(is_verified, 30)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_bytes_that_are_not_what_was_claimed_are_never_verified(api: Api, world: World) -> None:
    tokens = await api.register()
    mine = api.of(tokens)
    await mine.upload(tokens.namespace_id, "a.bin", secrets.token_bytes(100))
    document = await world.database[OBJECTS].find_one({"namespace_id": tokens.namespace_id})
    assert document is not None
    await world.database[OBJECTS].update_one({"_id": document["_id"]}, MISSED)
    await world.store.put(document["key"], secrets.token_bytes(100))
    item = HousedObject(
        id=document["_id"], key=document["key"], size=document["size"], content_hash=document["content_hash"]
    )
    assert await world.verifier.verify(item) is False
    assert await world.verifier.verify(item) is False
    found = await world.database[OBJECTS].find_one({"_id": document["_id"]})
    assert not (found and found.get("verified"))
    versions = await mine.call("GET", f"/v1/files?parent={tokens.namespace_id}")
    assert versions.status == 200


async def test_a_sweep_removes_what_nobody_owns_and_keeps_objects_and_open_sessions(
    api: Api, world: World
) -> None:
    tokens = await api.register()
    mine = api.of(tokens)
    row = await mine.upload(tokens.namespace_id, "kept.bin", b"kept")
    waiting = b"x" * 1000
    asked = {"content_hash": hashlib.sha256(waiting).hexdigest(), "size": len(waiting)}
    session = (await mine.call("POST", "/v1/uploads", asked)).body
    await mine.put(session["entries"][0]["put"], waiting)
    before = set(await multiparts(world))
    large = {"content_hash": "ab" * 32, "size": 3 * PART}
    assert (await mine.call("POST", "/v1/uploads", large)).body["entries"][0]["mode"] == "multipart"
    begun = set(await multiparts(world)) - before
    await world.jobs.sweep()  # what other tests have left
    owned, running = await keys(world), await multiparts(world)
    assert len(begun & set(running)) == 1
    orphan, other = f"t/{new_id()}/{new_id()}", f"elsewhere/{new_id()}"
    await world.store.put(orphan, b"orphan")
    await world.store.put(other, b"not ours")
    lost = await world.store.create_multipart(f"t/{new_id()}/{new_id()}")

    await world.jobs.sweep()

    assert await keys(world) == owned
    assert await multiparts(world) == running
    assert lost not in running
    assert await world.store.head(other) is not None
    target = {"parent_id": tokens.namespace_id, "name": "later.bin"}
    assert (await mine.call("POST", f"/v1/uploads/{session['id']}/complete", target)).status == 200
    assert (await mine.call("GET", f"/v1/files/{row['id']}/download")).status == 200


@pytest.mark.parametrize(
    "overrides", [{"sweep_grace": 3600}, {"epoch_quiet": 10**12}], ids=["young", "new epoch"]
)
async def test_a_sweep_leaves_young_objects_and_all_objects_after_a_new_epoch(
    stack: Stack, overrides: dict[str, float]
) -> None:
    async with AsyncExitStack() as exit_stack:
        world = await _open(stack, exit_stack, **overrides)
        orphan = f"t/{new_id()}/{new_id()}"
        await world.store.put(orphan, b"orphan")
        await world.jobs.sweep()
        assert await world.store.head(orphan) is not None
        await world.store.delete([orphan])


async def test_garbage_whose_grace_time_is_over_is_removed_in_s3_and_then_forgotten(world: World) -> None:
    def doomed(doomed_at: datetime) -> dict[str, Any]:
        return {
            "_id": new_id(), "namespace_id": new_id(), "key": f"t/{new_id()}/{new_id()}", "size": 7,
            "content_hash": "cd" * 32, "state": "doomed", "verified": True, "doomed_at": doomed_at,
        }  # fmt: skip

    old, young = doomed(datetime(2026, 1, 1, tzinfo=UTC)), doomed(datetime.now(UTC))
    await world.database[OBJECTS].insert_many([old, young])
    for document in (old, young):
        await world.store.put(document["key"], b"garbage")
    await world.jobs.collect_garbage()
    assert await world.store.head(old["key"]) is None
    assert await world.database[OBJECTS].find_one({"_id": old["_id"]}) is None
    assert await world.store.head(young["key"]) is not None
    assert await world.database[OBJECTS].find_one({"_id": young["_id"]}) is not None


async def test_garbage_that_s3_refuses_to_delete_stays_in_the_queue_and_keeps_nothing_else(
    stack: Stack, world: World
) -> None:
    documents = [
        {
            "_id": new_id(), "namespace_id": new_id(), "key": f"t/{new_id()}/{new_id()}", "size": 7,
            "content_hash": "cd" * 32, "state": "doomed", "verified": True,
            "doomed_at": datetime(2026, 1, 1, 0, number, tzinfo=UTC),
        }
        for number in range(20)
    ]  # fmt: skip
    await world.database[OBJECTS].insert_many(documents)
    for document in documents:
        await world.store.put(str(document["key"]), b"garbage")
    locked = str(documents[3]["key"])

    class Locking:
        """S3 that does not let go of one object."""

        locks = True

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def delete_many(self, keys: Sequence[str]) -> list[str]:
            kept = [key for key in keys if key == locked and self.locks]
            return kept + await world.store.delete_many([key for key in keys if key not in kept])

    store = Locking()
    jobs = Jobs(
        settings_of(stack),
        world.housekeeping,
        cast("ObjectStore", store),
        Views(world.database),
        world.verifier,
    )
    await jobs.collect_garbage()
    ids = {"$in": [document["_id"] for document in documents]}
    assert [row["key"] async for row in world.database[OBJECTS].find({"_id": ids})] == [locked]
    assert {key for key in await keys(world) if key in {doc["key"] for doc in documents}} == {locked}

    store.locks = False
    await jobs.collect_garbage()
    assert await world.database[OBJECTS].count_documents({"_id": ids}) == 0
    assert await world.store.head(locked) is None


async def test_all_jobs_end_well_and_again_when_repeated(stack: Stack, world: World) -> None:
    jobs = world.jobs
    for _ in range(2):
        for run in (jobs.expire, jobs.redrive, jobs.purge, jobs.find_unverified, jobs.count_dead_letters):
            await run()
    async with open_api(stack.url("janitor")) as janitor:

        async def all_ran() -> bool:
            metrics = (await janitor.call("GET", "/metrics")).body.decode()
            return all(
                f'lockstep_janitor_runs_total{{job="{job}",result="done"}}' in metrics
                for job in ("expire", "redrive", "verify", "garbage", "sweep", "purge", "dead letters")
            )

        await eventually(all_ran, 60)
        metrics = (await janitor.call("GET", "/metrics")).body.decode()
        assert 'lockstep_dead_letters{service="metadata"} 0.0' in metrics


# Leases ------------------------------------------------------------------------------------


async def test_of_many_janitors_one_has_the_lease(world: World) -> None:
    job = f"job {new_id()}"
    owners = [Leases(world.database, new_id()) for _ in range(8)]
    taken = await asyncio.gather(*(owner.take(job, 60) for owner in owners))
    assert taken.count(True) == 1
    holder = owners[taken.index(True)]
    assert await holder.take(job, 60)
    await holder.release_all()
    other = owners[taken.index(False)]
    assert await other.take(job, 0)
    assert await holder.take(job, 60)
    await world.database[LEASES].delete_one({"_id": job})


async def test_a_job_runs_in_one_janitor_only_and_a_failure_is_told(world: World) -> None:
    runs = []
    name = f"job {new_id()}"

    async def run() -> None:
        runs.append(1)

    async def fail() -> None:
        raise RuntimeError("broken")

    one, other = (Schedule(Leases(world.database, new_id()), 60) for _ in range(2))
    job = Job(name, 60, run)
    assert await one.once(job)
    await other.once(job)
    assert len(runs) == 1
    assert await one.once(job)
    assert len(runs) == 2
    assert not await one.once(Job(name, 60, fail))
    await world.database[LEASES].delete_one({"_id": name})


@pytest.mark.parametrize(("grace", "kept"), [(0, False), (3600, True)], ids=["old", "young"])
async def test_what_a_look_at_s3_left_behind_is_swept_whatever_the_epoch(
    stack: Stack, grace: float, kept: bool
) -> None:
    async with AsyncExitStack() as exit_stack:
        world = await _open(stack, exit_stack, sweep_grace=grace, epoch_quiet=10**12)
        key = f"{PROBE_PREFIX}{new_id()}"
        await world.store.put(key, b"left")
        upload_id = await world.store.create_multipart(key)
        await world.jobs.sweep()
        assert (await world.store.head(key) is not None) is kept
        assert (await world.store.list_parts(key, upload_id) is not None) is kept
        await world.store.delete([key])
        await world.store.abort_multipart(key, upload_id)
