"""Contents that the server puts together from a version it has and what is new."""

import io
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from libs.contracts import chunks
from libs.contracts.ids import new_id
from libs.contracts.keys import manifest_key
from libs.contracts.recipe import Copy, Literal, Recipe, recipe_of
from libs.delta import package
from libs.delta.content import ContentReader
from libs.mongo.names import NODES, OBJECTS, UPLOADS, VERSIONS
from tests.support.upload_world import Account, Answer, Json, World, accept, refuse, sha256

MIB = 1024 * 1024
BASE = os.urandom(12 * MIB)


@pytest.fixture
def world(uploads: World) -> World:
    return uploads


def manifest_of(content: bytes) -> chunks.Manifest:
    reader = ContentReader(len(content))
    reader.update(content)
    manifest = reader.manifest()
    assert manifest is not None
    return manifest


@dataclass(frozen=True)
class Made:
    """A delta object and what it is to give."""

    content: bytes
    delta: bytes

    def announced(self, base: str) -> Json:
        offer = {"base_version_id": base, "size": len(self.delta), "sha256": sha256(self.delta)}
        return {"content_hash": sha256(self.content), "size": len(self.content), "delta": offer}


def made(content: bytes, recipe: Recipe | None = None, literals: bytes | None = None) -> Made:
    """What an honest client makes, or one that says something else."""
    recipe = recipe or recipe_of(manifest_of(BASE), manifest_of(content))
    source = content if literals is None else literals
    out = io.BytesIO()
    package.write(recipe, lambda at, count: source[at : at + count], out)
    return Made(content, out.getvalue())


def edited(at: int = 6 * MIB, new: bytes = b"something else") -> bytes:
    return BASE[:at] + new + BASE[at + len(new) :]


async def version_of(world: World, account: Account, content: bytes, **changes: Any) -> str:
    """A committed version as the tree's owner would write it."""
    object_id = await world.stored_object(account, content)
    if changes.get("doomed"):
        await world.database[OBJECTS].update_one({"_id": object_id}, {"$set": {"state": "doomed"}})
    node_id, version_id = new_id(), new_id()
    await world.database[NODES].insert_one({"_id": node_id, "namespace_id": account.namespace_id})
    row = {"_id": version_id, "node_id": node_id, "object_id": object_id, "size": len(content)}
    row["content_hash"] = sha256(content)
    await world.database[VERSIONS].insert_one({**row, "corrupt": changes.get("corrupt", False)})
    return version_id


async def opened(world: World, account: Account, made: Made, base: str, *, device: int = 0) -> Json:
    answer = await world.call(account, "POST", "/uploads", made.announced(base), device=device)
    assert answer.status == 201, answer
    return answer.body


async def sent(world: World, account: Account, made: Made, base: str) -> Json:
    upload = await opened(world, account, made, base)
    assert upload["entries"][0]["mode"] == "delta"
    await send_delta(world, account, upload, made.delta)
    return upload


async def send_delta(
    world: World, account: Account, upload: Json, delta: bytes, numbers: Iterable[int] = (), device: int = 0
) -> None:
    """Send a delta object as its session wants it: in one request, or in parts, all or these."""
    put = upload["entries"][0].get("put")
    if put is not None:
        status, text = await world.send(put, delta)
        assert status == 200, text
        return
    size = upload["part_size"]
    chosen = list(numbers) or range(1, upload["parts_total"] + 1)
    parts = {str(n): delta[(n - 1) * size : n * size] for n in chosen}
    digests = {"parts": {n: sha256(part) for n, part in parts.items()}, "delta": sha256(delta)}
    path = f"/uploads/{upload['id']}"
    urls = await world.call(account, "POST", f"{path}/urls", digests, device=device)
    assert urls.status == 200, urls
    for number, part in parts.items():
        status, text = await world.send(urls.body["items"][number], part)
        assert status == 200, text
    assert (await world.call(account, "POST", f"{path}/parts", digests, device=device)).status == 200


async def content_of(world: World, upload: Json) -> bytes:
    (event,) = [event for event in world.tree.asked if event.upload_id == upload["id"]]
    return b"".join([piece async for piece in world.store.read(event.entries[0].object.key)])


async def everything(world: World, account: Account) -> list[str]:
    return [item.key async for item in world.store.walk(f"t/{account.namespace_id}/")]


