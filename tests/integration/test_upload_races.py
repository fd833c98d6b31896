"""Requests and processes that act on a session as it was, while another has changed how its bytes travel."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import pytest

from libs.contracts.api import UploadMode, UploadState
from libs.contracts.errors import ConflictError, UnavailableError
from libs.contracts.recipe import Copy, Literal, Recipe
from libs.contracts.tree import CommitTarget
from libs.mongo.names import OBJECTS, UPLOADS
from libs.mongo.outbox import Outbox
from libs.mongo.views import Views
from libs.storage.port import ObjectStore, PartToJoin, Slice
from services.upload.domain.modes import Announced
from services.upload.domain.session import Device, Lease, Owner, Session
from services.upload.service import composing
from services.upload.service.background import Background
from services.upload.service.completing import Completing
from services.upload.service.composing import Composing
from services.upload.service.deps import Deps
from services.upload.service.multiparts import Multiparts
from services.upload.service.opening import Opening, Wish
from services.upload.service.sealing import Sealing
from services.upload.service.transfers import Transfers
from services.upload.service.trust import Trust
from services.upload.service.wakeups import Wakeups
from services.upload.store.parts import PartStore
from services.upload.store.sessions import SessionStore
from tests.integration.test_upload_delta import BASE, MIB, edited, everything, made, opened, sent, version_of
from tests.support.upload_world import Account, Json, World, accept, refuse, sha256
from tests.support.waiting import eventually

_PIECE: Final = 3 * MIB


@pytest.fixture
def world(uploads: World) -> World:
    return uploads


@dataclass
class BadS3:
    """The store of a process: streams break off, parts wait to be let through, nothing is deleted."""

    store: ObjectStore
    breaks_after: int | None = None
    """Bytes that a stream gives before it breaks off."""
    deletes: bool = True
    gates: list[asyncio.Event] = field(default_factory=list)
    """Each holds up the first part of one composition, in order."""
    waiting: int = 0
    breaks: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def read(
        self, key: str, offset: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        given = 0
        async for piece in self.store.read(key, offset, length, etag=etag):
            left = len(piece) if self.breaks_after is None else self.breaks_after - given
            if left <= 0:
                self.breaks += 1
                raise UnavailableError("broken off")
            given += len(piece[:left])
            yield piece[:left]
            if left < len(piece):
                self.breaks += 1
                raise UnavailableError("broken off")

    async def put_part(
        self, key: str, upload_id: str, number: int, body: bytes, *, copying: bool = False
    ) -> PartToJoin:
        await self._gate(number)
        return await self.store.put_part(key, upload_id, number, body, copying=copying)

    async def copy_part(self, key: str, upload_id: str, number: int, source: Slice) -> PartToJoin:
        await self._gate(number)
        return await self.store.copy_part(key, upload_id, number, source)

    async def _gate(self, number: int) -> None:
        if self.gates and number == 1:
            gate = self.gates.pop(0)
            self.waiting += 1
            await gate.wait()

    async def delete(self, keys: Sequence[str]) -> None:
        if not self.deletes:
            raise UnavailableError("not now")
        await self.store.delete(keys)


@dataclass(frozen=True)
class Process:
    """Another process of the service, without its web side."""

    deps: Deps
    completing: Completing
    transfers: Transfers

    async def session(self, upload: Json) -> Session:
        found = await self.deps.sessions.get(upload["id"])
        assert found is not None
        return found


def process(world: World, store: object | None = None, trust: Trust | None = None, **changed: Any) -> Process:
    settings = world.settings.model_copy(update=changed)
    objects = cast("ObjectStore", store or world.store)
    outbox = Outbox(world.database, "upload", world.tree.bus, settings)
    sessions = SessionStore(world.database, outbox)
    parts = PartStore(world.database, outbox, sessions)
    deps = Deps(settings, sessions, parts, objects, Views(world.database), trust or Trust(told=True))
    multiparts = Multiparts(deps)
    sealing = Sealing(deps, multiparts, Composing(deps))
    completing = Completing(deps, sealing, Background(), Wakeups())
    return Process(deps, completing, Transfers(deps, multiparts))


def target(account: Account) -> CommitTarget:
    return CommitTarget(parent_id=account.namespace_id, name="a.txt")


async def complete(other: Process, session: Session, account: Account) -> Any:
    return await other.completing.complete(session, Device(account.devices[0], "d"), {0: target(account)})


async def test_a_completion_of_the_parts_does_not_undo_a_change_to_a_delta(world: World) -> None:
    account = await world.account()
    base, wanted, other = await version_of(world, account, BASE), made(edited()), process(world)
    upload = await world.open(account, wanted.content)
    await world.send_parts(account, upload, wanted.content, [1, 2, 3])
    as_it_was = await other.session(upload)
    by_delta = await opened(world, account, wanted, base)
    assert by_delta["entries"][0]["mode"] == "delta"

    with pytest.raises(ConflictError, match="missing"):
        await complete(other, as_it_was, account)

    assert (await opened(world, account, wanted, base))["entries"][0]["mode"] == "delta"
    status, text = await world.send(by_delta["entries"][0]["put"], wanted.delta)
    assert status == 200, text
    assert (await world.complete(account, upload)).status == 200


async def test_a_change_of_the_way_that_was_decided_on_an_older_state_is_decided_again(world: World) -> None:
    account = await world.account()
    base, content = await version_of(world, account, BASE), edited()
    one, two = made(content), made(content, Recipe((Literal(len(content)),)))
    upload = await world.open(account, content)
    answers = await asyncio.gather(*(opened(world, account, each, base) for each in (one, two) * 4))
    assert {answer["id"] for answer in answers} == {upload["id"]}
    last = await opened(world, account, one, base)
    status, text = await world.send(last["entries"][0]["put"], one.delta)
    assert status == 200, text
    assert (await world.complete(account, upload)).status == 200


async def test_a_delta_that_another_takes_the_place_of_does_not_stay_in_s3(world: World) -> None:
    account = await world.account()
    base, again = await version_of(world, account, BASE), await version_of(world, account, BASE)
    before, content = await everything(world, account), edited()
    first, rest = 600_000, BASE[6 * MIB + 14 :]
    more = (Literal(first), Copy(first, 6 * MIB - first), Literal(14), Copy(6 * MIB + 14, len(rest)))
    one, two = made(content), made(content, Recipe(more))
    await sent(world, account, one, base)
    await sent(world, account, two, base)
    assert len(await everything(world, account)) == len(before) + 1
    same = await opened(world, account, two, again)
    assert len(await everything(world, account)) == len(before) + 1, "the same delta, to another base"
    whole = await world.open(account, content)
    assert (whole["id"], whole["entries"][0]["mode"]) == (same["id"], "multipart")
    assert await everything(world, account) == before


async def test_after_a_refused_delta_parts_can_be_sent_at_once(world: World) -> None:
    account = await world.account()
    base, honest = await version_of(world, account, BASE), made(edited())
    literals = random.Random(1).randbytes(len(BASE) + MIB)
    lie = made(edited(), Recipe((Literal(len(honest.content)),)), literals)
    upload = await sent(world, account, lie, base)
    refused = await world.complete(account, upload)
    assert refused.body["code"] == "delta_refused"

    shown = (await world.call(account, "GET", f"/uploads/{upload['id']}")).body
    await world.send_parts(account, shown, honest.content, list(range(1, shown["parts_total"] + 1)))
    assert (await world.complete(account, upload)).status == 200


async def test_what_is_read_for_a_content_may_break_off_again_and_again(world: World) -> None:
    account = await world.account()
    base, wanted = (
        await version_of(world, account, BASE),
        made(edited(0, random.Random(2).randbytes(4 * MIB))),
    )
    upload = await sent(world, account, wanted, base)
    store = BadS3(world.store, breaks_after=_PIECE)
    other = process(world, store)

    answer = await complete(other, await other.session(upload), account)

    assert answer.state in {UploadState.COMMITTING, UploadState.COMMITTED}
    await world.until_state(account, upload, "committed")
    assert store.breaks > 2
    (event,) = world.tree.asked
    read = b"".join([piece async for piece in world.store.read(event.entries[0].object.key)])
    assert sha256(read) == sha256(wanted.content)


async def test_a_store_that_gives_nothing_any_more_puts_the_completion_off(world: World) -> None:
    account = await world.account()
    base, wanted = await version_of(world, account, BASE), made(edited())
    upload = await sent(world, account, wanted, base)
    other = process(world, BadS3(world.store, breaks_after=0))
    with pytest.raises(UnavailableError):
        await complete(other, await other.session(upload), account)
    assert await world.state(account, upload) == "open"
    assert (await world.complete(account, upload)).status == 200


async def test_a_delta_object_that_cannot_be_deleted_now_costs_nothing(world: World) -> None:
    account = await world.account()
    base, wanted = await version_of(world, account, BASE), made(edited())
    upload = await sent(world, account, wanted, base)
    other = process(world, BadS3(world.store, deletes=False))
    await complete(other, await other.session(upload), account)
    await world.until_state(account, upload, "committed")
    assert [event.entries[0].object.verified for event in world.tree.asked] == [True]


async def test_a_content_that_was_put_together_stays_verified_and_is_looked_for_after_a_refusal(
    world: World,
) -> None:
    account = await world.account()
    base, wanted = await version_of(world, account, BASE), made(BASE[: 5 * MIB])
    upload = await sent(world, account, wanted, base)
    world.tree.decide = refuse("name_taken")
    assert (await world.complete(account, upload)).status == 409
    again = await opened(world, account, wanted, base)
    assert again["id"] == upload["id"]
    assert (await world.complete(account, upload, "b.txt")).status == 409
    assert [event.entries[0].object.verified for event in world.tree.asked] == [True, True]

    world.tree.decide = accept
    await world.store.delete([world.tree.asked[0].entries[0].object.key])
    lost = await world.complete(account, upload, "c.txt")
    assert (lost.status, lost.body["code"]) == (409, "bytes_missing")
    again = await opened(world, account, wanted, base)
    status, text = await world.send(again["entries"][0]["put"], wanted.delta)
    assert status == 200, text
    assert (await world.complete(account, upload, "c.txt")).status == 200


async def test_a_drive_whose_lease_lapsed_does_not_give_up_what_the_same_process_drives_again(
    world: World,
) -> None:
    account = await world.account()
    base, wanted = await version_of(world, account, BASE), made(edited())
    upload = await sent(world, account, wanted, base)
    first, second = asyncio.Event(), asyncio.Event()
    store = BadS3(world.store, gates=[first, second])
    other = process(world, store)
    asked = asyncio.create_task(complete(other, await other.session(upload), account))
    await eventually(lambda: _is(store.waiting, 1), seconds=20)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    await world.database[UPLOADS].update_one({"_id": upload["id"]}, {"$set": {"lease.until": long_ago}})
    assert await other.completing.take_over(await other.session(upload))
    await eventually(lambda: _is(store.waiting, 2), seconds=20)

    first.set()  # the first finds its multipart upload gone
    with pytest.raises(UnavailableError):
        await asked
    assert await world.state(account, upload) == "completing"

    second.set()
    await world.until_state(account, upload, "committed")
    assert len({event.attempt for event in world.tree.asked}) == 1


async def test_who_has_lost_the_lease_begins_no_object(world: World) -> None:
    account = await world.account()
    base, wanted, other = await version_of(world, account, BASE), made(edited()), process(world)
    session = await other.session(await sent(world, account, wanted, base))
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    theirs = replace(session, state=UploadState.COMPLETING, lease=Lease("another", until))
    assert await other.deps.sessions.change(session, theirs)

    with pytest.raises(UnavailableError, match="Another process"):
        await Composing(other.deps).compose(replace(theirs, lease=Lease("one", until)))

    assert await other.deps.sessions.get(session.id) == theirs
    assert [one async for one in world.store.walk_multiparts(session.key_prefix)] == []


async def test_who_has_lost_the_lease_says_nothing_of_what_another_puts_together(world: World) -> None:
    """It does not know of what parts, so not whether anybody has hashed what S3 holds."""
    account = await world.account()
    base, wanted = await version_of(world, account, BASE), made(edited())
    upload = await sent(world, account, wanted, base)
    gate = asyncio.Event()
    store = BadS3(world.store, gates=[gate])
    other = process(world, store, commit_wait=1)
    asked = asyncio.create_task(complete(other, await other.session(upload), account))
    await eventually(lambda: _is(store.waiting, 1), seconds=20)
    theirs = await other.session(upload)
    assert theirs.lease is not None
    await world.store.put(theirs.entries[0].key, wanted.content)

    await other.completing.drive(replace(theirs, lease=Lease("who had it before", theirs.lease.until)))
    assert (await world.state(account, upload), world.tree.asked) == ("completing", [])

    await other.completing.drive(theirs)
    await world.until_state(account, upload, "committed")
    assert [event.entries[0].object.verified for event in world.tree.asked] == [False]
    gate.set()
    await asked


class VerifiedMeanwhile(Views):
    """What is asked first about a content is answered as it was before the janitor said that it is right."""

    async def stored(self, namespace_id: str, hashes: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = await super().stored(namespace_id, hashes)
        await self._verify(hashes)
        return found

    async def being_verified(self, namespace_id: str, content_hash: str, size: int) -> bool:
        found = await super().being_verified(namespace_id, content_hash, size)
        await self._verify([content_hash])
        return found

    async def _verify(self, hashes: Sequence[str]) -> None:
        right = {"$set": {"verified": True}}
        await self._database[OBJECTS].update_many({"content_hash": {"$in": list(hashes)}}, right)


async def test_content_that_is_verified_in_the_instant_it_is_asked_for_is_not_sent_again(
    world: World,
) -> None:
    account = await world.account()
    await world.stored_object(account, BASE, verified=False)
    deps = replace(process(world).deps, views=VerifiedMeanwhile(world.database))
    owner = Owner(account.user_id, Device(account.devices[0], "d"))

    session = await Opening(deps, Multiparts(deps)).single(
        owner, account.namespace_id, Announced(sha256(BASE), len(BASE), "a.bin"), Wish()
    )

    assert [entry.mode for entry in session.entries] == [UploadMode.STORED]


async def _is(value: int, wanted: int) -> bool:
    return value == wanted


async def test_a_commit_that_nobody_takes_for_days_is_announced_ever_more_seldom(world: World) -> None:
    account, other = await world.account(), process(world)
    upload = await world.opened_and_sent(account, b"patience")
    world.tree.decide = lambda _event: None
    session = await other.session(upload)
    await complete(process(world, commit_wait=0.1), session, account)
    pauses = []
    for _ in range(8):
        session = await other.session(upload)
        assert session.state is UploadState.COMMITTING
        assert session.lease is not None
        pauses.append((session.lease.until - session.updated_at).total_seconds())
        assert await other.completing.announce_again(session)
    assert pauses == [60, 120, 240, 480, 900, 900, 900, 900]
    assert not await other.completing.announce_again(session), "that is over"


async def test_the_janitors_round_announces_what_is_due_and_what_an_older_release_left(world: World) -> None:
    account = await world.account()
    world.tree.decide = lambda _event: None
    uploads = [await world.opened_and_sent(account, name.encode()) for name in ("due", "left", "young")]
    for upload in uploads:
        await complete(process(world, commit_wait=0.1), await process(world).session(upload), account)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    due, left, young = (upload["id"] for upload in uploads)
    rows = world.database[UPLOADS]
    await rows.update_one({"_id": due}, {"$set": {"lease.until": long_ago}})
    await rows.update_one({"_id": left}, {"$set": {"lease": None, "updated_at": long_ago}})
    assert (await world.internal("redrive")).body["done"] == 2
    assert (await world.internal("redrive")).body["done"] == 0

    async def asked() -> bool:
        times = Counter(event.upload_id for event in world.tree.asked)
        return (times[due], times[left], times[young]) == (2, 2, 1)

    await eventually(asked, seconds=10)
    world.tree.decide = accept
    for event in list(world.tree.asked):
        await world.tree.publish(world.tree.verdict(event, accept(event)))
    for upload in uploads:
        await world.until_state(account, upload, "committed")
    assert [row["lease"] async for row in rows.find({"_id": {"$in": [due, left, young]}})] == [None] * 3


async def test_a_small_content_does_not_wait_for_a_large_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composing, "LARGE", len(BASE) - 1)
    account = await world.account()
    base = await version_of(world, account, BASE)
    large, small = made(edited()), made(BASE[: len(BASE) - 1])
    uploads = [await sent(world, account, each, base) for each in (large, small)]
    gate = asyncio.Event()
    store = BadS3(world.store, gates=[gate])
    other = process(world, store, max_compositions=1, commit_wait=20)
    first = asyncio.create_task(complete(other, await other.session(uploads[0]), account))
    await eventually(lambda: _is(store.waiting, 1), seconds=20)
    second = CommitTarget(parent_id=account.namespace_id, name="small")
    session = await other.session(uploads[1])
    await other.completing.complete(session, Device(account.devices[0], "d"), {0: second})
    await world.until_state(account, uploads[1], "committed")
    assert await world.state(account, uploads[0]) == "completing"
    gate.set()
    await first
    await world.until_state(account, uploads[0], "committed")
