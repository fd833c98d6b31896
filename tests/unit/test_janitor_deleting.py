"""Many objects go in few requests where S3 is known to delete so, else one by one; the refused stay."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from libs.contracts.errors import LockstepError, UnavailableError
from libs.storage.port import MAX_DELETED, ObjectStore
from services.janitor.service.deleting import Deleter


class Objects:
    """An S3 in memory that does as it is told."""

    def __init__(self, keys: Sequence[str], *, many: str = "works", refused: Sequence[str] = ()) -> None:
        self.keys = set(keys)
        self.many = many
        self.refused = set(refused)
        self.away = False
        self.requests: list[int] = []
        """How many keys each deletion was about."""

    async def put(self, key: str, _body: bytes) -> None:
        self._check()
        self.keys.add(key)

    async def head(self, key: str) -> object | None:
        return object() if key in self.keys else None

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._check()
            self.requests.append(1)
            if key in self.refused:
                raise LockstepError("S3 refused the request")
            self.keys.discard(key)

    async def delete_many(self, keys: Sequence[str]) -> list[str]:
        self._check()
        if self.many == "unknown":
            raise UnavailableError("501")
        if self.many == "refused" or (self.many == "small ones" and len(keys) > 3):
            raise LockstepError("400")
        assert len(keys) <= MAX_DELETED
        self.requests.append(len(keys))
        if self.many == "lies":
            return []
        self.keys -= set(keys) - self.refused
        return [key for key in keys if key in self.refused or self.many == "says nothing"]

    def _check(self) -> None:
        if self.away:
            raise UnavailableError


def deleter(objects: Objects) -> Deleter:
    return Deleter(cast("ObjectStore", cast("Any", objects)))


def named(count: int) -> list[str]:
    return [f"t/{number}" for number in range(count)]


async def test_many_objects_go_in_requests_of_a_thousand() -> None:
    objects = Objects(named(2500))
    assert await deleter(objects).delete(named(2500)) == set()
    assert objects.keys == set()
    assert sorted(objects.requests) == [3, 500, 1000, 1000], "the three are the trial"


async def test_the_trial_is_made_once() -> None:
    objects = Objects(named(50))
    made = deleter(objects)
    await made.delete(named(25))
    await made.delete(named(50))
    assert objects.requests == [3, 25, 50]


async def test_few_objects_need_no_trial() -> None:
    objects = Objects(named(8))
    assert await deleter(objects).delete(named(8)) == set()
    assert (objects.keys, objects.requests) == (set(), [1] * 8)
    assert await deleter(objects).delete([]) == set()


@pytest.mark.parametrize("many", ["works", "unknown"])
async def test_what_is_refused_is_returned_and_keeps_nothing_else(many: str) -> None:
    objects = Objects(named(30), many=many, refused=["t/7", "t/29"])
    assert await deleter(objects).delete(named(30)) == {"t/7", "t/29"}
    assert objects.keys == {"t/7", "t/29"}


@pytest.mark.parametrize("many", ["unknown", "refused", "lies", "says nothing"])
async def test_where_many_cannot_be_deleted_at_once_they_go_one_by_one(many: str) -> None:
    objects = Objects(named(30), many=many)
    assert await deleter(objects).delete(named(30)) == set()
    assert objects.keys == set(), "of the trial nothing stays either"
    assert objects.requests.count(1) >= 30


async def test_a_request_that_is_refused_though_the_trial_was_not_holds_nothing_up() -> None:
    objects = Objects(named(30), many="small ones", refused=["t/7"])
    assert await deleter(objects).delete(named(30)) == {"t/7"}
    assert objects.keys == {"t/7"}


async def test_an_s3_that_is_away_is_said_to_be_and_is_tried_out_later() -> None:
    objects = Objects(named(30))
    made = deleter(objects)
    objects.away = True
    with pytest.raises(UnavailableError):
        await made.delete(named(30))
    with pytest.raises(UnavailableError):
        await made.delete(named(3))
    objects.away = False
    assert await made.delete(named(30)) == set()
    assert objects.requests == [3, 30]
