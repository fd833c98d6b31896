"""A difference is sent where it can be written down; otherwise the file is, and nothing is held up."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.transfer import delta
from agent.transfer.delta import DeltaBase, packed
from libs.contracts.recipe import Copy, Literal, Recipe

SIZE = 300_000
RECIPE = Recipe((Literal(100_000), Copy(0, SIZE - 100_000)))


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    handle = os.open(path, os.O_RDONLY)
    yield handle
    os.close(handle)


async def is_packed(folder: Path, fd: int) -> bool:
    async with packed(DeltaBase("5" * 24, RECIPE, folder), fd, SIZE) as made:
        return made is not None


async def test_a_delta_object_holds_the_bytes_that_the_base_lacks(tmp_path: Path, fd: int) -> None:
    async with packed(DeltaBase("5" * 24, RECIPE, tmp_path), fd, SIZE) as made:
        assert made is not None
        assert os.fstat(made.file.fileno()).st_size == made.size == made.offer.size < SIZE


async def test_no_delta_is_sent_when_the_disk_is_full(
    tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk has not taken is in a buffer, and a file that is closed tries to write it."""

    def full(**_: Any) -> Any:
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert not await is_packed(tmp_path, fd)


async def test_no_delta_is_sent_when_no_file_can_be_made_for_it(tmp_path: Path, fd: int) -> None:
    assert not await is_packed(tmp_path / "missing", fd)


async def test_a_delta_that_is_too_long_is_not_written_to_its_end(
    tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "MAX_DELTA_BYTES", 50_000)
    assert not await is_packed(tmp_path, fd)


async def test_a_delta_leaves_room_for_what_else_is_written_to_the_disk(
    tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await is_packed(tmp_path, fd)
    monkeypatch.setattr(delta, "_KEPT_FREE", 1 << 60)
    assert not await is_packed(tmp_path, fd)
