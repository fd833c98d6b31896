"""Contents put together where S3 copies what did not change: of the right object, and nothing else."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from libs.contracts import chunks
from libs.contracts.errors import ConflictError, LockstepError, UnavailableError
from libs.contracts.keys import manifest_key
from libs.contracts.recipe import Copy, Literal, Range, Recipe, recipe_of
from libs.mongo.names import OBJECTS, UPLOADS, VERSIONS
from libs.storage.port import ObjectStore, PartToJoin, Slice
from services.upload.domain.session import Session
from services.upload.service.assembling import PART
from services.upload.service.trust import Trust
from tests.integration.test_storage_probe import EVERYTHING
from tests.integration.test_upload_delta import Made, made, manifest_of, sent, version_of
from tests.integration.test_upload_races import Process, complete, process
from tests.support.upload_world import Account, Json, World, sha256

MIB = 1024 * 1024
BASE = os.urandom(5 * PART + 12345)


@pytest.fixture
def world(uploads: World) -> World:
    return uploads


@dataclass
class Noting:
    """The store of a process that notes which parts it copied and sent; `meanwhile` runs before each copy."""

    store: ObjectStore
    meanwhile: Callable[[], Awaitable[None]] | None = None
    copied: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    read_of: list[tuple[str, str | None]] = field(default_factory=list)
    """Key and required ETag of each reading."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def read(
        self, key: str, offset: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        self.read_of.append((key, etag))
        return self.store.read(key, offset, length, etag=etag)

    async def copy_part(self, key: str, upload_id: str, number: int, source: Slice) -> PartToJoin:
        if self.meanwhile is not None:
            await self.meanwhile()
        self.copied.append(number)
        return await self.store.copy_part(key, upload_id, number, source)

    async def put_part(
        self, key: str, upload_id: str, number: int, body: bytes, *, copying: bool = False
    ) -> PartToJoin:
        self.sent.append(number)
        return await self.store.put_part(key, upload_id, number, body, copying=copying)


async def copier(world: World, store: object) -> Process:
    """A process that knows that its S3 copies."""

    async def look() -> Any:
        return EVERYTHING

    trust = Trust(told=True)
    await asyncio.gather(trust.first_look(), trust.find_out(look))
    return process(world, store, trust, commit_wait=30)


@dataclass(frozen=True)
class Case:
    """A delta that has arrived, and the process that is to put the content together."""

    account: Account
    upload: Json
    session: Session
    other: Process
    store: Noting
    base_key: str

    async def complete(self) -> Any:
        return await complete(self.other, self.session, self.account)


async def arrived(world: World, wanted: Made, base: bytes = BASE) -> Case:
    account = await world.account()
    upload = await sent(world, account, wanted, await version_of(world, account, base))
    store = Noting(cast("ObjectStore", world.store))
    other = await copier(world, store)
    row = await world.database[OBJECTS].find_one({"namespace_id": account.namespace_id})
    assert row is not None
    return Case(account, upload, await other.session(upload), other, store, row["key"])


async def read(world: World, key: str) -> bytes:
    return b"".join([piece async for piece in world.store.read(key)])


async def nothing_is_left(world: World, case: Case) -> None:
    """Neither the object nor parts of it are in S3, and the whole is asked for."""
    prefix = case.session.key_prefix
    assert [item.key async for item in world.store.walk(prefix)] == []
    assert [one async for one in world.store.walk_multiparts(prefix)] == []
    shown = (await world.call(case.account, "GET", f"/uploads/{case.upload['id']}")).body
    assert (shown["state"], shown["entries"][0]["mode"]) == ("open", "multipart")
    assert world.tree.asked == []


def in_place(at: int = 2 * PART + 77) -> Made:
    new = b"something else"
    content = BASE[:at] + new + BASE[at + len(new) :]
    return made(content, Recipe((Copy(0, at), Literal(14), Copy(at + 14, len(BASE) - at - 14))))


def in_front() -> Made:
    return made(b"in front" * 125 + BASE, Recipe((Literal(1000), Copy(0, len(BASE)))))


async def test_of_an_edit_in_place_only_the_part_it_lies_in_is_sent(world: World) -> None:
    wanted = in_place()
    case = await arrived(world, wanted)

    base = await world.store.head(case.base_key)
    assert base is not None

    await case.complete()
    await world.until_state(case.account, case.upload, "committed")

    of_base = [etag for key, etag in case.store.read_of if key == case.base_key]
    assert of_base == [base.etag], "what is hashed and what is copied are one object"
    assert (sorted(case.store.copied), case.store.sent) == ([1, 2, 4, 5, 6], [3])
    made_of = world.tree.asked[0].entries[0].object
    assert not made_of.verified, "nobody has hashed what S3 wrote by itself"
    key = manifest_key(case.account.namespace_id, made_of.id)
    assert chunks.decode([await read(world, key)]) == manifest_of(wanted.content)
    await world.store.delete([case.base_key])
    assert await read(world, made_of.key) == wanted.content, "it stands without its base"
    held = await world.store.head(made_of.key)
    assert held is not None
    assert held.copied == 0, "S3 has cut it where the base was cut"


async def test_behind_an_insertion_all_is_copied_from_other_places_and_that_is_noted(world: World) -> None:
    wanted = in_front()
    case = await arrived(world, wanted)

    await case.complete()
    await world.until_state(case.account, case.upload, "committed")

    assert case.store.sent == [1]
    key = world.tree.asked[0].entries[0].object.key
    assert await read(world, key) == wanted.content
    held = await world.store.head(key)
    assert held is not None
    assert held.copied == 1


