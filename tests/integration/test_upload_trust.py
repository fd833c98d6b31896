"""An S3 whose checks are not there, or not known yet: nothing is said to be checked that is not."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from libs.mongo.names import UPLOADS
from tests.integration.test_storage_probe import takes_any_object, takes_any_part
from tests.support.backends import Backends
from tests.support.s3_proxy import Answered, Asked, Before, s3_proxy
from tests.support.upload_world import World, upload_world

MIB = 1024 * 1024


@asynccontextmanager
async def behind(backends: Backends, before: Before, **changed: Any) -> AsyncIterator[World]:
    """The service at an S3 that does so; the test itself sends to the real one."""
    async with s3_proxy(backends.s3_endpoint) as proxy:
        proxy.before = before
        served = {"s3_endpoint": proxy.url, "s3_public_endpoint": backends.s3_endpoint}
        async with upload_world(backends, served=served, **changed) as world:
            yield world


async def is_verified(world: World) -> bool:
    account = await world.account()
    upload = await world.opened_and_sent(account, secrets.token_bytes(10))
    assert (await world.complete(account, upload)).status == 200
    return world.tree.asked[-1].entries[0].object.verified


async def digests_are_enforced(world: World) -> bool:
    account, content = await world.account(), secrets.token_bytes(5 * MIB + 1)
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 2])
    assert (await world.complete(account, upload)).status == 200
    session = await world.database[UPLOADS].find_one({"_id": upload["id"]})
    assert session is not None
    return bool(session["digests_enforced"])


async def test_the_real_s3_is_found_to_check_objects_and_parts(backends: Backends) -> None:
    async with upload_world(backends) as world:
        assert await is_verified(world)
        assert await digests_are_enforced(world)


async def test_where_s3_takes_any_object_none_counts_as_verified(backends: Backends) -> None:
    async with behind(backends, takes_any_object) as world:
        assert not await is_verified(world)
        assert await digests_are_enforced(world)


async def test_where_s3_takes_any_part_no_digests_are_given(backends: Backends) -> None:
    async with behind(backends, takes_any_part) as world:
        assert await is_verified(world)
        assert not await digests_are_enforced(world)


@pytest.mark.parametrize("told", [True, False])
async def test_the_setting_goes_over_what_was_found(backends: Backends, told: bool) -> None:
    before = takes_any_object if told else _as_it_is
    async with behind(backends, before, s3_trust_checksums=told) as world:
        assert await is_verified(world) is told
        assert await digests_are_enforced(world) is told


async def _as_it_is(_asked: Asked) -> Answered | None:
    return None


async def test_a_look_that_tells_nothing_does_not_keep_the_service_from_work(backends: Backends) -> None:
    async def not_for_a_look(asked: Asked) -> Answered | None:
        return Answered(403) if "/probe/" in asked.path else None

    async with behind(backends, not_for_a_look) as world:
        assert not await is_verified(world)
        assert not await digests_are_enforced(world)


async def test_the_look_is_repeated_until_it_tells_something(backends: Backends) -> None:
    looks, known = 0, asyncio.Event()

    async def ill_at_first(asked: Asked) -> Answered | None:
        nonlocal looks
        looks += asked.method == "PUT" and "/probe/" in asked.path
        if asked.method == "OPTIONS" and looks > 1:
            known.set()
        return Answered(503) if "/probe/" in asked.path and looks <= 1 else None

    async with behind(backends, ill_at_first) as world:
        async with asyncio.timeout(30):
            await known.wait()
        async with world.session.get(f"{world.url}/metrics") as answer:
            assert "lockstep_object_store_capability" in await answer.text()
