"""Pages by sequence number, cursors of lists, times of the feed, paths."""

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from libs.contracts.cursor import Cursor
from libs.contracts.errors import GoneError, InvalidRequestError
from libs.contracts.tree import Kind
from services.metadata.domain.feed import page_down, page_up
from services.metadata.domain.model import Node, from_micros, to_micros
from services.metadata.domain.paging import decode_place, encode_place
from services.metadata.domain.trail import buried, path_of
from services.metadata.routes.sync import parse_time
from services.metadata.service.feed import checked, moved
from services.metadata.store.reads import Head

ROOT = "f" * 24


def node(seq: int) -> Node:
    return Node(f"{seq:024x}", ROOT, ROOT, f"n{seq}", Kind.FILE, seq=seq)


def window_of(seqs: list[int], asked: list[tuple[int, int]]) -> Callable[[int, int], Awaitable[list[Node]]]:
    async def window(after: int, up_to: int) -> list[Node]:
        asked.append((after, up_to))
        return [node(seq) for seq in seqs if after < seq <= up_to]

    return window


async def test_paging_up_reads_every_row_once_in_order_whatever_the_gaps() -> None:
    rng = random.Random(5)
    for _ in range(200):
        head = rng.randint(0, 400)
        seqs = sorted(rng.sample(range(1, head + 1), rng.randint(0, head)))
        limit, place, found = rng.randint(1, 30), 0, list[int]()
        while place < head:
            rows, reached = await page_up(window_of(seqs, []), place, head, limit)
            assert place < reached <= head
            assert len(rows) <= limit
            found += [row.seq for row in rows]
            place = reached
        assert found == seqs


async def test_paging_down_reads_every_row_once_last_first() -> None:
    rng = random.Random(6)
    for _ in range(200):
        head = rng.randint(0, 400)
        seqs = sorted(rng.sample(range(1, head + 1), rng.randint(0, head)))
        limit, place, found = rng.randint(1, 30), head + 1, list[int]()
        while place > 1:
            rows, reached = await page_down(window_of(seqs, []), place, limit)
            assert 1 <= reached < place
            found += [row.seq for row in rows]
            place = reached
        assert found == seqs[::-1]


async def test_a_wide_gap_takes_few_windows() -> None:
    asked: list[tuple[int, int]] = []
    rows, place = await page_up(window_of([1_000_000], asked), 0, 1_000_000, 100)
    assert ([row.seq for row in rows], place) == ([1_000_000], 1_000_000)
    assert len(asked) < 20


async def test_a_page_is_never_beyond_the_head_that_was_read_before() -> None:
    rows, place = await page_up(window_of([1, 2, 3, 4, 5], []), 0, 3, 100)
    assert ([row.seq for row in rows], place) == ([1, 2, 3], 3)


@pytest.mark.parametrize("place", ["", "caf\u00e9", "\U0001f600" * 60])
def test_a_place_in_a_list_survives_its_cursor(place: str) -> None:
    assert decode_place("k", encode_place("k", place), "start") == place
    assert decode_place("k", encode_place("k", len(place)), -1) == len(place)


@pytest.mark.parametrize(
    "text",
    ["", "!", "a", "e30", "W10", "W1siayJd", encode_place("other", "x"), encode_place("k", 3), "\u00e9"],
)
def test_a_cursor_that_is_not_of_the_list_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        decode_place("k", text, "")


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T01:00:01.5+01:00", 1_500_000),
        ("1970-01-01t00:00:00.123456789z", 123_456),
    ],
)
def test_times_are_rfc_3339_cut_to_microseconds(text: str, micros: int) -> None:
    assert to_micros(parse_time(text)) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-23",
        "2026-11-23T12:00:00",
        "2026-13-01T00:00:00Z",
        "20261123T120000Z",
        "2026-11-23T12:00:00 00:00",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_time(text)


def test_microseconds_survive() -> None:
    moment = datetime(2026, 11, 23, 1, 2, 3, 456789, tzinfo=UTC)
    assert from_micros(to_micros(moment)) == moment


# Which cursors can be continued -------------------------------------------------------------


def heads(seq: int, purged: int = 0) -> dict[str, Head]:
    return {ROOT: Head(seq, purged, 0)}


@pytest.mark.parametrize(
    ("cursor", "code"),
    [
        (Cursor(1, {ROOT: 5}), "epoch_changed"),
        (Cursor(2, {ROOT: 101}), "epoch_changed"),
        (Cursor(2, {ROOT: 49}), "cursor_expired"),
        (Cursor(2, {ROOT: 20}, {ROOT: 49}), "cursor_expired"),
    ],
)
def test_a_cursor_that_cannot_be_continued_is_gone_with_the_epoch(cursor: Cursor, code: str) -> None:
    with pytest.raises(GoneError) as gone:
        checked(cursor, heads(100, purged=50), 2)
    assert (gone.value.code, gone.value.extra) == (code, {"epoch": 2})


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(2),
        Cursor(2, {ROOT: 0}),
        Cursor(2, {ROOT: 50}),
        Cursor(2, {ROOT: 100}),
        Cursor(2, {ROOT: 3}, {ROOT: 50}),
    ],
)
def test_a_cursor_at_the_start_or_past_what_was_purged_goes_on(cursor: Cursor) -> None:
    assert checked(cursor, heads(100, purged=50), 2).seqs == {ROOT: cursor.seqs.get(ROOT, 0)}


def test_a_full_listing_survives_a_purge_of_what_was_deleted_before_it_began() -> None:
    first = moved(checked(Cursor(2), heads(100), 2), ROOT, 10)
    assert Cursor.decode(first.encode()) == first
    checked(first, heads(120, purged=100), 2)
    with pytest.raises(GoneError):
        checked(first, heads(120, purged=101), 2)
    assert moved(first, ROOT, 100).listing == {}


def test_a_namespace_that_is_not_the_callers_is_left_out_of_the_cursor() -> None:
    assert checked(Cursor(2, {ROOT: 3, "1" * 24: 9}), heads(10), 2).seqs == {ROOT: 3}


# Paths ---------------------------------------------------------------------------------------


def test_a_path_is_the_names_of_the_folders_above() -> None:
    above = {
        "a": Node("a", ROOT, ROOT, "top", Kind.FOLDER),
        "b": Node("b", ROOT, "a", "mid", Kind.FOLDER),
    }
    file = Node("c", ROOT, "b", "f.txt", Kind.FILE)
    assert path_of(file, above) == "top/mid/f.txt"
    assert not buried(file, above)
    assert buried(file, {**above, "a": Node("a", ROOT, ROOT, "top", Kind.FOLDER, deleted=True)})
    assert buried(file, {"b": above["b"], "a": None})