async def test_generations_of_edits_give_the_content_each_time(world: World) -> None:
    """The base of each but the first is itself an object that was made of copies."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng, content = random.Random(seed), BASE
    account = await world.account()
    version = await version_of(world, account, content)
    for _ in range(4):
        before, content = content, edited(rng, content)
        wanted = made(content, recipe_of(manifest_of(before), manifest_of(content)))
        upload = await sent(world, account, wanted, version)
        store = Noting(cast("ObjectStore", world.store))
        other = await copier(world, store)
        await complete(other, await other.session(upload), account)
        await world.until_state(account, upload, "committed")
        (event,) = [event for event in world.tree.asked if event.upload_id == upload["id"]]
        assert store.copied
        assert await read(world, event.entries[0].object.key) == content
        version = await version_at(world, account, event.entries[0].object.key, content)


def edited(rng: random.Random, content: bytes) -> bytes:
    result = bytearray(content)
    for _ in range(3):
        at = rng.randrange(len(result))
        result[at : at + rng.randrange(3000)] = rng.randbytes(rng.randrange(3000))
    return bytes(result)


async def version_at(world: World, account: Account, key: str, content: bytes) -> str:
    """A committed version whose bytes are where they are."""
    version = await version_of(world, account, b"")
    row = await world.database[VERSIONS].find_one({"_id": version})
    assert row is not None
    now = {"key": key, "size": len(content), "content_hash": sha256(content)}
    await world.database[OBJECTS].update_one({"_id": row["object_id"]}, {"$set": now})
    await world.database[VERSIONS].update_one({"_id": version}, {"$set": {"size": len(content)}})
    return version


# What happens meanwhile --------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["overwritten", "deleted", "overwritten before"])
async def test_a_base_that_is_another_now_gives_nothing_even_when_its_size_is_the_same(
    world: World, what: str
) -> None:
    case = await arrived(world, in_place())

    async def happens() -> None:
        case.store.meanwhile = None
        if what == "deleted":
            await world.store.delete([case.base_key])
        else:
            await world.store.put(case.base_key, bytes(len(BASE)))

    if what == "overwritten before":
        await happens()
    case.store.meanwhile = happens

    with pytest.raises(ConflictError) as refused:
        await case.complete()

    assert refused.value.code == "delta_refused"
    await nothing_is_left(world, case)


async def test_a_base_of_another_size_gives_nothing(world: World) -> None:
    case = await arrived(world, in_place())
    await world.store.put(case.base_key, BASE + b"x")
    with pytest.raises(ConflictError):
        await case.complete()
    await nothing_is_left(world, case)


@pytest.mark.parametrize("lie", ["other literals", "other place"])
async def test_copies_do_not_make_a_lie_an_object(world: World, lie: str) -> None:
    honest = in_place()
    at = 2 * PART + 77
    if lie == "other literals":
        ops = (Copy(0, at), Literal(14), Copy(at + 14, len(BASE) - at - 14))
        wanted = made(honest.content, Recipe(ops), literals=BASE)
    else:
        wanted = made(honest.content, Recipe((Copy(1, len(BASE) - 1), Literal(1))))
    case = await arrived(world, wanted)

    with pytest.raises(ConflictError) as refused:
        await case.complete()

    assert refused.value.code == "delta_refused"
    assert case.store.copied, "it had begun"
    await nothing_is_left(world, case)


async def test_what_s3_refuses_to_copy_is_sent_when_it_is_asked_for_again(world: World) -> None:
    case = await arrived(world, in_place())

    async def refused() -> None:
        raise LockstepError("S3 refused the request: InvalidRequest")

    case.store.meanwhile = refused
    with pytest.raises(UnavailableError):
        await case.complete()
    assert [one async for one in world.store.walk_multiparts(case.session.key_prefix)] == []

    await complete(case.other, await case.other.session(case.upload), case.account)

    await world.until_state(case.account, case.upload, "committed")
    assert await read(world, world.tree.asked[0].entries[0].object.key) == in_place().content
    assert (case.store.copied, case.store.sent[-6:]) == ([], [1, 2, 3, 4, 5, 6])


async def test_who_finds_the_multipart_upload_gone_leaves_it_to_the_other_process(world: World) -> None:
    case = await arrived(world, in_place())

    async def another_begins_anew() -> None:
        case.store.meanwhile = None
        async for key, upload_id, _ in world.store.walk_multiparts(case.session.key_prefix):
            await world.store.abort_multipart(key, upload_id)

    case.store.meanwhile = another_begins_anew
    with pytest.raises(UnavailableError):
        await case.complete()

    assert await world.state(case.account, case.upload) == "open"
    assert (await world.complete(case.account, case.upload)).status == 200
    assert await read(world, world.tree.asked[0].entries[0].object.key) == in_place().content


async def test_what_a_process_left_half_copied_is_made_anew(world: World) -> None:
    case = await arrived(world, in_place())
    held = await world.store.head(case.base_key)
    assert held is not None
    assert held.etag is not None
    key = case.session.entries[0].key
    left = await world.store.create_multipart(key, copied=0)
    await world.store.copy_part(key, left, 1, Slice(case.base_key, held.etag, Range(5, PART)))
    await world.database[UPLOADS].update_one({"_id": case.upload["id"]}, {"$set": {"s3_upload_id": left}})

    await complete(case.other, await case.other.session(case.upload), case.account)

    await world.until_state(case.account, case.upload, "committed")
    assert await read(world, key) == in_place().content
    assert await world.store.list_parts(key, left) is None


async def test_the_service_itself_has_s3_copy(world: World) -> None:
    wanted = in_front()
    case = await arrived(world, wanted)
    assert (await world.complete(case.account, case.upload)).status == 200
    held = await world.store.head(world.tree.asked[0].entries[0].object.key)
    assert held is not None
    assert held.copied == 1, "S3 was found to copy"
