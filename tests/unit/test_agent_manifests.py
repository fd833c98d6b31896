"""The cache of manifests: made in the reading that hashes, and as good as nothing when it is damaged."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest

from agent import manifests as module
from agent.disk import Disk
from agent.manifests import Manifests
from agent.model import LocalEntry
from agent.observer import Observer
from agent.scanner import scan
from agent.settings import Settings
from agent.state import State
from libs.contracts.chunks import Manifest
from libs.delta.chunker import Chunker
from libs.delta.content import ContentReader

LARGE = 300_000


def content(seed: int, size: int = LARGE) -> bytes:
    return Random(seed).randbytes(size)


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_of(data: bytes) -> Manifest:
    chunker = Chunker(4096)
    chunker.update(data)
    return chunker.finish()


def kept(cache: Manifests, data: bytes) -> str:
    cache.keep(hash_of(data), manifest_of(data))
    return hash_of(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "manifests"


@pytest.fixture
def cache(folder: Path) -> Manifests:
    return Manifests(folder)


# Keeping -----------------------------------------------------------------------------------------


def test_a_manifest_is_found_by_its_contents_hash_by_another_process_too(
    cache: Manifests, folder: Path
) -> None:
    name = kept(cache, content(1))
    assert Manifests(folder).base_for(name) == manifest_of(content(1))


def test_a_content_nobody_read_has_no_manifest(cache: Manifests) -> None:
    assert cache.base_for(hash_of(b"x")) is None
    assert cache.base_for(None) is None
    assert not cache.has(hash_of(b"x"))


def test_nothing_is_made_before_something_is_kept(cache: Manifests, folder: Path) -> None:
    assert not cache.has(hash_of(b"x"))
    assert cache.reader(1000) is None
    assert not cache.due
    cache.keep(hash_of(b"x"), None)
    assert not folder.exists()


def test_the_folder_is_its_owners_alone(cache: Manifests, folder: Path) -> None:
    kept(cache, content(1))
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("at", [0, 10, 30, 500, -1])
def test_a_damaged_manifest_is_none_and_is_made_anew(cache: Manifests, folder: Path, at: int) -> None:
    name = kept(cache, content(1))
    data = bytearray((folder / name).read_bytes())
    data[at] ^= 1
    (folder / name).write_bytes(data)
    assert cache.base_for(name) is None
    assert cache.reader(LARGE, name) is not None
    kept(cache, content(1))
    assert cache.base_for(name) == manifest_of(content(1))


def test_a_manifest_under_another_contents_name_is_none(cache: Manifests, folder: Path) -> None:
    one, other = kept(cache, content(1)), kept(cache, content(2))
    (folder / one).replace(folder / other)
    assert cache.base_for(other) is None


@pytest.mark.parametrize("length", [0, 5, 400])
def test_a_manifest_that_is_cut_off_is_none(cache: Manifests, folder: Path, length: int) -> None:
    name = kept(cache, content(1))
    os.truncate(folder / name, length)
    assert cache.base_for(name) is None


def test_a_disk_that_refuses_costs_nothing_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    cache = Manifests(tmp_path / "home" / "manifests")
    name = kept(cache, content(1))
    assert cache.base_for(name) is None
    assert cache.similar(manifest_of(content(1)), {name}) is None
    cache.prune(set())
    cache.forget(name)


def test_a_disk_that_does_not_say_whether_there_is_a_manifest_costs_nothing_but_that(tmp_path: Path) -> None:
    cache = Manifests(tmp_path / ("longer than any name may be" * 20))
    name = kept(cache, content(1))
    assert not cache.has(name)
    assert cache.reader(LARGE, name) is not None


def test_what_is_no_hash_leads_nowhere(cache: Manifests) -> None:
    with pytest.raises(ValueError, match="hex"):
        cache.has("../../etc")


def test_a_manifest_that_misled_is_forgotten(cache: Manifests) -> None:
    name = kept(cache, content(1))
    cache.forget(name)
    assert not cache.has(name)


def test_threads_may_keep_at_once(cache: Manifests, folder: Path) -> None:
    datas = [content(seed) for seed in range(8)]
    threads = [threading.Thread(target=kept, args=(cache, data)) for data in datas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.base_for(hash_of(data)) == manifest_of(data) for data in datas)
    assert (folder / "sketches").stat().st_size == 8 * 160


# Readers -----------------------------------------------------------------------------------------


def test_only_a_large_content_whose_manifest_is_missing_is_chunked(cache: Manifests) -> None:
    assert cache.reader(256 * 1024 - 1) is None
    assert isinstance(cache.reader(256 * 1024), ContentReader)
    name = kept(cache, content(1))
    assert cache.reader(LARGE, name) is None
    assert cache.reader(LARGE, hash_of(b"x")) is not None


def test_without_the_compiled_extension_nothing_is_chunked_and_that_is_told_once(folder: Path) -> None:
    with (
        patch.object(module, "IS_COMPILED", False),
        patch.object(module, "_told", threading.Event()),
        patch.object(module.log, "warning") as warning,
    ):
        cache = Manifests(folder)
        assert cache.reader(LARGE) is None
        assert cache.reader(LARGE) is None
    assert warning.call_count == 1


def test_a_finished_download_is_learnt_from_its_file(cache: Manifests, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content(1))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert not cache.learn(fd, LARGE, hash_of(b"another"))
        assert not cache.has(hash_of(b"another"))
        assert cache.learn(fd, LARGE, hash_of(content(1)))
    finally:
        os.close(fd)
    assert cache.base_for(hash_of(content(1))) == manifest_of(content(1))


# The scanner -------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(root: Path) -> Disk:
    made = Disk(root)
    made.prepare()
    return made


def looked(disk: Disk, cache: Manifests, known: dict[str, LocalEntry]) -> dict[str, LocalEntry]:
    return scan(disk, known, ignored=lambda _path, _is_dir: False, manifests=cache).entries


def test_the_scanner_keeps_the_manifests_of_large_files_alone(
    disk: Disk, root: Path, cache: Manifests, folder: Path
) -> None:
    (root / "small").write_bytes(content(1, 1000))
    (root / "large").write_bytes(content(2))
    (root / "larger").write_bytes(content(3, 2_000_000))
    entries = looked(disk, cache, {})
    assert {entries[name].content_hash for name in ("large", "larger")} == {
        path.name for path in folder.iterdir() if path.name != "sketches"
    }
    assert cache.base_for(entries["larger"].content_hash) == manifest_of(content(3, 2_000_000))


def test_files_that_are_not_read_ask_nothing_of_the_cache(disk: Disk, root: Path, cache: Manifests) -> None:
    (root / "large").write_bytes(content(2))
    os.utime(root / "large", (1e9, 1e9))
    known = looked(disk, cache, {})
    with patch.object(Manifests, "reader", side_effect=AssertionError), patch.object(Manifests, "keep"):
        assert looked(disk, cache, known) == known


def test_a_file_read_again_makes_up_for_a_lost_manifest(disk: Disk, root: Path, cache: Manifests) -> None:
    (root / "large").write_bytes(content(2))
    os.utime(root / "large", (1e9, 1e9))
    known = looked(disk, cache, {})
    cache.forget(hash_of(content(2)))
    scan(disk, known, ignored=lambda _path, _is_dir: False, manifests=cache, rehash=lambda _: True)
    assert cache.has(hash_of(content(2)))


def test_a_file_that_changes_while_it_is_read_leaves_no_manifest(
    disk: Disk, root: Path, cache: Manifests, folder: Path
) -> None:
    (root / "large").write_bytes(content(2))
    os.utime(root / "large", (1e9, 1e9))
    real: Callable[..., None] = ContentReader.update

    def grows(self: ContentReader, piece: memoryview) -> None:
        real(self, piece)
        with (root / "large").open("ab") as file:
            file.write(b"more")

    with patch.object(ContentReader, "update", grows):
        entries = looked(disk, cache, {})
    assert entries["large"].content_hash is None
    assert not folder.exists()


# Pruning -----------------------------------------------------------------------------------------


def test_what_nobody_knows_any_more_is_pruned(cache: Manifests, folder: Path) -> None:
    one, other = kept(cache, content(1)), kept(cache, content(2))
    again = Manifests(folder)
    again.prune({one})
    assert again.has(one)
    assert not again.has(other)
    assert again.similar(manifest_of(content(1)), {one}) == one
    assert (folder / "sketches").stat().st_size == 160


def test_what_was_just_kept_is_pruned_only_the_next_time(cache: Manifests) -> None:
    name = kept(cache, content(1))
    cache.prune(set())
    assert cache.has(name)
    cache.prune(set())
    assert not cache.has(name)


def test_over_the_limit_the_oldest_go(folder: Path) -> None:
    names = [kept(Manifests(folder), content(seed)) for seed in range(6)]
    sizes = [(folder / name).stat().st_size for name in names]
    for at, name in enumerate(names):
        os.utime(folder / name, (1e9 + at, 1e9 + at))
    cache = Manifests(folder, limit=sum(sizes) - 1)
    kept(cache, content(6))
    was_due = cache.due
    cache.prune({*names})
    assert (was_due, cache.due) == (True, False)
    left = [name for name in (*names, hash_of(content(6))) if cache.has(name)]
    assert left == [*names, hash_of(content(6))][-len(left) :]
    assert sum((folder / name).stat().st_size for name in left) <= 0.75 * (sum(sizes) - 1)


def test_what_a_crash_left_is_removed_when_it_is_old(cache: Manifests, folder: Path) -> None:
    kept(cache, content(1))
    (folder / "old.tmp").write_bytes(b"x")
    (folder / "new.tmp").write_bytes(b"x")
    os.utime(folder / "old.tmp", (1e9, 1e9))
    cache.prune(set())
    assert not (folder / "old.tmp").exists()
    assert (folder / "new.tmp").exists()


def test_the_observer_prunes_what_neither_tree_knows_when_much_was_kept(
    disk: Disk, root: Path, folder: Path, tmp_path: Path
) -> None:
    cache = Manifests(folder, limit=1)
    state = State(tmp_path / "state.db")
    observer = Observer(state, disk, Settings(home=tmp_path), cache)
    (root / "large").write_bytes(content(1))
    for _ in range(2):
        observer.full = True
        look = observer.begin()
        assert look is not None
        observer.record(look())
    state.close()
    assert not list(folder.glob("?" * 64))


# Likeness ----------------------------------------------------------------------------------------


def test_a_changed_copy_finds_the_content_it_was_made_from(cache: Manifests) -> None:
    names = [kept(cache, content(seed)) for seed in range(20)]
    base = content(7)
    changed = base[:100_000] + content(99, 30_000) + base[130_000:] + b"appended"
    assert cache.similar(manifest_of(changed), {*names}) == names[7]


def test_of_several_like_contents_the_most_like_is_found(cache: Manifests) -> None:
    base = content(1)
    half, most = base[:150_000] + content(2, 150_000), base[:280_000] + content(3, 20_000)
    names = {kept(cache, half), kept(cache, most)}
    assert cache.similar(manifest_of(base), names) == hash_of(most)


def test_only_contents_that_are_wanted_are_found(cache: Manifests) -> None:
    kept(cache, content(1))
    assert cache.similar(manifest_of(content(1)), set()) is None


def test_contents_that_share_nothing_are_not_alike(cache: Manifests) -> None:
    names = {kept(cache, content(seed)) for seed in range(20)}
    assert cache.similar(manifest_of(content(50)), names) is None


def test_a_record_that_a_crash_cut_off_hides_none_that_follow(cache: Manifests, folder: Path) -> None:
    kept(cache, content(1))
    with (folder / "sketches").open("ab") as file:
        file.write(b"half a record")
    name = kept(cache, content(2))
    assert cache.similar(manifest_of(content(2)), {name}) == name


def test_a_like_content_whose_manifest_is_gone_is_passed_over(cache: Manifests) -> None:
    base = content(1)
    half, most = base[:150_000] + content(2, 150_000), base[:280_000] + content(3, 20_000)
    names = {kept(cache, half), kept(cache, most)}
    cache.forget(hash_of(most))
    assert cache.similar(manifest_of(base), names) == hash_of(half)


def test_a_content_of_one_repeated_chunk_is_kept_and_found(cache: Manifests) -> None:
    name = kept(cache, bytes(LARGE))
    assert cache.similar(manifest_of(bytes(LARGE + 50_000)), {name}) == name
