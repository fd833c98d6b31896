"""The manifests that the download service keeps, and who may wait for a comparison."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from libs.contracts.chunks import Manifest
from libs.contracts.errors import ConflictError
from libs.contracts.keys import manifest_key, namespace_of
from libs.delta.content import ContentReader
from services.download.domain import Readable, Wanted
from services.download.service.deltas import Deltas
from services.download.service.manifests import Manifests
from tests.support.waiting import eventually

_SIZE = 300_000


class Store:
    """A store of manifests that gives them when it is let."""

    def __init__(self, *items: Readable) -> None:
        self._bodies = {_key(item): b"".join(_manifest(item).encode()) for item in items}
        self.open = asyncio.Event()
        self.reads: Counter[str] = Counter()

    async def read(
        self, key: str, _offset: int = 0, _length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        self.reads[key] += 1
        await self.open.wait()
        yield self._bodies[key]

    async def asked(self, item: Readable, times: int) -> bool:
        return self.reads[_key(item)] == times


def _item(name: str) -> Readable:
    key = f"t/{'n' * 24}/{name}-0"
    return Readable(f"node {name}", f"version {name}", name, key, _SIZE, "hash", f"object {name}")


def _key(item: Readable) -> str:
    return manifest_key(namespace_of(item.key), item.object_id)


def _manifest(item: Readable) -> Manifest:
    reader = ContentReader(item.size)
    reader.update(random.Random(item.object_id).randbytes(item.size))
    manifest = reader.manifest()
    assert manifest is not None
    return manifest


def manifests(store: Store, *, holding: int) -> Manifests:
    most = max(len(_manifest(_item(name))) for name in "ab")
    return Manifests(cast("Any", store), cache_bytes=holding * most * 20, small_bytes=0)


async def test_a_manifest_that_many_read_at_once_takes_the_room_of_one() -> None:
    first, second = _item("a"), _item("b")
    store = Store(first, second)
    kept = manifests(store, holding=2)
    many = [asyncio.create_task(kept.of(first)) for _ in range(5)]
    await eventually(lambda: store.asked(first, len(many)), seconds=10)
    store.open.set()
    await asyncio.gather(*many)
    await kept.of(second)
    await kept.of(first)
    await kept.of(second)
    assert store.reads == {_key(first): len(many), _key(second): 1}


async def test_what_has_no_room_is_not_kept_and_leaves_room_for_others() -> None:
    store = Store(_item("a"), _item("b"))
    store.open.set()
    kept = manifests(store, holding=1)
    for name in "abab":
        await kept.of(_item(name))
    await kept.of(_item("b"))
    assert store.reads == {_key(_item("a")): 2, _key(_item("b")): 2}


class Files:
    """Finds every file, all of one size."""

    async def found(self, wanted: Wanted, _check: object) -> Readable:
        return _item(wanted.node_id)


async def test_who_comes_when_too_many_wait_is_told_to_fetch_the_whole() -> None:
    store = Store(_item("a"), _item("b"))
    deltas = Deltas(cast("Any", Files()), manifests(store, holding=2), 1000)

    async def ask() -> None:
        await deltas.between(Wanted("a", None), Wanted("b", None), cast("Any", None))

    waiting = [asyncio.create_task(ask()) for _ in range(2 + 32)]
    await eventually(lambda: store.asked(_item("a"), 2), seconds=10)
    with pytest.raises(ConflictError) as refused:
        await ask()
    assert refused.value.code == "no_delta"
    assert sum(store.reads.values()) == 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    store.open.set()
    with pytest.raises(ConflictError):  # two contents that have nothing in common
        await ask()
    assert sum(store.reads.values()) == 4
