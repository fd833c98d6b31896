"""Content that is here already is copied, and what only looks like it is not taken for it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from agent.disk import BlockedError, Disk
from agent.duplicates import Duplicates, copy_content
from agent.errors import LocalError
from agent.model import LocalEntry, LocalKind, Trouble
from agent.scanner import scan
from libs.delta.content import ContentReader

CONTENT = Random(1).randbytes(2_500_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "a").write_bytes(CONTENT)
    os.utime(folder / "a", (1e9, 1e9))
    return folder


@pytest.fixture
def disk(root: Path) -> Disk:
    made = Disk(root)
    made.prepare()
    return made


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    handle = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield handle
    os.close(handle)


def local(disk: Disk) -> dict[str, LocalEntry]:
    return scan(disk, {}, ignored=lambda _path, _is_dir: False).entries


def found(disk: Disk) -> LocalEntry:
    (entry,) = Duplicates(local(disk), {HASH}).of(HASH, len(CONTENT))
    return entry


def held(fd: int) -> bytes:
    return os.pread(fd, len(CONTENT) + 1, 0)


def test_a_file_with_the_wanted_content_is_found_and_copied(disk: Disk, fd: int) -> None:
    assert copy_content(disk, found(disk), fd)
    assert held(fd) == CONTENT


def test_the_manifest_is_made_of_the_bytes_that_are_copied(disk: Disk, fd: int) -> None:
    reader = ContentReader(len(CONTENT))
    assert copy_content(disk, found(disk), fd, reader)
    manifest = reader.manifest()
    assert manifest is not None
    assert manifest.size == len(CONTENT)


def test_a_content_nobody_has_is_not_found(disk: Disk) -> None:
    assert Duplicates(local(disk), {"0" * 64}).of("0" * 64, 5) == []


def test_another_size_is_another_content(disk: Disk) -> None:
    assert Duplicates(local(disk), {HASH}).of(HASH, len(CONTENT) + 1) == []


def test_files_in_trouble_and_folders_are_no_sources(disk: Disk) -> None:
    entry = local(disk)["a"]
    troubled = LocalEntry("b", entry.kind, entry.stat, HASH, trouble=Trouble("changing", ""))
    folder = LocalEntry("c", LocalKind.FOLDER, entry.stat, HASH)
    assert Duplicates({"b": troubled, "c": folder}, {HASH}).of(HASH, len(CONTENT)) == []


def test_the_tree_is_looked_through_once_and_only_when_asked(disk: Disk) -> None:
    class Counted(dict[str, LocalEntry]):
        looks = 0

        def values(self) -> object:  # type: ignore[override]  # counted
            Counted.looks += 1
            return super().values()

    duplicates = Duplicates(Counted(local(disk)), {HASH})
    assert Counted.looks == 0
    for _ in range(3):
        duplicates.of(HASH, len(CONTENT))
    assert Counted.looks == 1


def test_of_many_equal_files_a_few_are_named(disk: Disk) -> None:
    entry = local(disk)["a"]
    many = {f"f{n}": entry.at(f"f{n}") for n in range(100)}
    assert [e.path for e in Duplicates(many, {HASH}).of(HASH, len(CONTENT))] == ["f0", "f1", "f2"]


def test_a_file_that_changed_since_it_was_looked_at_is_not_copied(disk: Disk, root: Path, fd: int) -> None:
    entry = found(disk)
    (root / "a").write_bytes(b"another")
    assert not copy_content(disk, entry, fd)
    assert held(fd) == b""


def test_a_file_that_changed_without_a_sign_is_found_out(disk: Disk, root: Path, fd: int) -> None:
    entry = found(disk)
    lying = LocalEntry("a", entry.kind, entry.stat, hashlib.sha256(b"claimed").hexdigest())
    assert not copy_content(disk, lying, fd)
    assert held(fd) == b""
    assert copy_content(disk, entry, fd)
    assert held(fd) == CONTENT


def test_a_file_that_vanished_is_not_copied(disk: Disk, root: Path, fd: int) -> None:
    entry = found(disk)
    (root / "a").unlink()
    assert not copy_content(disk, entry, fd)


def test_a_link_in_its_place_is_not_followed(disk: Disk, root: Path, fd: int) -> None:
    entry = found(disk)
    (root / "a").rename(root / "elsewhere")
    (root / "a").symlink_to("elsewhere")
    assert not copy_content(disk, entry, fd)


def test_a_copy_ends_when_the_agent_stops(disk: Disk, fd: int) -> None:
    entry = found(disk)
    disk.stop()
    with pytest.raises(BlockedError, match="stopping"):
        copy_content(disk, entry, fd)


def test_a_target_that_cannot_be_written_is_told(disk: Disk, tmp_path: Path) -> None:
    entry = found(disk)
    (tmp_path / "closed").write_bytes(b"")
    handle = os.open(tmp_path / "closed", os.O_RDONLY)
    try:
        with pytest.raises(LocalError, match="unwritable"):
            copy_content(disk, entry, handle)
    finally:
        os.close(handle)
