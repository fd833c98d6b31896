"""The delta object: what is written is read back, and nothing that a stranger sends costs memory."""

import hashlib
import io
import struct
import tracemalloc
from collections.abc import AsyncGenerator, Iterator
from random import Random

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.contracts import recipe as recipes
from libs.contracts.binary import MalformedError
from libs.contracts.chunks import Manifest
from libs.contracts.limits import GIB, MIB
from libs.contracts.recipe import MAX_OPS, Copy, Literal, Op, Range, Recipe, check, recipe_of
from libs.delta.chunker import Chunker
from libs.delta.package import Delta, Reader, ShortReadError, largest, write
from libs.delta.rebuild import rebuilt, windows
from tests.support.edits import edited, pieces_of, random_content


def chunked(content: bytes) -> Manifest:
    chunker = Chunker(4096)
    chunker.update(content)
    return chunker.finish()


def written(recipe: Recipe, target: bytes) -> bytes:
    out = io.BytesIO()
    announced = write(recipe, lambda at, length: target[at : at + length], out)
    data = out.getvalue()
    assert announced.size == len(data)
    assert announced.sha256 == hashlib.sha256(data).hexdigest()
    return data


def package(recipe: bytes, literals: bytes) -> bytes:
    """Return a delta object of frames that may be anything."""
    return struct.pack("<4sBI", b"LSDL", 1, len(recipe)) + recipe + literals


def read(pieces: list[bytes]) -> tuple[Recipe, bytes]:
    reader = Reader()
    literals = b"".join(literal for piece in pieces for literal in reader.feed(piece))
    reader.finish()
    assert reader.recipe is not None
    return reader.recipe, literals


async def streamed(pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def carried_out(base: bytes, pieces: list[bytes], *, gap: int = 50_000) -> bytes:
    async def fetched(part: Range) -> AsyncGenerator[bytes, None]:
        for at in range(part.offset, part.end, 5000):
            yield base[at : min(at + 5000, part.end)]

    delta = Delta(streamed(pieces))
    recipe = await delta.recipe()
    check(recipe, len(base), recipe.size)
    return b"".join([piece async for piece in rebuilt(recipe, fetched, delta.literals(), gap=gap)])


# There and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
async def test_base_and_delta_give_the_target_whatever_was_edited(seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    base = random_content(random, random.randint(0, 400_000))
    target = edited(random, base, random.randint(0, 12))
    data = written(recipe_of(chunked(base), chunked(target)), target)
    for most in (50, len(data) + 1):
        pieces = pieces_of(random, data, most)
        assert await carried_out(base, pieces, gap=random.choice((1, 5000, MIB))) == target


@pytest.mark.parametrize("ops", [(), (Copy(0, 5),), (Literal(5),), (Literal(2), Copy(0, 2), Literal(1))])
async def test_a_delta_without_copies_or_without_literals_is_one(ops: tuple[Op, ...]) -> None:
    target = b"abcde"[: Recipe(ops).size]
    base = target if ops and isinstance(ops[0], Copy) else target[2:4]
    assert await carried_out(base, [written(Recipe(ops), target)]) == target


def test_the_longest_recipe_is_read_back() -> None:
    random = Random(1)
    ops = tuple(Copy(random.getrandbits(59), random.getrandbits(59) + 1) for _ in range(MAX_OPS))
    assert read([written(Recipe(ops), b"")]) == (Recipe(ops), b"")


@pytest.mark.parametrize("step", [1, 100, 5 * MIB])
def test_no_delta_object_of_a_content_is_longer_than_the_largest(step: int) -> None:
    size = min(5 * MIB, step * MAX_OPS)
    ops = tuple(Literal(min(step, size - at)) for at in range(0, size, step))
    delta = written(Recipe(ops), Random(1).randbytes(size))
    assert size < len(delta) <= largest(size)


def test_text_travels_compressed() -> None:
    text = b"".join(b"line %d of a text\n" % n for n in range(10_000))
    assert len(written(Recipe((Literal(len(text)),)), text)) < len(text) / 4


def test_a_target_that_became_shorter_is_noticed() -> None:
    with pytest.raises(ShortReadError):
        written(Recipe((Literal(10),)), b"short")


def test_the_target_may_be_read_in_short_pieces() -> None:
    out = io.BytesIO()
    write(Recipe((Literal(10),)), lambda at, length: b"0123456789"[at : at + min(length, 3)], out)
    assert read([out.getvalue()])[1] == b"0123456789"


def test_memory_is_bounded_whatever_is_sent() -> None:
    block = Random(2).randbytes(MIB)
    size = 64 * MIB

    def target(at: int, length: int) -> bytes:
        return block[at % MIB : at % MIB + length]

    out = io.BytesIO()
    recipe = Recipe((Literal(size),))
    write(recipe, target, out)
    data = out.getvalue()
    reader, total = Reader(), 0
    tracemalloc.start()
    try:
        write(recipe, target, _Nowhere())
        for at in range(0, len(data), 65536):
            total += sum(map(len, reader.feed(data[at : at + 65536])))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == size
    assert peak < 4 * MIB


class _Nowhere(io.BytesIO):
    def write(self, data: object) -> int:
        return 0


# What a stranger sends ---------------------------------------------------------------------------


def sample() -> bytes:
    target = Random(3).randbytes(3000)
    return written(Recipe((Literal(1000), Copy(0, 1000), Literal(1000))), target)


@settings(deadline=None)
@given(st.integers(0, 2**16))
def test_a_delta_that_is_cut_off_is_refused(at: int) -> None:
    whole = sample()
    with pytest.raises(MalformedError):
        read([whole[: at % len(whole)]])


def test_whatever_follows_a_delta_is_refused() -> None:
    for pieces in ([sample() + b"x"], [sample(), b"x"], [sample() + sample()]):
        with pytest.raises(MalformedError, match="follows"):
            read(pieces)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**16), st.integers(0, 255), st.integers(1, 4000))
