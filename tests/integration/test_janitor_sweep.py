"""The sweep on a real stack: damage made by hand in MongoDB and S3 is found, and mended without loss."""

import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from libs.contracts.errors import NotFoundError
from libs.contracts.ids import new_id
from libs.contracts.keys import manifest_key
from libs.mongo.names import NODES, OBJECTS, UPLOAD_PARTS, USAGE, VERSIONS
from libs.mongo.views import Views
from libs.storage.owner import MARK, owner_of
from libs.storage.port import StoredObject
from tests.support.backends import Backends
from tests.support.gateway_client import Api
from tests.support.janitor_world import JanitorWorld, janitor_world
from tests.support.stack import Stack, running_stack

Json = dict[str, Any]


@pytest.fixture(scope="module")
def quiet(backends: Backends) -> Iterator[Stack]:
    """A stack of these tests alone, whose janitor does nothing."""
    now = {"LOCKSTEP_GARBAGE_AGE_SECONDS": "0", "LOCKSTEP_DOOM_GRACE_SECONDS": "0"}
    with running_stack(backends, now) as stack:
        stack.stop("janitor")
        yield stack


@pytest.fixture
async def world(quiet: Stack) -> AsyncIterator[JanitorWorld]:
    async with janitor_world(quiet) as world:
        yield world


class Home:
    """An account with some files."""

    def __init__(self, world: JanitorWorld, api: Api, namespace_id: str) -> None:
        self.world = world
        self.api = api
        self.namespace_id = namespace_id

    async def file(self, name: str, *contents: bytes, parent_id: str | None = None) -> Json:
        """Commit a file with these versions; return its row."""
        first = secrets.token_bytes(20)
        row = await self.api.upload(parent_id or self.namespace_id, name, contents[0] if contents else first)
        for content in contents[1:]:
            session = await self.api.begin(content)
            target = {"node_id": row["id"], "base_version_id": row["version_id"]}
            answer = await self.api.call("POST", f"/v1/uploads/{session['id']}/complete", target)
            assert answer.status == 200, answer
            row = answer.body["results"][0]["row"]
        return row

    async def now(self, row: Json) -> Json:
        reply = await self.api.call("GET", f"/v1/files/{row['id']}")
        assert reply.status == 200, reply
        return dict(reply.body)

    async def versions(self, row: Json) -> list[Json]:
        return list((await self.api.call("GET", f"/v1/files/{row['id']}/versions")).body["items"])

    async def object_of(self, version_id: str) -> Json:
        version = await self.world.database[VERSIONS].find_one({"_id": version_id})
        assert version is not None
        stored = await self.world.database[OBJECTS].find_one({"_id": version["object_id"]})
        assert stored is not None
        return stored


@pytest.fixture
async def home(world: JanitorWorld) -> Home:
    """Enough files that one damaged one does not look like an emptied bucket."""
    tokens = await world.api.register()
    home = Home(world, world.api.of(tokens), tokens.namespace_id)
    for number in range(6):
        await home.file(f"some {number}")
    return home


async def found(world: JanitorWorld, **changed: Any) -> dict[str, int]:
    """What a sweep reports, and that it changed nothing."""
    report = await world.sweep(**changed)
    assert report.halted is None
    assert not any(report.repaired.values())
    return dict(report.found)


async def mended(world: JanitorWorld) -> dict[str, int]:
    """What a sweep repairs; after it there is nothing left to find."""
    report = await world.sweep(repair=True)
    assert report.found == report.repaired
    assert await found(world) == {}
    return dict(report.found)


async def test_where_nothing_is_damaged_nothing_is_found(world: JanitorWorld, home: Home) -> None:
    folder = await home.api.make_folder(home.namespace_id, "folder")
    await home.file("f", b"one", b"two", parent_id=folder["id"])
    await home.api.begin(secrets.token_bytes(100))
    report = await world.sweep()
    assert report.clean, report.as_text()
    assert report.seen["objects"] >= 8
    assert report.seen["nodes"] >= 8


