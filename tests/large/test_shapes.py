"""What the large run is made of, without a stack: sizes, room, and content that can be made again."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.large.size import NoRoomError, bytes_of, check_room, needed, shape_of
from tests.large.source import MIB, Source


@pytest.mark.parametrize(
    ("text", "size"),
    [("50G", 50 << 30), ("50GB", 50 * 10**9), ("1.5m", 3 << 19), ("7", 7), ("2 TB", 2 * 10**12)],
)  # fmt: skip
def test_sizes_are_read_in_both_units(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        bytes_of(text)


def test_a_number_of_parts_alone_gives_the_smallest_file_with_so_many() -> None:
    shape = shape_of(None, 9500, None)
    assert (shape.part_size, shape.parts, shape.size) == (5 * MIB, 9500, 9500 * 5 * MIB)


def test_a_size_alone_has_parts_of_the_usual_size() -> None:
    shape = shape_of(50 << 30, None, None)
    assert (shape.part_size, shape.parts) == (10 * MIB, 5120)


def test_with_both_the_parts_are_as_small_as_their_number_allows() -> None:
    shape = shape_of(50 << 30, 9500, None)
    assert (shape.part_size, shape.parts) == (6 * MIB, 8534)


@pytest.mark.parametrize(("parts", "part_size"), [(9501, None), (0, None), (10, 4 * MIB)])
def test_what_no_session_can_have_is_refused(parts: int, part_size: int | None) -> None:
    with pytest.raises(ValueError, match=r"parts|MiB"):
        shape_of(None, parts, part_size)


def test_a_file_larger_than_the_server_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="larger"):
        shape_of(2 << 40, None, None)


def test_a_disk_that_is_too_small_is_refused_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(50 << 30, None, None)
    disk = SimpleNamespace(total=250 << 30, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: disk)
    disk.free = needed(shape, tmp_path, download=False)
    assert "61.1 GiB are needed" in check_room(shape, tmp_path, download=False)
    disk.free -= 1
    with pytest.raises(NoRoomError, match=r"GiB are needed .* are free"):
        check_room(shape, tmp_path, download=False)
    assert needed(shape, tmp_path, download=True) >= needed(shape, tmp_path, download=False) + shape.size


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, MIB, MIB + 1, 3 * MIB - 1, 5 * MIB + 4097])
def test_the_file_and_the_stream_are_the_same(size: int, tmp_path: Path) -> None:
    source, path = Source(3, size), tmp_path / "file"
    source.write(path)
    content = path.read_bytes()
    assert content == b"".join(source.stream())
    assert source.sha256() == hashlib.sha256(content).hexdigest()


def test_no_two_parts_are_equal_and_another_seed_is_another_file() -> None:
    source = Source(3, 40 * MIB)
    blocks = {source.block(offset) for offset in range(0, source.size, MIB)}
    assert len(blocks) == 40
    assert Source(4, source.size).block(0) not in blocks


def test_the_file_takes_only_its_blocks_of_the_disk(tmp_path: Path) -> None:
    source, path = Source(3, 64 * MIB), tmp_path / "file"
    source.write(path)
    assert path.stat().st_blocks * 512 < 2 * source.real_bytes + MIB
