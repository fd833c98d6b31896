"""What a client that has one version must fetch of another."""

import base64
import os
import secrets
from collections.abc import AsyncIterator
from hashlib import sha256

import aiohttp
import pytest

from libs.contracts import recipe as recipes
from libs.contracts.recipe import Copy, Recipe
from tests.integration.test_download_files import Json, User
from tests.support.stack import Stack
from tests.support.waiting import eventually

MIB = 1024 * 1024
OLD = os.urandom(4 * MIB)
NEW = OLD[:MIB] + b"inserted" + OLD[MIB : 3 * MIB] + os.urandom(5000) + OLD[3 * MIB :]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def user(stack: Stack, http: aiohttp.ClientSession) -> User:
    return await registered(stack, http)


async def registered(stack: Stack, http: aiohttp.ClientSession) -> User:
    body = {"email": f"{secrets.token_hex(8)}@example.org", "password": secrets.token_hex(8)}
    url = f"{stack.gateway_url}/v1/auth/register"
    async with http.post(url, json={**body, "device_name": "A"}) as answer:
        tokens = await answer.json()
    return User(stack.gateway_url, http, tokens["namespace_id"], tokens["access_token"])


def recipe_in(delta: Json) -> Recipe:
    recipe = recipes.decode(base64.b64decode(delta["recipe"]))
    recipes.check(recipe, len(OLD), delta["size"])
    return recipe


async def rebuilt(user: User, delta: Json, old: bytes) -> bytes:
    pieces = []
    for at, op in recipe_in(delta).placed():
        if isinstance(op, Copy):
            pieces.append(old[op.offset : op.offset + op.length])
        else:
            status, piece, _ = await user.read(delta["url"], Range=f"bytes={at}-{at + op.length - 1}")
            assert (status, len(piece)) == (206, op.length)
            pieces.append(piece)
    return b"".join(pieces)


async def two_versions(user: User, old: bytes = OLD, new: bytes = NEW) -> tuple[Json, Json]:
    first = await user.put(f"{secrets.token_hex(4)}.bin", old)
    return first, await user.edit(first, new)


async def delta(user: User, first: Json, second: Json, **more: str) -> Json:
    query = {"from": first["version_id"], "to": second["version_id"], **more}
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return await user.ok("GET", f"/files/{second['id']}/delta?{text}")


async def test_a_version_is_made_of_another_one_and_little_else(user: User) -> None:
    first, second = await two_versions(user)

    found = await delta(user, first, second)

    assert (found["content_hash"], found["size"]) == (second["content_hash"], len(NEW))
    assert await rebuilt(user, found, OLD) == NEW
    assert recipe_in(found).literal_bytes < 100_000
    assert len(found["recipe"]) < 2_000


async def test_any_version_can_be_the_base_also_the_newer_one_or_another_files(user: User) -> None:
    first, second = await two_versions(user)
    back = await delta(user, second, first)
    recipe = recipes.decode(base64.b64decode(back["recipe"]))
    recipes.check(recipe, len(NEW), len(OLD))
    third = await user.edit(second, NEW + b"more")
    assert await rebuilt(user, await delta(user, first, third), OLD) == NEW + b"more"
    other = await user.put(f"{secrets.token_hex(4)}.bin", b"copy" + OLD)
    found = await delta(user, first, other, base=first["id"])
    assert await rebuilt(user, found, OLD) == b"copy" + OLD


async def test_without_a_version_it_is_the_current_one(user: User) -> None:
    first, second = await two_versions(user)
    found = await user.ok("GET", f"/files/{first['id']}/delta?from={first['version_id']}")
    assert found["version_id"] == second["version_id"]


@pytest.mark.parametrize("size", [100_000, 4 * MIB], ids=["small", "nothing in common"])
async def test_what_had_better_be_fetched_whole_has_no_delta(user: User, size: int) -> None:
    first, second = await two_versions(user, os.urandom(size), os.urandom(size))
    answer = await user.call("GET", f"/files/{first['id']}/delta?from={first['version_id']}")
    assert (answer.status, answer.body["code"]) == (409, "no_delta")
    del second


async def test_of_a_larger_file_the_janitor_makes_the_manifest_and_then_there_is_a_delta(
    stack: Stack, user: User
) -> None:
    """The download service reads only small objects while somebody waits."""
    stack.ensure_running()
    old = os.urandom(18 * MIB)
    new = old[: 9 * MIB] + b"x" + old[9 * MIB :]
    first = await put_in_parts(user, old, {"parent_id": user.namespace_id, "name": "large.bin"})
    target = {"node_id": first["id"], "base_version_id": first["version_id"]}
    second = await put_in_parts(user, new, target)
    path = f"/files/{first['id']}/delta?from={first['version_id']}"

    async def is_known() -> bool:
        return (await user.call("GET", path)).status == 200

    await eventually(is_known, seconds=30)
    found = await user.ok("GET", path)
    assert found["version_id"] == second["version_id"]
    recipe = recipes.decode(base64.b64decode(found["recipe"]))
    recipes.check(recipe, len(old), len(new))
    assert recipe.literal_bytes < 200_000


async def put_in_parts(user: User, content: bytes, target: Json) -> Json:
    announced = {"content_hash": sha256(content).hexdigest(), "size": len(content)}
    upload = await user.ok("POST", "/uploads", announced)
    size = upload["part_size"]
    parts = {n + 1: content[n * size : (n + 1) * size] for n in range(upload["parts_total"])}
    digests = {str(n): sha256(part).hexdigest() for n, part in parts.items()}
    urls = await user.ok("POST", f"/uploads/{upload['id']}/urls", {"parts": digests})
    for number, part in parts.items():
        await user.send(urls["items"][str(number)], part)
    done = await user.ok("POST", f"/uploads/{upload['id']}/complete", target)
    row: Json = done["results"][0]["row"]
    return row


async def test_versions_of_others_do_not_exist(stack: Stack, http: aiohttp.ClientSession, user: User) -> None:
    first, second = await two_versions(user)
    stranger = await registered(stack, http)
    theirs = await stranger.put("mine.bin", OLD)
    query = f"from={first['version_id']}&base={first['id']}"
    for path in (
        f"/files/{second['id']}/delta?from={first['version_id']}",
        f"/files/{theirs['id']}/delta?{query}",
    ):
        answer = await stranger.call("GET", path)
        assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_a_base_must_be_named_and_be_a_version_of_the_file_said(user: User) -> None:
    first, second = await two_versions(user)
    other = await user.put("other.bin", OLD[: 2 * MIB])
    assert (await user.call("GET", f"/files/{second['id']}/delta")).status == 400
    wrong = await user.call("GET", f"/files/{second['id']}/delta?from={other['version_id']}")
    assert wrong.status == 404
    del first