async def test_objects_manifests_and_multiparts_that_nobody_owns_are_removed_and_others_kept(
    world: JanitorWorld, home: Home
) -> None:
    row = await home.file("f")
    stored = await home.object_of(row["version_id"])
    kept = manifest_key(home.namespace_id, stored["_id"])
    lost = [f"t/{new_id()}/{new_id()}-0", manifest_key(home.namespace_id, new_id()), "m/odd"]
    for key in (kept, *lost):
        await world.store.put(key, b"x")
    await world.store.create_multipart(f"t/{new_id()}/{new_id()}-0")
    expected = {"unowned_object": 1, "unowned_manifest": 2, "unowned_multipart": 1}
    assert await found(world) == expected
    assert await found(world, sweep_grace=3600) == {}
    after_epoch = await world.sweep(repair=True, epoch_quiet=10**12)
    assert dict(after_epoch.repaired) | {"unowned_multipart": 1} == dict.fromkeys(expected, 0) | {
        "unowned_multipart": 1
    }
    report = await world.sweep(repair=True)
    assert dict(report.found) == {"unowned_object": 1, "unowned_manifest": 2}
    assert [await world.store.head(key) for key in lost] == [None, None, None]
    assert await world.store.head(kept) is not None
    assert await found(world) == {}


@pytest.mark.parametrize("damage", ["gone", "shorter"])
async def test_a_version_whose_bytes_s3_has_not_is_marked_corrupt_and_the_file_shows_the_last_good_one(
    world: JanitorWorld, home: Home, damage: str
) -> None:
    row = await home.file("f", b"good", b"to be lost")
    key = (await home.object_of(row["version_id"]))["key"]
    if damage == "gone":
        await world.store.delete([key])
    else:
        await world.store.put(key, b"to be")
    assert await found(world) == {"bytes_missing": 1}
    assert (await home.now(row))["version_id"] == row["version_id"]
    assert await mended(world) == {"bytes_missing": 1}
    now = await home.now(row)
    assert (now["size"], now["damaged"]) == (4, [row["content_hash"]])
    assert [item["corrupt"] for item in await home.versions(row)] == [True, False]
    again = await home.api.begin(b"to be lost")
    assert again["entries"][0]["mode"] == "put"


async def test_what_is_there_at_the_second_look_was_never_missing(world: JanitorWorld, home: Home) -> None:
    row = await home.file("f")
    key = (await home.object_of(row["version_id"]))["key"]

    class Flickering:
        """S3 that lists less than it has, and denies it once."""

        asked = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def walk(self, prefix: str) -> AsyncIterator[StoredObject]:
            async for item in world.store.walk(prefix):
                if item.key != key:
                    yield item

        async def head(self, asked: str) -> StoredObject | None:
            self.asked += asked == key
            return None if self.asked == 1 else await world.store.head(asked)

    store = Flickering()
    report = await world.sweep(repair=True, store=store)
    assert report.clean, report.as_text()
    assert store.asked == 2


async def test_a_bucket_of_another_deployment_is_not_cleaned(world: JanitorWorld) -> None:
    """What this deployment does not know may be all that the other one has."""
    stray = f"t/{new_id()}/{new_id()}-0"
    await world.store.put(stray, b"theirs")
    mark = await owner_of(world.store)
    assert mark == await Views(world.database).deployment(), "the services marked it when they started"
    try:
        await world.store.put(MARK, b"another")
        report = await world.sweep(repair=True)
    finally:
        await world.store.put(MARK, (mark or "").encode())
    assert report.halted is not None
    assert "belongs to deployment another" in report.halted
    assert await world.store.head(stray) is not None
    assert (await world.sweep(repair=True)).repaired["unowned_object"] >= 1