def test_any_changed_byte_gives_as_many_literals_as_the_recipe_says_or_a_refusal(
    at: int, value: int, size: int
) -> None:
    wrong = bytearray(sample())
    wrong[at % len(wrong)] = value
    try:
        recipe, literals = read([bytes(wrong[n : n + size]) for n in range(0, len(wrong), size)])
    except MalformedError:
        return
    assert len(literals) == recipe.literal_bytes


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(data: bytes) -> None:
    for noise in (data, package(b"", data), package(data, b""), sample()[:9] + data):
        with pytest.raises(MalformedError):
            read([noise])


async def test_a_stream_that_ends_too_early_is_refused() -> None:
    whole = sample()
    for end in (0, 5, 20, len(whole) - 1):
        with pytest.raises(MalformedError):
            await carried_out(bytes(1000), [whole[:end]])


def test_a_recipes_frame_that_grows_beyond_every_recipe_is_refused() -> None:
    bomb = zstd.compress(bytes(GIB // 16))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            read([package(bomb, b"")])
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_literals_that_grow_beyond_the_recipe_are_refused_at_once() -> None:
    recipe = zstd.compress(recipes.encode(Recipe((Literal(MIB),))))
    bomb = package(recipe, zstd.compress(bytes(GIB // 16)))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="more than its recipe"):
            _exhausted(Reader().feed(bomb))
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def _exhausted(literals: Iterator[bytes]) -> None:
    total = 0
    for literal in literals:
        total += len(literal)
        assert total <= MIB


def test_a_window_that_asks_for_much_memory_is_refused() -> None:
    greedy = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=greedy)  # type: ignore[arg-type]  # keys are integers
    frame = compressor.compress(bytes(MIB)) + compressor.flush()
    recipe = zstd.compress(recipes.encode(Recipe((Literal(MIB),))))
    with pytest.raises(MalformedError, match="compressed"):
        read([package(recipe, frame)])


def test_a_recipe_announced_as_longer_than_any_is_not_waited_for() -> None:
    with pytest.raises(MalformedError, match="no delta"):
        list(Reader().feed(struct.pack("<4sBI", b"LSDL", 1, 2**31)))


def test_the_number_of_steps_is_bounded() -> None:
    recipe = Recipe((Literal(1),) * 10)
    with pytest.raises(MalformedError, match="too many"):
        list(Reader(max_ops=9).feed(written(recipe, bytes(10))))


# Carrying out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "literals"), [(b"a", b"xyz"), (b"abc", b"xyz"), (b"ab", b"x"), (b"ab", b"xyzz")]
)
async def test_what_gives_another_number_of_bytes_than_the_recipe_says_is_refused(
    base: bytes, literals: bytes
) -> None:
    recipe = Recipe((Literal(1), Copy(0, 2), Literal(2)))
    with pytest.raises(MalformedError):
        _ = [p async for p in rebuilt(recipe, lambda _: streamed([base]), streamed([literals]))]


def test_copies_that_lie_one_behind_the_other_are_one_request() -> None:
    recipe = Recipe((Copy(0, 10), Literal(5), Copy(12, 3), Copy(15, 5), Literal(1), Copy(30, 5)))
    assert list(windows(recipe, 10)) == [Range(0, 20), Range(30, 5)]
    assert list(windows(recipe, 11)) == [Range(0, 35)]
    assert list(windows(recipe, 1)) == [Range(0, 10), Range(12, 8), Range(30, 5)]


def test_a_copy_from_further_back_is_a_request_of_its_own() -> None:
    assert list(windows(Recipe((Copy(10, 5), Copy(0, 5), Copy(3, 4), Copy(7, 1))), 100)) == [
        Range(10, 5),
        Range(0, 5),
        Range(3, 5),
    ]
    assert list(windows(Recipe((Literal(1),)))) == []


async def test_a_range_of_the_base_is_closed_when_the_rest_is_not_wanted() -> None:
    closed = []

    async def fetched(part: Range) -> AsyncGenerator[bytes, None]:
        try:
            yield bytes(1)
            yield bytes(part.length - 1)
        finally:
            closed.append(part)

    target = rebuilt(Recipe((Copy(0, 10),)), fetched, streamed([]))
    assert await anext(target) == bytes(1)
    await target.aclose()
    assert closed == [Range(0, 10)]
