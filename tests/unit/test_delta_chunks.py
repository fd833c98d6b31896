"""Chunks and manifests: cuts depend on the content alone, and nothing that is damaged is read."""

import hashlib
import struct
import sys
import tracemalloc
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.contracts.binary import MalformedError
from libs.contracts.chunks import AVERAGES, Chunk, Manifest, average_for, decode, longest, shortest
from libs.contracts.limits import GIB, MIB, TIB
from libs.delta.chunker import IS_COMPILED, Chunker
from libs.delta.content import ContentReader
from tests.support.edits import pieces_of, random_content

HEADER = struct.Struct("<4sBIQI")
GOLDEN = "5b77b1a808d6bb8d15d29f0ba09e5a61e9670d1d3a38b32a0cb0a89050c68d44"


def chunked(average: int, *pieces: bytes) -> Manifest:
    chunker = Chunker(average)
    for piece in pieces:
        chunker.update(piece)
    return chunker.finish()


def encoded(manifest: Manifest) -> bytes:
    return b"".join(manifest.encode())


# Size classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "average"),
    [
        (0, None),
        (256 * 1024 - 1, None),
        (256 * 1024, 4096),
        (640 * MIB, 4096),
        (640 * MIB + 1, 16384),
        (10 * GIB, 16384),
        (10 * GIB + 1, 65536),
        (40 * GIB, 65536),
        (40 * GIB + 1, 262144),
        (TIB, 262144),
    ],
)
def test_the_larger_a_file_the_larger_its_chunks(size: int, average: int | None) -> None:
    assert average_for(size) == average