@pytest.mark.parametrize(
    ("change", "copied"),
    [
        (edited, True),
        (lambda: b"in front" * 100 + BASE, True),
        (lambda: BASE + os.urandom(MIB), True),
        (lambda: BASE[: 5 * MIB], False),
        (lambda: BASE[8 * MIB :] + BASE[2 * MIB : 8 * MIB] + BASE, True),
        (lambda: BASE[:300_000], False),
    ],
    ids=["edit", "insert", "append", "cut", "moved and longer", "one part"],
)
async def test_a_content_is_put_together_and_committed_and_what_s3_has_copied_into_it_is_to_be_verified(
    world: World, change: Callable[[], bytes], *, copied: bool
) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    wanted = made(change())
    upload = await sent(world, account, wanted, base)

    answer = await world.complete(account, upload)

    assert answer.status == 200, answer
    assert len(wanted.delta) < len(wanted.content) / 2
    assert await content_of(world, upload) == wanted.content
    (event,) = world.tree.asked
    assert event.entries[0].object.verified is not copied
    told = event.entries[0].base
    assert told is not None
    assert (told.version_id, told.content_hash) == (base, sha256(BASE))
    key = manifest_key(account.namespace_id, event.entries[0].object.id)
    kept = chunks.decode([piece async for piece in world.store.read(key)])
    assert kept == manifest_of(wanted.content)
    assert len(await everything(world, account)) == 2, "base and content; the delta object is gone"


async def test_random_edits_give_the_content(world: World) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    account = await world.account()
    base = await version_of(world, account, BASE)
    content = bytearray(BASE)
    for _ in range(60):
        at, count = rng.randrange(len(content)), rng.randrange(1, 3000)
        new = rng.randbytes(rng.randrange(3000))
        content[at : at + count] = new
    wanted = made(bytes(content))
    upload = await sent(world, account, wanted, base)

    assert (await world.complete(account, upload)).status == 200
    assert await content_of(world, upload) == wanted.content


HALF = 6 * MIB
LIES: dict[str, Callable[[], Made]] = {
    "other literals": lambda: made(edited(), literals=BASE),
    "other order": lambda: made(BASE[HALF:] + BASE[:HALF], Recipe((Copy(0, HALF), Copy(HALF, HALF)))),
    "beyond the base": lambda: made(BASE[:HALF], Recipe((Copy(len(BASE) - 1, HALF),))),
    "shorter": lambda: made(edited(), Recipe((Copy(0, HALF),))),
    "longer": lambda: made(BASE[:HALF], Recipe((Copy(0, HALF + 1),))),
    "no delta at all": lambda: Made(edited(), b"<html>sign in</html>"),
    "cut off": lambda: Made(edited(), made(edited()).delta[:-9]),
    "something behind": lambda: Made(edited(), made(edited()).delta + b"x"),
    "a bomb": lambda: Made(bytes(HALF), _bomb()),
}


def _bomb() -> bytes:
    """Literals that grow beyond what the recipe takes."""
    honest = io.BytesIO()
    package.write(Recipe((Literal(HALF),)), lambda _at, count: bytes(count), honest)
    frame = honest.getvalue()
    lying = io.BytesIO()
    package.write(Recipe((Literal(1), Copy(0, HALF - 1))), lambda _at, count: bytes(count), lying)
    head = lying.getvalue()
    recipe_end = 9 + int.from_bytes(head[5:9], "little")
    literals_start = 9 + int.from_bytes(frame[5:9], "little")
    return head[:recipe_end] + frame[literals_start:]


@pytest.mark.parametrize("lie", LIES, ids=list(LIES))
async def test_a_delta_that_lies_is_refused_and_the_whole_is_asked_for(world: World, lie: str) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    wanted = LIES[lie]()
    upload = await sent(world, account, wanted, base)

    answer = await world.complete(account, upload)

    assert (answer.status, answer.body["code"]) == (409, "delta_refused")
    assert not world.tree.asked
    assert len(await everything(world, account)) == 1, "the base"
    plain = {key: value for key, value in wanted.announced(base).items() if key != "delta"}
    again = (await world.call(account, "POST", "/uploads", plain)).body
    assert again["id"] == upload["id"], "it is the same session"
    assert again["entries"][0]["mode"] == "multipart"
    numbers = list(range(1, again["parts_total"] + 1))
    await world.send_parts(account, again, wanted.content, numbers)
    assert (await world.complete(account, again)).status == 200
    assert await content_of(world, again) == wanted.content


