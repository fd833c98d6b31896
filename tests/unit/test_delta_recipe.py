"""Recipes: what two contents have in common, and nothing that a stranger writes is carried out unseen."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.contracts.binary import LARGEST, MalformedError, get_varint, put_varint, unzigzag, zigzag
from libs.contracts.chunks import Chunk, Manifest
from libs.contracts.recipe import (
    MAX_RECIPE_BYTES,
    Copy,
    Literal,
    Op,
    Range,
    Recipe,
    RecipeTooLongError,
    chained,
    check,
    coalesce,
    decode,
    encode,
    recipe_of,
)
from libs.delta.chunker import Chunker
from tests.support.edits import edited, random_content

A, B, C, D = (bytes([n]) * 16 for n in range(4))


def manifest(*digests: bytes, length: int = 4096) -> Manifest:
    return Manifest.of(4096, [Chunk(length, digest) for digest in digests])


def chunked(content: bytes, average: int = 4096) -> Manifest:
    chunker = Chunker(average)
    chunker.update(content)
    return chunker.finish()


def applied(recipe: Recipe, base: bytes, target: bytes) -> bytes:
    """Carry a recipe out, its literals taken from the target."""
    return b"".join(
        base[op.offset : op.offset + op.length] if isinstance(op, Copy) else target[at : at + op.length]
        for at, op in recipe.placed()
    )


# Numbers -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, LARGEST - 1), st.binary(max_size=3))
def test_a_number_is_read_as_it_was_written(value: int, more: bytes) -> None:
    out = bytearray(b"x")
    put_varint(out, value)
    assert get_varint(bytes(out) + more, 1) == (value, len(out))


@settings(deadline=None)
@given(st.integers(-(2**60), 2**60))
def test_a_signed_number_is_folded_and_unfolded(value: int) -> None:
    assert unzigzag(zigzag(value)) == value
    assert zigzag(value) >= 0


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 8 + b"\x7f"])
def test_a_number_in_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        get_varint(data, 0)


# Making one --------------------------------------------------------------------------------------


def test_equal_contents_are_one_copy() -> None:
    assert recipe_of(manifest(A, B, C), manifest(A, B, C)).ops == (Copy(0, 3 * 4096),)


def test_chunks_that_the_base_lacks_are_one_literal() -> None:
    ops = recipe_of(manifest(A, B), manifest(A, C, D, B)).ops
    assert ops == (Copy(0, 4096), Literal(8192), Copy(4096, 4096))


def test_the_occurrence_that_continues_the_run_is_preferred() -> None:
    ops = recipe_of(manifest(A, B, C, A, D), manifest(C, A, D)).ops
    assert ops == (Copy(2 * 4096, 3 * 4096),)


def test_a_digest_of_another_length_is_another_chunk() -> None:
    ops = recipe_of(manifest(A, length=4096), manifest(A, length=4097)).ops
    assert ops == (Literal(4097),)


def test_nothing_is_made_of_nothing() -> None:
    assert recipe_of(manifest(), manifest()).ops == ()
    assert recipe_of(manifest(), manifest(A)).ops == (Literal(4096),)
    assert recipe_of(manifest(A), manifest()).ops == ()


def test_contents_that_differ_in_too_many_places_have_no_recipe() -> None:
    with pytest.raises(RecipeTooLongError):
        recipe_of(manifest(A), manifest(*[A, B] * 3), max_ops=5)
    assert len(recipe_of(manifest(A), manifest(*[A, B] * 3), max_ops=6).ops) == 6


@pytest.mark.parametrize("seed", range(25))
def test_a_recipe_gives_the_target_whatever_was_edited(seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    base = random_content(random, random.randint(0, 400_000))
    target = edited(random, base, random.randint(0, 12))
    recipe = recipe_of(chunked(base), chunked(target))
    check(recipe, len(base), len(target))
    assert applied(recipe, base, target) == target
    assert recipe.literal_bytes + recipe.copied_bytes == recipe.size == len(target)


def test_a_small_edit_costs_a_few_chunks() -> None:
    base = Random(1).randbytes(2_000_000)
    target = base[:1_000_000] + b"!" + base[1_000_001:]
    recipe = recipe_of(chunked(base), chunked(target))
    assert recipe.literal_bytes < 40_000
    assert len(encode(recipe)) < 40


def test_a_moved_block_is_not_sent() -> None:
    base = Random(2).randbytes(2_000_000)
    target = base[1_000_000:] + base[:1_000_000]
    assert recipe_of(chunked(base), chunked(target)).literal_bytes < 60_000


def test_digests_that_differ_only_at_the_end_are_told_apart() -> None:
    alike = manifest(*(bytes(12) + n.to_bytes(4, "big") for n in range(100_000)))
    assert recipe_of(alike, alike).ops == (Copy(0, alike.size),)


# What is allowed ---------------------------------------------------------------------------------


def test_copies_may_repeat_and_overlap() -> None:
    check(Recipe((Copy(0, 10), Copy(5, 5), Copy(0, 10), Literal(1))), 10, 26)


@pytest.mark.parametrize(
    "ops",
    [
        (Copy(0, 11),),
        (Copy(-1, 5), Literal(5)),
        (Copy(6, 5), Literal(5)),
        (Copy(0, 0), Literal(10)),
        (Literal(0), Literal(10)),
        (Literal(-1), Literal(11)),
        (Copy(0, -1), Literal(11)),
        (Literal(9),),
        (Literal(11),),
        (Literal(2**64), Literal(10)),
        (Copy(2**64, 10),),
        (),
        (Literal(2),) * 5,
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused(ops: tuple[Op, ...]) -> None:
    with pytest.raises(MalformedError):
        check(Recipe(ops), 10, 10, max_ops=4)


# One after the other ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_two_recipes_chained_give_the_target_of_the_first_content(seed: int) -> None:
    rng = Random(seed)
    first = random_content(rng, 200_000)
    between = edited(rng, first, 3)
    last = edited(rng, between, 3)
    outer, inner = recipe_of(chunked(between), chunked(last)), recipe_of(chunked(first), chunked(between))

    recipe = chained(outer, inner)

    check(recipe, len(first), len(last))
    assert applied(recipe, first, last) == last
    assert recipe.literal_bytes >= outer.literal_bytes


def test_what_the_way_there_has_no_bytes_for_is_new_and_what_continues_is_joined() -> None:
    inner = Recipe((Copy(100, 10), Literal(5), Copy(110, 10)))
    outer = Recipe((Copy(5, 15), Literal(3), Copy(0, 5), Copy(20, 5)))
    assert chained(outer, inner).ops == (
        Copy(105, 5), Literal(5), Copy(110, 5), Literal(3), Copy(100, 5), Copy(115, 5),
    )  # fmt: skip
    whole = Recipe((Copy(0, 25),))
    assert chained(whole, Recipe((Copy(7, 5), Copy(12, 20)))).ops == (Copy(7, 25),)
    assert chained(outer, Recipe((Literal(25),))).ops == (Literal(28),)
    assert chained(Recipe((Literal(4),)), Recipe()).ops == (Literal(4),)


def test_a_chain_of_too_many_steps_is_none() -> None:
    inner = Recipe((Copy(0, 1), Literal(1)) * 5)
    with pytest.raises(RecipeTooLongError):
        chained(Recipe((Copy(0, 10),)), inner, max_ops=9)


# The binary form ---------------------------------------------------------------------------------

_NUMBERS = st.integers(0, 2**40)
_OPS: st.SearchStrategy[Op] = st.one_of(st.builds(Copy, _NUMBERS, _NUMBERS), st.builds(Literal, _NUMBERS))
recipes = st.builds(Recipe, st.lists(_OPS, max_size=30).map(tuple))


@settings(deadline=None)
@given(recipes)
def test_a_recipe_is_read_as_it_was_written(recipe: Recipe) -> None:
    assert decode(encode(recipe)) == recipe


@settings(deadline=None)
@given(recipes, st.data())
def test_a_recipe_that_is_cut_off_or_continued_is_refused(recipe: Recipe, data: st.DataObject) -> None:
    whole = encode(recipe)
    for wrong in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"\0"):
        with pytest.raises(MalformedError):
            decode(wrong)


@settings(deadline=None, max_examples=200)
@given(recipes, st.data())
def test_any_changed_byte_gives_a_recipe_that_can_be_checked_or_a_refusal(
    recipe: Recipe, data: st.DataObject
) -> None:
    wrong = bytearray(encode(recipe))
    wrong[data.draw(st.integers(0, len(wrong) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(wrong))
        check(read, 1000, recipe.size)
    except MalformedError:
        return
    assert read.size == recipe.size
    assert all(part.end <= 1000 for part in read.base_ranges())


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_what_is_read_is_spelt_in_the_only_way(data: bytes) -> None:
    for noise in (data, b"LSRC\x01" + data):
        try:
            read = decode(noise)
        except MalformedError:
            continue
        assert encode(read) == noise


def test_a_count_over_the_limit_is_refused_before_anything_is_made_of_it() -> None:
    recipe = Recipe((Literal(1),) * 5)
    with pytest.raises(MalformedError, match="too many"):
        decode(encode(recipe), max_ops=4)
    huge = bytearray(b"LSRC\x01")
    put_varint(huge, LARGEST - 1)
    with pytest.raises(MalformedError, match="too many"):
        decode(bytes(huge))


def test_the_longest_recipe_fits_its_limit() -> None:
    largest = 2**60
    ops = (Copy(largest, largest), Copy(0, largest))
    assert len(encode(Recipe(ops * 1000))) <= 16 + 2 * 9 * 2000
    assert MAX_RECIPE_BYTES == 16 + 2 * 9 * 2**18


# Fetching ----------------------------------------------------------------------------------------


def test_literals_are_ranges_of_the_target() -> None:
    recipe = Recipe((Literal(3), Copy(7, 2), Literal(4)))
    assert list(recipe.literal_ranges()) == [Range(0, 3), Range(5, 4)]
    assert list(recipe.base_ranges()) == [Range(7, 2)]


@pytest.mark.parametrize(
    ("gap", "joined"),
    [
        (1, [(0, 10), (12, 3), (30, 1)]),
        (2, [(0, 10), (12, 3), (30, 1)]),
        (3, [(0, 15), (30, 1)]),
        (16, [(0, 31)]),
    ],
)
def test_ranges_with_less_than_the_gap_between_them_are_one_request(
    gap: int, joined: list[tuple[int, int]]
) -> None:
    assert list(coalesce([Range(0, 10), Range(12, 3), Range(30, 1)], gap)) == joined


def test_no_ranges_are_no_request() -> None:
    assert list(coalesce([])) == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50))), st.integers(1, 60))
def test_joined_ranges_cover_the_same_and_lie_apart(steps: list[tuple[int, int]], gap: int) -> None:
    ranges, at = [], 0
    for skip, length in steps:
        ranges.append(Range(at + skip, length))
        at += skip + length
    joined = list(coalesce(ranges, gap))
    assert all(any(big.offset <= r.offset and r.end <= big.end for big in joined) for r in ranges)
    assert all(after.offset - before.end >= gap for before, after in pairwise(joined))
    spare = sum(r.length for r in joined) - sum(r.length for r in ranges)
    assert spare < gap * max(len(ranges), 1)
