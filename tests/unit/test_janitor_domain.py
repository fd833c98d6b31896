"""What the janitor may remove, how it verifies, when jobs run."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from libs.contracts.errors import NotFoundError, UnavailableError
from libs.contracts.ids import new_id
from libs.contracts.internal import HousedObject
from services.janitor.domain import Reading, is_claimed, is_old, may_sweep_objects, unowned
from services.janitor.service.verification import Verifier
from tests.support.waiting import eventually

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DAY = 86400.0


@pytest.mark.parametrize(("age", "old"), [(0, False), (DAY - 1, False), (DAY, True), (2 * DAY, True)])
def test_only_what_is_past_the_grace_time_is_old(age: float, old: bool) -> None:
    assert is_old(NOW - timedelta(seconds=age), NOW, DAY) is old


@pytest.mark.parametrize(("age", "allowed"), [(0, False), (29 * DAY, False), (30 * DAY, True)])
def test_no_unowned_object_is_removed_within_30_days_of_a_new_epoch(age: float, allowed: bool) -> None:
    epoch = int((NOW.timestamp() - age) * 1000)
    assert may_sweep_objects(epoch, NOW, 30 * DAY) is allowed


def test_what_any_service_knows_is_owned() -> None:
    assert unowned(["a", "b", "c"], {"a"}, {"c", "x"}) == ["b"]
    assert unowned([], set()) == []


@pytest.mark.parametrize(
    ("reading", "claimed"),
    [(Reading(3, "abc"), True), (Reading(2, "abc"), False), (Reading(3, "abd"), False), (None, False)],
)
def test_bytes_are_claimed_when_size_and_hash_agree(reading: Reading | None, claimed: bool) -> None:
    assert is_claimed(reading, size=3, content_hash="abc") is claimed


@dataclass(frozen=True)
class BrokenOff:
    """A reading that gives so many bytes of a content."""

    content: bytes
    after: int


def test_where_no_epoch_was_ever_begun_no_unowned_object_is_removed() -> None:
    assert not may_sweep_objects(0, NOW, 0)


class Readings:
    """S3 as the verifier uses it: each reading gives the next of these contents."""

    def __init__(self, *contents: bytes | BrokenOff | Exception) -> None:
        self._contents = list(contents)
        self.manifest: object | None = None
        self.put_keys: list[str] = []

    async def read(
        self, _key: str, offset: int, length: int, *, etag: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        assert etag is None, "whatever is there now is what is judged"
        content = self._contents.pop(0)
        if isinstance(content, Exception):
            raise content
        given = content[: offset + length] if isinstance(content, bytes) else content.content[: content.after]
        for start in range(offset, len(given), 1000):
            yield given[start : start + 1000]
        if isinstance(content, BrokenOff):
            raise UnavailableError("broken off")

    async def head(self, _key: str) -> object | None:
        return self.manifest

    async def put(self, key: str, _body: bytes) -> None:
        self.put_keys.append(key)


class Reports:
    def __init__(self, error: Exception | None = None) -> None:
        self.results: list[bool] = []
        self._error = error

    async def verified(self, object_id: str, *, ok: bool) -> None:
        if self._error:
            raise self._error
        self.results.append(ok)


CONTENT = b"content " * 1000
LARGE = b"large content" * 25_000


def item(content: bytes = CONTENT) -> HousedObject:
    digest = hashlib.sha256(content).hexdigest()
    return HousedObject(id=new_id(), key="t/namespace/x-0", size=len(content), content_hash=digest)


def verifier(store: Readings, reports: Reports) -> Verifier:
    return Verifier(store, reports)  # type: ignore[arg-type]  # only `read` is used


@pytest.mark.parametrize(
    ("contents", "ok"),
    [
        ([CONTENT], True),
        ([CONTENT[:-1], CONTENT], True),
        ([CONTENT[:-1], CONTENT[:-1]], False),
        ([NotFoundError(), NotFoundError()], False),
        ([CONTENT + b"more", CONTENT + b"more"], False),
        ([BrokenOff(CONTENT, 2000), BrokenOff(CONTENT, 2500), CONTENT], True),
        ([BrokenOff(CONTENT, len(CONTENT)), CONTENT], True),
    ],
    ids=[
        "right",
        "cut short once",
        "cut short",
        "gone",
        "longer",
        "broken off twice",
        "broken off at the end",
    ],
)
async def test_a_mismatch_is_believed_only_when_a_second_reading_agrees(
    contents: list[bytes | BrokenOff | Exception], ok: bool
) -> None:
    reports = Reports()
    assert await verifier(Readings(*contents), reports).verify(item()) is ok
    assert reports.results == [ok]


@pytest.mark.parametrize(
    "contents",
    [[CONTENT[:-1], CONTENT[1:]], [NotFoundError(), CONTENT[1:]]],
    ids=["other bytes", "gone once"],
)
async def test_two_wrong_readings_that_differ_condemn_nothing(contents: list[bytes | Exception]) -> None:
    reports = Reports()
    with pytest.raises(UnavailableError):
        await verifier(Readings(*contents), reports).verify(item())
    assert reports.results == []


async def test_an_empty_object_is_verified() -> None:
    assert await verifier(Readings(b""), Reports()).verify(item(b"")) is True


@pytest.mark.parametrize(
    "contents",
    [[UnavailableError()], [BrokenOff(CONTENT, 2000), UnavailableError()], [BrokenOff(CONTENT, 2000)] * 2],
    ids=["away", "away in the middle", "never further"],
)
async def test_nothing_is_reported_while_s3_does_not_answer(contents: list[BrokenOff | Exception]) -> None:
    reports = Reports()
    with pytest.raises(UnavailableError):
        await verifier(Readings(*contents), reports).verify(item())
    assert reports.results == []


async def test_an_object_that_metadata_has_forgotten_meanwhile_is_no_error() -> None:
    assert await verifier(Readings(CONTENT), Reports(NotFoundError())).verify(item()) is True


async def test_a_failure_does_not_stop_the_verification_of_others() -> None:
    reports = Reports()
    subject = verifier(Readings(UnavailableError(), CONTENT), reports)
    subject.add(item())
    subject.add(item())
    task = asyncio.create_task(subject.run())

    async def reported() -> bool:
        return bool(reports.results)

    await eventually(reported, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert reports.results == [True]


@pytest.mark.parametrize(
    ("contents", "results", "manifests"),
    [([LARGE], [], 1), ([LARGE[1:], LARGE], [True], 1), ([LARGE[1:]] * 3, [False], 0)],
    ids=["right", "misread once", "wrong"],
)
async def test_an_object_that_s3_has_checked_and_that_is_read_for_its_chunks_is_reported_when_it_is_wrong(
    contents: list[bytes], results: list[bool], manifests: int
) -> None:
    reports, store = Reports(), Readings(*contents)
    await verifier(store, reports).chunk(item(LARGE))
    assert reports.results == results
    assert len(store.put_keys) == manifests


@pytest.mark.parametrize("is_there", [False, True])
async def test_a_manifest_is_made_with_the_verification_unless_it_is_there(is_there: bool) -> None:
    reports, store = Reports(), Readings(LARGE, LARGE[1:], LARGE[1:])
    store.manifest = object() if is_there else None
    subject = verifier(store, reports)
    assert await subject.verify(item(LARGE))
    assert len(store.put_keys) == (not is_there)
    assert not await subject.verify(item(LARGE)), "whether there is one says nothing of the content"
    assert reports.results == [True, False]


async def test_a_giant_that_is_being_read_holds_up_other_giants_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = asyncio.Event()
    begun: list[str] = []
    work = verifier(Readings(), Reports())

    async def verify(one: HousedObject) -> bool:
        begun.append(one.key)
        if one.size > 1:
            await done.wait()
        return True

    monkeypatch.setattr(work, "verify", verify)
    sizes = {"giant": 5 * 1024**4, "other giant": 5 * 1024**4, "small": 1}
    for key, size in sizes.items():
        work.add(HousedObject(id=new_id(), key=key, size=size, content_hash="0" * 64))
    tasks = [asyncio.create_task(work.run()) for _ in range(2)]
    try:
        await eventually(lambda: _is(begun == ["giant", "small"]), seconds=5)
        done.set()
        await eventually(lambda: _is("other giant" in begun), seconds=5)
    finally:
        for task in tasks:
            task.cancel()


async def _is(fact: bool) -> bool:
    return fact