async def test_without_its_delta_object_nothing_is_committed(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    wanted = made(edited())
    upload = await opened(world, account, wanted, base)

    answer = await world.complete(account, upload)
    assert (answer.status, answer.body["code"]) == (409, "bytes_missing")

    urls = await world.call(account, "POST", f"/uploads/{upload['id']}/urls", {"entries": [0]})
    assert (await world.send(urls.body["items"]["0"], wanted.delta))[0] == 200
    assert (await world.complete(account, upload)).status == 200


async def test_the_request_for_the_delta_object_is_bound_to_it(world: World) -> None:
    account = await world.account()
    wanted = made(edited())
    upload = await opened(world, account, wanted, await version_of(world, account, BASE))
    other = bytes(len(wanted.delta))
    assert (await world.send(upload["entries"][0]["put"], other))[0] == 400


@pytest.mark.parametrize("why", ["unknown", "stranger", "corrupt", "doomed"])
async def test_a_base_that_cannot_be_read_means_that_the_whole_is_sent(world: World, why: str) -> None:
    account = await world.account()
    if why == "unknown":
        base = new_id()
    elif why == "stranger":
        base = await version_of(world, await world.account(), BASE)
    else:
        base = await version_of(world, account, BASE, **{why: True})

    upload = await opened(world, account, made(edited()), base)

    assert upload["entries"][0]["mode"] == "multipart"


async def test_a_delta_object_larger_than_one_of_the_content_can_be_is_not_taken(world: World) -> None:
    """What is reserved of a quota is the content."""
    account = await world.account()
    wanted = made(edited())
    asked = wanted.announced(await version_of(world, account, BASE))
    asked["delta"]["size"] = package.largest(len(wanted.content)) + 1
    upload = (await world.call(account, "POST", "/uploads", asked)).body
    assert upload["entries"][0]["mode"] == "multipart"


async def test_content_that_is_there_needs_no_delta(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    wanted = made(edited())
    await world.stored_object(account, wanted.content)
    assert (await opened(world, account, wanted, base))["entries"][0]["mode"] == "stored"


async def test_a_device_without_the_base_takes_the_session_over_and_sends_all(world: World) -> None:
    account = await world.account(devices=2)
    wanted = made(edited())
    upload = await opened(world, account, wanted, await version_of(world, account, BASE))
    plain = {"content_hash": sha256(wanted.content), "size": len(wanted.content)}

    theirs = (await world.call(account, "POST", "/uploads", plain, device=1)).body

    assert (theirs["id"], theirs["entries"][0]["mode"]) == (upload["id"], "multipart")
    await world.send_parts(account, theirs, wanted.content, [1, 2, 3])
    assert (await world.complete(account, theirs)).status == 200
    assert await content_of(world, upload) == wanted.content


@pytest.mark.parametrize("by", ["nothing", "the same delta", "another delta"])
async def test_what_was_put_together_for_a_refused_commit_goes_elsewhere_without_bytes(
    world: World, by: str
) -> None:
    """Whoever lost against another edit keeps its own as a copy, and may know of no base for that."""
    account = await world.account()
    base = await version_of(world, account, BASE)
    wanted = made(edited())
    upload = await sent(world, account, wanted, base)
    world.tree.decide = refuse("version_conflict")
    assert (await world.complete(account, upload)).body["code"] == "version_conflict"
    world.tree.decide = accept

    plain = {"content_hash": sha256(wanted.content), "size": len(wanted.content)}
    other = await version_of(world, account, BASE) if by == "another delta" else base
    asked = plain if by == "nothing" else wanted.announced(other)
    again = (await world.call(account, "POST", "/uploads", asked)).body

    assert (again["id"], again["entries"][0]["mode"]) == (upload["id"], "delta")
    assert again["entries"][0].get("put") is None
    assert (await world.complete(account, again, name="copy.txt")).status == 200
    first, second = [event for event in world.tree.asked if event.upload_id == upload["id"]]
    assert first.entries[0].object.key == second.entries[0].object.key
    assert (
        b"".join([piece async for piece in world.store.read(second.entries[0].object.key)]) == wanted.content
    )


async def test_what_was_put_together_and_has_vanished_is_sent_again(world: World) -> None:
    account = await world.account()
    wanted = made(edited())
    upload = await sent(world, account, wanted, await version_of(world, account, BASE))
    world.tree.decide = refuse("version_conflict")
    await world.complete(account, upload)
    world.tree.decide = accept
    (event,) = [event for event in world.tree.asked if event.upload_id == upload["id"]]
    await world.store.delete([event.entries[0].object.key])

    plain = {"content_hash": sha256(wanted.content), "size": len(wanted.content)}
    again = (await world.call(account, "POST", "/uploads", plain)).body

    assert (again["id"], again["entries"][0]["mode"]) == (upload["id"], "multipart")
    await world.send_parts(account, again, wanted.content, [1, 2, 3])
    assert (await world.complete(account, again)).status == 200


@pytest.mark.parametrize("recorded", [False, True], ids=["nothing sent", "parts sent"])
async def test_a_device_with_the_base_goes_on_with_what_is_cheaper(world: World, recorded: bool) -> None:
    account = await world.account(devices=2)
    base = await version_of(world, account, BASE)
    wanted = made(edited())
    upload = await world.open(account, wanted.content)
    if recorded:
        await world.send_parts(account, upload, wanted.content, [1])
        digests = {"parts": {"1": sha256(wanted.content[: upload["part_size"]])}}
        await world.call(account, "POST", f"/uploads/{upload['id']}/parts", digests)

    theirs = await opened(world, account, wanted, base, device=1)

    assert theirs["id"] == upload["id"]
    assert theirs["entries"][0]["mode"] == ("multipart" if recorded else "delta")
    if not recorded:
        await world.send(theirs["entries"][0]["put"], wanted.delta)
        assert (await world.complete(account, theirs)).status == 200
        assert await content_of(world, upload) == wanted.content


async def test_an_object_that_was_there_before_anything_was_put_together_counts_as_unverified(
    world: World,
) -> None:
    """Its bytes were not hashed here: nobody else may be given them for this hash before they were."""
    account = await world.account()
    wanted = made(edited())
    upload = await sent(world, account, wanted, await version_of(world, account, BASE))
    row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    await world.store.put(row["entries"][0]["key"], bytes(len(wanted.content)))

    assert (await world.complete(account, upload)).status == 200

    (event,) = [event for event in world.tree.asked if event.upload_id == upload["id"]]
    assert not event.entries[0].object.verified


async def test_an_object_of_another_size_that_was_there_is_replaced(world: World) -> None:
    account = await world.account()
    wanted = made(edited())
    upload = await sent(world, account, wanted, await version_of(world, account, BASE))
    row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    await world.store.put(row["entries"][0]["key"], bytes(5))

    assert (await world.complete(account, upload)).status == 200

    assert await content_of(world, upload) == wanted.content


async def test_an_aborted_delta_leaves_nothing_in_s3(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    upload = await sent(world, account, made(edited()), base)

    assert (await world.call(account, "DELETE", f"/uploads/{upload['id']}")).status == 204

    assert len(await everything(world, account)) == 1, "the base"


async def test_a_repeated_completion_is_answered_again_and_commits_once(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    upload = await sent(world, account, made(edited()), base)
    first: Answer = await world.complete(account, upload)
    assert (await world.complete(account, upload)).body == first.body
    assert len(world.tree.asked) == 1


async def test_what_a_dead_process_left_half_made_is_made_anew(world: World) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    wanted = made(edited())
    upload = await sent(world, account, wanted, base)
    row = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert row is not None
    key = row["entries"][0]["key"]
    left = await world.store.create_multipart(key)
    await world.store.put_part(key, left, 1, bytes(10 * MIB))
    await world.database[UPLOADS].update_one({"_id": upload["id"]}, {"$set": {"s3_upload_id": left}})

    assert (await world.complete(account, upload)).status == 200

    assert await content_of(world, upload) == wanted.content
    assert await world.store.list_parts(key, left) is None


async def test_a_session_that_was_a_delta_in_between_forgets_digests_of_parts_of_another_size(
    world: World,
) -> None:
    account = await world.account()
    base = await version_of(world, account, BASE)
    whole = {"content_hash": sha256(b"never sent"), "size": 200 * MIB}
    offer = {"base_version_id": base, "size": 100, "sha256": sha256(b"delta")}
    first = (await world.call(account, "POST", "/uploads", {**whole, "throughput": 5 * MIB})).body
    path = f"/uploads/{first['id']}/urls"
    assert (await world.call(account, "POST", path, {"parts": {"1": sha256(b"small")}})).status == 200
    between = (await world.call(account, "POST", "/uploads", {**whole, "delta": offer})).body
    assert (between["id"], between["entries"][0]["mode"]) == (first["id"], "delta")
    again = (await world.call(account, "POST", "/uploads", {**whole, "throughput": 20 * MIB})).body
    assert again["id"] == first["id"]
    assert again["part_size"] > first["part_size"]
    answer = await world.call(account, "POST", path, {"parts": {"1": sha256(b"large")}})
    assert answer.status == 200, answer