@pytest.mark.parametrize("holds", ["nothing", "something else"])
async def test_another_bucket_halts_the_sweep_before_anything_is_marked_or_removed(
    world: JanitorWorld, home: Home, holds: str
) -> None:
    row = await home.file("f", b"one", b"two")

    class Elsewhere:
        """The listing and the objects of another bucket."""

        removed: tuple[str, ...] = ()

        def read(self, _: str) -> AsyncIterator[bytes]:
            raise NotFoundError

        async def walk(self, prefix: str) -> AsyncIterator[StoredObject]:
            if holds == "something else" and prefix == "t/":
                some = await home.object_of(row["version_id"])
                yield StoredObject(f"t/{new_id()}/{new_id()}-0", 3, some["created_at"])

        async def walk_multiparts(self, _: str) -> AsyncIterator[tuple[str, str, Any]]:
            return
            yield

        async def head(self, _: str) -> None:
            return None

        async def delete(self, keys: Any) -> None:
            self.removed = (*self.removed, *keys)

        async def delete_many(self, keys: Any) -> list[str]:
            self.removed = (*self.removed, *keys)
            return []

    store = Elsewhere()
    report = await world.sweep(repair=True, store=store)
    assert report.halted is not None
    assert "right bucket" in report.halted
    assert not report.found
    assert store.removed == ()
    assert (await home.now(row))["version_id"] == row["version_id"]
    assert await world.database[VERSIONS].count_documents({"node_id": row["id"], "corrupt": True}) == 0


async def test_a_file_whose_version_is_not_there_shows_the_last_good_one(
    world: JanitorWorld, home: Home
) -> None:
    row = await home.file("f", b"good", b"lost")
    await world.database[VERSIONS].delete_one({"_id": row["version_id"]})
    assert await found(world) == {"node_without_version": 1, "object_without_version": 1}
    assert await mended(world) == {"node_without_version": 1, "object_without_version": 1}
    now = await home.now(row)
    assert (now["size"], now["damaged"], now["seq"] > row["seq"]) == (4, [row["content_hash"]], True)


async def test_a_file_without_any_version_is_reported_and_left_for_a_device_to_send(
    world: JanitorWorld, home: Home
) -> None:
    row = await home.file("f", b"only")
    await world.database[VERSIONS].delete_one({"_id": row["version_id"]})
    report = await world.sweep(repair=True)
    assert report.found["node_without_version"] == 1
    assert report.repaired["node_without_version"] == 0
    assert await home.now(row) == row
    session = await home.api.begin(b"another")
    target = {"node_id": row["id"], "base_version_id": row["version_id"]}
    answer = await home.api.call("POST", f"/v1/uploads/{session['id']}/complete", target)
    assert answer.status == 200
    assert await found(world) == {}


async def test_a_node_whose_folder_is_not_there_is_hung_into_the_root(
    world: JanitorWorld, home: Home
) -> None:
    folder = await home.api.make_folder(home.namespace_id, "folder")
    row = await home.file("some 1", parent_id=folder["id"])
    await world.database[NODES].delete_one({"_id": folder["id"]})
    assert await found(world) == {"node_without_parent": 1}
    assert await mended(world) == {"node_without_parent": 1}
    now = await home.now(row)
    assert (now["parent_id"], now["name"]) == (home.namespace_id, "some 1 (restored)")


async def test_a_version_whose_object_has_no_document_is_marked_corrupt(
    world: JanitorWorld, home: Home
) -> None:
    row = await home.file("f", b"good", b"lost")
    stored = await home.object_of(row["version_id"])
    await world.database[OBJECTS].delete_one({"_id": stored["_id"]})
    kinds = set(await found(world))
    assert kinds == {"version_without_object", "unowned_object", "usage_differs"}
    await mended(world)
    assert (await home.now(row))["size"] == 4