@pytest.mark.parametrize("size", [64 * MIB, 512 * MIB, GIB, 8 * GIB, 32 * GIB])
def test_a_file_of_a_round_size_that_grows_stays_comparable(size: int) -> None:
    assert average_for(size + size // 5) == average_for(size)


# Cutting -----------------------------------------------------------------------------------------


def test_the_compiled_extension_is_there() -> None:
    assert IS_COMPILED


@pytest.mark.parametrize("average", sorted(AVERAGES))
def test_the_cuts_do_not_depend_on_the_pieces(average: int) -> None:
    for seed in range(4):
        print(f"seed {seed}")
        random = Random(seed)
        content = random_content(random, 3 * MIB + random.randint(0, MIB))
        whole = chunked(average, content)
        for largest in (100_000, 3 * MIB):
            assert chunked(average, *pieces_of(random, content, largest)) == whole


def test_the_cuts_of_pieces_of_a_few_bytes_are_the_same() -> None:
    content = random_content(Random(5), 300_000)
    assert chunked(4096, *pieces_of(Random(6), content, 7)) == chunked(4096, content)


def test_a_chunk_is_its_length_and_the_beginning_of_the_blake3_of_its_bytes() -> None:
    content = random_content(Random(1), MIB)
    at = 0
    for chunk in chunked(4096, content):
        assert chunk.digest == blake3(content[at : at + chunk.length]).digest()[:16]
        at += chunk.length
    assert at == len(content)


@pytest.mark.parametrize("average", sorted(AVERAGES))
def test_chunks_are_neither_shorter_nor_longer_than_their_class_says(average: int) -> None:
    content = Random(2).randbytes(4 * MIB) + bytes(4 * MIB)
    lengths = chunked(average, content).lengths
    assert min(lengths[:-1]) >= shortest(average)
    assert max(lengths) <= longest(average)
    assert sum(lengths) == len(content)


def test_the_cuts_are_those_of_the_format_for_ever() -> None:
    content = b"".join(hashlib.sha256(bytes([n & 255, n >> 8])).digest() for n in range(32768))
    digest = hashlib.sha256(encoded(chunked(4096, content))).hexdigest()
    assert digest == GOLDEN


def test_an_insertion_moves_no_cut_but_those_beside_it() -> None:
    content = Random(3).randbytes(2 * MIB)
    before = set(chunked(4096, content))
    after = chunked(4096, content[:MIB] + b"inserted" + content[MIB:])
    assert len([chunk for chunk in after if chunk not in before]) <= 4


def test_a_buffer_may_be_used_again_at_once() -> None:
    content = Random(4).randbytes(2 * MIB)
    chunker, buffer = Chunker(4096), bytearray(50_000)
    for at in range(0, len(content), len(buffer)):
        piece = content[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        chunker.update(memoryview(buffer)[: len(piece)])
    assert chunker.finish() == chunked(4096, content)


def test_memory_is_bounded_by_what_is_ahead_and_the_manifest() -> None:
    block = Random(5).randbytes(MIB)
    chunker = Chunker(16384)
    tracemalloc.start()
    try:
        for _ in range(64):
            chunker.update(block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


# Hash and manifest together ----------------------------------------------------------------------


def test_hash_and_manifest_come_of_one_reading() -> None:
    content = Random(6).randbytes(300_000)
    reader = ContentReader(len(content))
    for piece in pieces_of(Random(7), content, 70_000):
        reader.update(piece)
    assert reader.hexdigest() == hashlib.sha256(content).hexdigest()
    assert reader.manifest() == chunked(4096, content)


def test_a_small_content_has_no_manifest() -> None:
    reader = ContentReader(256 * 1024 - 1)
    reader.update(bytes(256 * 1024 - 1))
    assert reader.manifest() is None


def test_a_content_that_is_of_another_class_than_announced_has_no_manifest() -> None:
    reader = ContentReader(700 * MIB)
    reader.update(bytes(300_000))
    assert reader.manifest() is None


@pytest.mark.parametrize("piece", [1000, 256 * 1024 - 1, 256 * 1024, MIB, 5 * MIB])
def test_what_a_reader_finds_does_not_depend_on_the_pieces_and_their_buffer_is_free_afterwards(
    piece: int,
) -> None:
    """Large pieces are hashed in another thread: it must have ended when the buffer is used again."""
    content = Random(5).randbytes(3 * MIB + 7)
    reader, buffer = ContentReader(len(content)), bytearray(piece)
    for at in range(0, len(content), piece):
        part = content[at : at + piece]
        buffer[: len(part)] = part
        reader.update(memoryview(buffer)[: len(part)])
        buffer[:] = bytes(piece)
    assert reader.hexdigest() == hashlib.sha256(content).hexdigest()
    assert reader.manifest() == chunked(4096, content)


def test_a_reader_goes_on_without_a_second_thread_when_there_can_be_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    monkeypatch.setattr("libs.delta.content._helpers", lambda: ended)
    content = Random(6).randbytes(MIB)
    reader = ContentReader(len(content))
    reader.update(content)
    assert reader.hexdigest() == hashlib.sha256(content).hexdigest()


# The binary form ---------------------------------------------------------------------------------


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    average = draw(st.sampled_from(sorted(AVERAGES)))
    lengths = draw(st.lists(st.integers(shortest(average), longest(average)), max_size=20))
    if lengths:
        lengths[-1] = draw(st.integers(1, longest(average)))
    return Manifest.of(average, [Chunk(n, draw(st.binary(min_size=16, max_size=16))) for n in lengths])


@settings(deadline=None)
@given(manifests(), st.integers(1, 50))
def test_a_manifest_is_read_as_it_was_written_in_pieces_of_any_size(manifest: Manifest, size: int) -> None:
    data = encoded(manifest)
    assert decode(data[at : at + size] for at in range(0, len(data), size)) == manifest


@settings(deadline=None)
@given(manifests())
def test_a_manifest_is_its_chunks(manifest: Manifest) -> None:
    assert Manifest.of(manifest.average, manifest) == manifest
    assert len(list(manifest)) == len(manifest)


@settings(deadline=None)
@given(manifests(), st.data())
def test_a_manifest_that_is_cut_off_or_continued_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    whole = encoded(manifest)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0"):
        with pytest.raises(MalformedError):
            decode([wrong])


@settings(deadline=None, max_examples=200)
@given(manifests(), st.data())
def test_any_changed_byte_gives_a_sound_manifest_or_a_refusal(
    manifest: Manifest, data: st.DataObject
) -> None:
    wrong = bytearray(encoded(manifest))
    wrong[data.draw(st.integers(0, len(wrong) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode([bytes(wrong)])
    except MalformedError:
        return
    assert sum(read.lengths) == read.size
    assert len(read.digests) == 16 * len(read.lengths)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode([data])


@pytest.mark.parametrize(
    "lengths",
    [
        [0],
        [4096, 0],
        [1023, 4096],
        [16385, 4096],
        [4096, 16385],
    ],
)
def test_a_chunk_out_of_bounds_is_refused(lengths: list[int]) -> None:
    manifest = Manifest.of(4096, [Chunk(length, bytes(16)) for length in lengths])
    with pytest.raises(MalformedError):
        decode([encoded(manifest)])


def test_a_size_that_is_not_the_sum_is_refused() -> None:
    manifest = Manifest(4096, 8191, array("I", [4096, 4096]), bytes(32))
    with pytest.raises(MalformedError, match="do not make the size"):
        decode([encoded(manifest)])


def test_a_header_that_announces_much_makes_nobody_take_memory() -> None:
    def endless() -> Iterator[bytes]:
        yield HEADER.pack(b"LSMF", 1, 4096, 2**61, 2**32 - 1)
        raise AssertionError("asked for more")  # pragma: no cover - the header is refused

    with pytest.raises(MalformedError, match="number of chunks"):
        decode(endless())
    plausible = HEADER.pack(b"LSMF", 1, 262144, 2**40, 2**22)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="cut off"):
            decode([plausible, bytes(1000)])
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_the_numbers_are_little_endian_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.of(4096, [Chunk(0x1234, bytes(16))])
    data = encoded(manifest)
    assert data[HEADER.size : HEADER.size + 4] == b"\x34\x12\0\0"
    monkeypatch.setattr(sys, "byteorder", "big" if sys.byteorder == "little" else "little")
    assert encoded(manifest)[HEADER.size : HEADER.size + 4] == b"\0\0\x12\x34"
    assert manifest.lengths[0] == 0x1234
