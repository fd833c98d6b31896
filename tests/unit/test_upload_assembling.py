"""Which parts of a content S3 can copy from its base, and how the bytes are cut into parts."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import cast

import pytest

from libs.contracts.limits import GIB, MAX_PARTS, MIB
from libs.contracts.recipe import Copy, Literal, Op, Range, Recipe
from libs.delta.rebuild import copied_parts
from libs.storage.port import ObjectStore, PartToJoin, Slice, StoredObject
from services.upload.service.assembling import PART, Assembly, Layout, in_one

BASE = StoredObject("t/n/base", 10 * GIB, datetime(2026, 1, 1, tzinfo=UTC), '"etag"')


def made(ops: Sequence[Op], base: bytes, literals: bytes) -> bytes:
    out, used = b"", 0
    for op in ops:
        if isinstance(op, Copy):
            out += base[op.offset : op.offset + op.length]
        else:
            out += literals[used : used + op.length]
            used += op.length
    return out


def random_ops(rng: random.Random, base_size: int) -> tuple[Op, ...]:
    ops: list[Op] = []
    for _ in range(rng.randrange(1, 12)):
        length = rng.randrange(1, 40)
        if rng.random() < 0.7:
            ops.append(Copy(rng.randrange(base_size - length), length))
        else:
            ops.append(Literal(length))
    return tuple(ops)


def test_a_part_is_a_copy_exactly_when_one_step_covers_it_and_then_of_the_same_bytes() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    copies = 0
    for _ in range(2000):
        base, literals = rng.randbytes(200), rng.randbytes(500)
        ops, part_size = random_ops(rng, len(base)), rng.randrange(1, 30)
        target = made(ops, base, literals)
        parts = copied_parts(Recipe(ops), part_size)
        assert len(parts) == -(-len(target) // part_size)
        ends = [0, *_sums(op.length for op in ops)]
        for index, part in enumerate(parts):
            start, end = index * part_size, min((index + 1) * part_size, len(target))
            covering = [op for op, (a, b) in zip(ops, pairwise(ends), strict=True) if a <= start and end <= b]
            assert (part is not None) == (bool(covering) and isinstance(covering[0], Copy))
            if part is not None:
                copies += 1
                assert base[part.offset : part.end] == target[start:end]
    assert copies > 1000


def _sums(lengths: Iterable[int]) -> list[int]:
    total, sums = 0, []
    for length in lengths:
        total += length
        sums.append(total)
    return sums


def edited(size: int, at: int, count: int = 1000) -> Recipe:
    return Recipe((Copy(0, at), Literal(count), Copy(at + count, size - at - count)))


def test_of_an_edit_in_place_one_part_is_sent_and_nothing_is_cut_anew() -> None:
    layout = Layout.of(edited(100 * MIB, 50 * MIB), BASE, may_copy=True)
    sent = [number for number in range(1, 14) if layout.copy(number) is None]
    assert sent == [7]
    last = layout.copy(13)
    assert last is not None
    assert (last.key, last.etag, last.range) == ("t/n/base", '"etag"', Range(96 * MIB, 4 * MIB))
    assert (layout.part_size, layout.noted) == (PART, 0)


def test_behind_an_insertion_parts_are_copied_from_between_those_of_the_base_and_that_is_counted() -> None:
    recipe = Recipe((Literal(1000), Copy(0, 100 * MIB)))
    layout = Layout.of(recipe, replace(BASE, copied=2), may_copy=True)
    assert layout.copy(1) is None
    second = layout.copy(2)
    assert second is not None
    assert second.range == Range(PART - 1000, PART)
    assert layout.noted == 3
    assert Layout.of(edited(100 * MIB, 7), replace(BASE, copied=2), may_copy=True).noted == 2


def test_an_object_that_was_cut_anew_too_often_is_sent_whole_and_counted_from_the_start() -> None:
    recipe = Recipe((Literal(1000), Copy(0, 100 * MIB)))
    assert Layout.of(recipe, replace(BASE, copied=15), may_copy=True).noted == 16
    assert Layout.of(recipe, replace(BASE, copied=16), may_copy=True) == Layout(PART)
    assert Layout(PART).noted is None
    assert Layout.of(edited(100 * MIB, 7), replace(BASE, copied=16), may_copy=True).noted == 16


@pytest.mark.parametrize("why", ["S3 cannot", "no ETag", "nothing whole", "small base"])
def test_everything_is_sent_where_nothing_can_be_copied(why: str) -> None:
    recipe = edited(12 * MIB, 6 * MIB, 3 * MIB) if why == "nothing whole" else edited(100 * MIB, 50 * MIB)
    base = replace(BASE, etag=None) if why == "no ETag" else BASE
    if why == "small base":
        base, recipe = (
            replace(BASE, size=5 * MIB),
            Recipe((Copy(0, 5 * MIB), Copy(0, 3 * MIB), Copy(0, 4 * MIB))),
        )
    layout = Layout.of(recipe, base, may_copy=why != "S3 cannot")
    assert (layout.copies, layout.noted, layout.copy(1)) == ((), None, None)


def test_parts_of_huge_contents_grow_so_that_s3_takes_them_all() -> None:
    size = 900 * GIB
    layout = Layout.of(Recipe((Copy(0, size - 1), Literal(1))), replace(BASE, size=size), may_copy=True)
    assert len(layout.copies) <= MAX_PARTS
    assert all(layout.copies[:-1])


def test_pieces_of_any_size_are_cut_into_parts_of_one_size_with_a_rest_that_is_never_empty() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(500):
        content, part_size = rng.randbytes(rng.randrange(1, 300)), rng.randrange(1, 40)
        assembly = Assembly(None, "key", Layout(part_size), "upload")  # type: ignore[arg-type]
        at, parts = 0, list[bytes]()
        while at < len(content):
            step = rng.randrange(1, 100)
            parts += [bytes(part) for part in assembly.cut(content[at : at + step])]
            at += step
        rest = bytes(assembly.rest())
        assert all(len(part) == part_size for part in parts)
        assert 1 <= len(rest) <= part_size
        assert b"".join([*parts, rest]) == content


def test_what_goes_in_one_request_is_not_cut() -> None:
    assembly = Assembly(None, "key", Layout(PART), None)  # type: ignore[arg-type]
    assert list(assembly.cut(bytes(PART + 5))) == []
    assert len(assembly.rest()) == PART + 5
    assert in_one(10 * MIB)
    assert not in_one(10 * MIB + 1)


class SlowStore:
    """Takes parts only when it is let, and counts how many wait at once."""

    def __init__(self) -> None:
        self.sending = self.copying = self.most_sending = self.most_copying = 0
        self.turn = asyncio.Event()

    async def put_part(
        self, _key: str, _upload_id: str, number: int, _body: bytes, *, copying: bool
    ) -> PartToJoin:
        assert copying
        self.sending += 1
        self.most_sending = max(self.most_sending, self.sending)
        await self.turn.wait()
        self.sending -= 1
        return PartToJoin(number, "sent")

    async def copy_part(self, _key: str, _upload_id: str, number: int, _source: Slice) -> PartToJoin:
        self.copying += 1
        self.most_copying = max(self.most_copying, self.copying)
        await self.turn.wait()
        self.copying -= 1
        return PartToJoin(number, "copied")

    async def complete_multipart(self, _key: str, _upload_id: str, parts: Sequence[PartToJoin]) -> None:
        self.joined = list(parts)


async def test_few_parts_are_under_way_at_once_and_all_are_joined_in_their_order() -> None:
    store, copy = SlowStore(), Slice("base", "etag", Range(0, 1))
    kinds = [None if number % 3 == 0 else copy for number in range(30)]
    assembly = Assembly(cast("ObjectStore", store), "key", Layout(1, tuple(kinds)), "upload")

    async def feed() -> None:
        for _ in kinds:
            await assembly.take(bytearray(1))
        await assembly.finish()

    feeding = asyncio.create_task(feed())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not feeding.done()
    assert 0 < store.most_sending <= 2
    assert 0 < store.most_copying <= 4
    store.turn.set()
    await feeding
    assert store.most_sending <= 2
    assert store.most_copying <= 4
    named = ["sent" if kind is None else "copied" for kind in kinds]
    assert [(part.number, part.etag) for part in store.joined] == list(enumerate(named, 1))