async def test_a_doomed_object_that_a_version_has_is_revived(world: JanitorWorld, home: Home) -> None:
    row = await home.file("f", b"doomed")
    stored = await home.object_of(row["version_id"])
    doomed = {"$set": {"state": "doomed", "doomed_at": stored["created_at"]}}
    await world.database[OBJECTS].update_one({"_id": stored["_id"]}, doomed)
    assert set(await found(world)) == {"version_of_doomed_object", "usage_differs"}
    await mended(world)
    await world.jobs.collect_garbage()
    assert await world.store.head(stored["key"]) is not None
    assert (await home.api.call("GET", f"/v1/files/{row['id']}/download")).status == 200


async def test_an_object_without_a_version_becomes_garbage(world: JanitorWorld, home: Home) -> None:
    row = await home.file("f", b"one", b"two")
    old = (await home.versions(row))[1]["id"]
    stored = await home.object_of(old)
    await world.store.put(manifest_key(home.namespace_id, stored["_id"]), b"its manifest")
    await world.database[VERSIONS].delete_one({"_id": old})
    assert await mended(world) == {"object_without_version": 1}
    await world.jobs.collect_garbage()
    assert await world.store.head(stored["key"]) is None
    assert await world.store.head(manifest_key(home.namespace_id, stored["_id"])) is None
    assert await world.database[OBJECTS].find_one({"_id": stored["_id"]}) is None
    assert await found(world) == {}


async def test_part_rows_without_a_session_and_a_wrong_sum_are_put_right(
    world: JanitorWorld, home: Home
) -> None:
    upload_id = new_id()
    rows = [{"_id": f"{upload_id}:{number}", "upload_id": upload_id, "number": number} for number in (1, 2)]
    await world.database[UPLOAD_PARTS].insert_many(rows)
    before = await world.database[USAGE].find_one({"_id": home.namespace_id})
    await world.database[USAGE].update_one(
        {"_id": home.namespace_id}, {"$inc": {"used_bytes": 5, "files": 1}}
    )
    assert await found(world) == {"parts_without_session": 1, "usage_differs": 1}
    await mended(world)
    assert await world.database[USAGE].find_one({"_id": home.namespace_id}) == before


async def test_a_version_without_a_node_is_reported_only(world: JanitorWorld, home: Home) -> None:
    row = await home.file("f", b"one")
    node = await world.database[NODES].find_one({"_id": row["id"]})
    await world.database[NODES].delete_one({"_id": row["id"]})
    report = await world.sweep(repair=True)
    assert (report.found["version_without_node"], report.repaired["version_without_node"]) == (1, 0)
    assert await world.database[VERSIONS].find_one({"_id": row["version_id"]}) is not None
    await world.database[NODES].insert_one(node or {})
    await world.sweep(repair=True)
    assert await found(world) == {}


def command(stack: Stack, *arguments: str) -> tuple[int, str]:
    at_once = dict.fromkeys(("LOCKSTEP_SWEEP_GRACE", "LOCKSTEP_EPOCH_QUIET", "LOCKSTEP_SWEEP_RECHECK"), "0")
    done = subprocess.run(
        [sys.executable, "-m", "services.janitor", "sweep", *arguments],
        env={**stack.env, **at_once}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


async def test_the_command_reports_repairs_when_asked_and_its_exit_code_says_what_it_found(
    world: JanitorWorld, home: Home
) -> None:
    orphan = f"t/{new_id()}/{new_id()}-0"
    await world.store.put(orphan, b"orphan")
    code, text = command(world.stack)
    assert code == 1
    assert f"unowned_object {orphan}" in text
    code, text = command(world.stack, "--json")
    assert (code, json.loads(text)["found"]) == (1, {"unowned_object": 1})
    assert await world.store.head(orphan) is not None
    code, text = command(world.stack, "--json", "--repair")
    assert (code, json.loads(text)["repaired"]) == (1, {"unowned_object": 1})
    assert await world.store.head(orphan) is None
    code, text = command(world.stack)
    assert (code, text.splitlines()[-1]) == (0, "clean")
    assert (await home.api.call("GET", "/v1/usage")).body["files"] == 6
