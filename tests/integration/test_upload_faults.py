"""Backends that go away and come back; limits."""

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aiohttp
import pytest
from pydantic import SecretStr

from libs.contracts.events import UploadCompleted
from libs.mongo.names import USAGE
from tests.support.backends import Backends
from tests.support.relay import Relay, relay_to
from tests.support.upload_world import (
    Account,
    Json,
    World,
    accept,
    running_app,
    settings_for,
    sha256,
    upload_world,
)
from tests.support.waiting import eventually

# aiormq drops a coroutine of its own when a connection is reset during the handshake.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _dropped_coroutines_stay_here() -> Iterator[None]:
    yield
    gc.collect()


@dataclass(frozen=True, slots=True)
class Relays:
    amqp: Relay
    mongo: Relay
    s3: Relay


def through(url: str, relay: Relay) -> str:
    """The URL with the relay's port; MongoDB must not be asked for its own address."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    query = {key: value for key, value in parse_qsl(parts.query) if key != "replicaSet"}
    if parts.scheme == "mongodb":
        query["directConnection"] = "true"
    netloc = f"{login}@127.0.0.1:{relay.port}" if login else f"127.0.0.1:{relay.port}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query)))


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


@asynccontextmanager
async def relayed(backends: Backends) -> AsyncIterator[tuple[Relays, dict[str, object]]]:
    async with AsyncExitStack() as stack:
        amqp, mongo, s3 = [
            await stack.enter_async_context(relay_to(port_of(url)))
            for url in (backends.amqp_url, backends.mongo_url, backends.s3_endpoint)
        ]
        settings: dict[str, object] = {
            "amqp_url": SecretStr(through(backends.amqp_url, amqp)),
            "mongo_url": SecretStr(through(backends.mongo_url, mongo)),
            "s3_endpoint": through(backends.s3_endpoint, s3),
            "s3_public_endpoint": backends.s3_endpoint,
            "mongo_timeout": 1.0,
            "s3_timeout": 2.0,
            "commit_wait": 0.5,
            "outbox_sweep_interval": 0.2,
            "outbox_sweep_age": 0.2,
        }
        yield Relays(amqp, mongo, s3), settings


@pytest.fixture(scope="module")
async def fragile(backends: Backends) -> AsyncIterator[tuple[World, Relays]]:
    """The service behind relays; the test itself reaches the backends directly."""
    async with relayed(backends) as (relays, changed):
        direct = {name: value for name, value in changed.items() if not name.endswith(("url", "endpoint"))}
        names = ("amqp_url", "mongo_url", "s3_endpoint", "s3_public_endpoint")
        served = {name: changed[name] for name in names}
        async with upload_world(backends, served=served, **direct) as world:
            yield world, relays


async def commits(world: World, account: Account, upload: Json) -> None:
    """Complete; how long that may take is not what these tests are about."""
    assert (await world.complete(account, upload)).status in {200, 202}
    await world.until_state(account, upload, "committed")


def no_answer(_event: UploadCompleted) -> None:
    return None


async def ready(world: World) -> bool:
    async with world.session.get(f"{world.url}/readyz") as answer:
        return answer.status == 200


async def test_a_commit_accepted_while_the_broker_is_away_is_delivered_when_it_returns(
    fragile: tuple[World, Relays],
) -> None:
    world, relays = fragile
    world.tree.decide = accept
    account = await world.account()
    upload = await world.opened_and_sent(account, b"no broker")
    relays.amqp.cut()
    try:
        answer = await world.complete(account, upload)
        assert (answer.status, answer.body["state"]) == (202, "committing")
        assert not await ready(world)
    finally:
        relays.amqp.mend()
    await world.until_state(account, upload, "committed")
    assert (await world.complete(account, upload)).status == 200


async def test_without_s3_the_session_becomes_open_again_and_can_be_given_up(
    fragile: tuple[World, Relays],
) -> None:
    world, relays = fragile
    world.tree.decide = accept
    account = await world.account()
    upload = await world.opened_and_sent(account, b"no s3")
    relays.s3.cut()
    try:
        assert (await world.complete(account, upload)).status in {202, 503}
        await world.until_state(account, upload, "open")
        assert (await world.call(account, "DELETE", f"/uploads/{upload['id']}")).status == 204
    finally:
        relays.s3.mend()
    await commits(world, account, await world.opened_and_sent(account, b"no s3"))


async def test_a_large_session_opened_while_s3_is_away_is_usable_when_it_returns(
    fragile: tuple[World, Relays],
) -> None:
    world, relays = fragile
    world.tree.decide = accept
    account = await world.account()
    content = b"l" * (6 * 1024 * 1024)
    relays.s3.cut()
    try:
        body = {"content_hash": sha256(content), "size": len(content)}
        answer = await world.call(account, "POST", "/uploads", body)
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        assert "Retry-After" in answer.headers
    finally:
        relays.s3.mend()
    upload = await world.open(account, content)
    await world.send_parts(account, upload, content, [1, 2])
    await commits(world, account, upload)
    assert len((await world.call(account, "GET", "/uploads?state=all")).body["items"]) == 1


async def test_without_the_database_the_answer_is_503_and_nothing_is_lost(
    fragile: tuple[World, Relays],
) -> None:
    world, relays = fragile
    world.tree.decide = accept
    account = await world.account()
    upload = await world.opened_and_sent(account, b"no database")
    relays.mongo.cut()
    try:
        answer = await world.complete(account, upload)
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        assert not await ready(world)
    finally:
        relays.mongo.mend()

    async def completes() -> bool:
        return (await world.complete(account, upload)).status == 200

    await eventually(completes, seconds=20)


async def test_the_answer_to_a_commit_survives_the_loss_of_the_database(
    fragile: tuple[World, Relays],
) -> None:
    world, relays = fragile

    def database_goes_away(event: UploadCompleted) -> None:
        """Cut it once: the event comes again, because nobody could note that it was published."""
        world.tree.decide = no_answer
        relays.mongo.cut()

    world.tree.decide = database_goes_away
    account = await world.account()
    upload = await world.opened_and_sent(account, b"late answer")
    try:
        assert (await world.complete(account, upload)).status in {202, 503}
        event = world.tree.asked[-1]
        await world.tree.publish(world.tree.verdict(event, accept(event)))
    finally:
        relays.mongo.mend()

    async def settled() -> bool:
        answer = await world.call(account, "GET", f"/uploads/{upload['id']}")
        return answer.status == 200 and answer.body["state"] == "committed"

    await eventually(settled, seconds=30)


async def test_the_service_starts_without_its_backends_and_becomes_ready_when_they_come(
    backends: Backends,
) -> None:
    async with relayed(backends) as (relays, changed):
        for relay in (relays.amqp, relays.mongo, relays.s3):
            relay.cut()
        settings = settings_for(backends, **changed)
        async with running_app(settings, wait=False) as url, aiohttp.ClientSession() as session:

            async def status(path: str) -> int:
                async with session.get(url + path) as answer:
                    return answer.status

            assert (await status("/healthz"), await status("/readyz")) == (200, 503)
            for relay in (relays.amqp, relays.mongo, relays.s3):
                relay.mend()

            async def is_ready() -> bool:
                return await status("/readyz") == 200

            await eventually(is_ready, seconds=30)


# Limits ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def limited(backends: Backends) -> AsyncIterator[World]:
    async with upload_world(
        backends, max_open_sessions=2, quota_bytes=1000, max_file_bytes=2000, s3_trust_checksums=False
    ) as world:
        yield world


async def test_a_file_over_the_limit_is_refused(limited: World) -> None:
    body = {"content_hash": sha256(b"big"), "size": 2001}
    answer = await limited.call(await limited.account(), "POST", "/uploads", body)
    assert (answer.status, answer.body["code"]) == (413, "file_too_large")


async def test_open_sessions_are_limited_per_user_and_joining_is_none_more(limited: World) -> None:
    account = await limited.account()
    first = await limited.open(account, b"1")
    await limited.open(account, b"2")
    body = {"content_hash": sha256(b"3"), "size": 1}
    answer = await limited.call(account, "POST", "/uploads", body)
    assert (answer.status, answer.body["code"]) == (429, "too_many_sessions")
    batch = await limited.call(account, "POST", "/uploads/batch", {"items": [body]})
    assert batch.body["code"] == "too_many_sessions"
    assert (await limited.open(account, b"1"))["id"] == first["id"]
    await limited.call(account, "DELETE", f"/uploads/{first['id']}")
    assert (await limited.open(account, b"3"))["state"] == "open"


async def test_the_quota_counts_used_and_reserved_bytes(limited: World) -> None:
    account = await limited.account()
    await limited.database[USAGE].insert_one({"_id": account.namespace_id, "used_bytes": 500, "files": 1})
    upload = await limited.open(account, b"x" * 300)
    body = {"content_hash": sha256(b"more"), "size": 201}
    answer = await limited.call(account, "POST", "/uploads", body)
    assert (answer.status, answer.body["code"]) == (413, "quota_exceeded")
    await limited.call(account, "DELETE", f"/uploads/{upload['id']}")
    assert (await limited.call(account, "POST", "/uploads", body)).status == 201


async def test_what_is_stored_already_needs_no_room(limited: World) -> None:
    account = await limited.account()
    await limited.database[USAGE].insert_one({"_id": account.namespace_id, "used_bytes": 1000, "files": 1})
    await limited.stored_object(account, b"known")
    assert (await limited.open(account, b"known"))["entries"][0]["mode"] == "stored"


async def test_with_an_s3_that_is_not_trusted_nothing_counts_as_verified(limited: World) -> None:
    account = await limited.account()
    upload = await limited.opened_and_sent(account, b"doubt")
    assert (await limited.complete(account, upload)).status == 200
    assert not limited.tree.asked[-1].entries[0].object.verified
