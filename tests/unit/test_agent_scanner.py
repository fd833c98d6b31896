"""The scanner: what is there, what is certainly gone, and never a deletion from an error."""

import errno
import hashlib
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agent import clock
from agent.disk import BlockedError, Disk
from agent.model import LocalEntry, LocalKind
from agent.scanner import ScanResult, scan
from agent.scanner import judge as judging

LONG_AGO = 10**18


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(root: Path) -> Disk:
    made = Disk(root)
    made.prepare()
    made.write_marker("root-1")
    return made


def nothing(_path: str, _is_dir: bool) -> bool:
    return False


def write(path: Path, content: str = "x", *, age: float | None = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if age is not None:
        os.utime(path, (time.time() - age, time.time() - age))


def look(
    disk: Disk, known: Mapping[str, LocalEntry], dirty: set[str] | None = None, **more: Any
) -> ScanResult:
    return scan(disk, known, **{"ignored": nothing, "dirty": dirty, **more})


def merged(known: Mapping[str, LocalEntry], result: ScanResult) -> dict[str, LocalEntry]:
    return {path: entry for path, entry in known.items() if path not in result.gone} | result.entries


@contextmanager
def failing(call: str, name: str, number: int) -> Iterator[None]:
    """Let a system call about the entry `name` fail."""
    real: Callable[..., Any] = getattr(os, call)

    def maybe(path: Any, *args: Any, **kwargs: Any) -> Any:
        if path == name:
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    with patch.object(os, call, maybe):
        yield


# What is there -----------------------------------------------------------------------------------


def test_files_folders_and_links_are_found_with_their_content(disk: Disk, root: Path) -> None:
    write(root / "d/e/f.txt", "content")
    (root / "d/empty").mkdir()
    (root / "d/l").symlink_to("e/f.txt")
    found = look(disk, {})
    assert {path: entry.kind for path, entry in found.entries.items()} == {
        "d": LocalKind.FOLDER,
        "d/e": LocalKind.FOLDER,
        "d/e/f.txt": LocalKind.FILE,
        "d/empty": LocalKind.FOLDER,
        "d/l": LocalKind.SYMLINK,
    }
    assert found.entries["d/e/f.txt"].content_hash == hashlib.sha256(b"content").hexdigest()
    assert found.entries["d/l"].symlink_target == "e/f.txt"
    assert not found.problems
    assert not found.gone


def test_a_second_scan_reads_nothing_and_gives_back_what_was_known(disk: Disk, root: Path) -> None:
    for number in range(20):
        write(root / f"d{number % 3}/f{number}")
    known = look(disk, {}).entries
    again = look(disk, known)
    assert again.hashed == 0
    assert all(again.entries[path] is known[path] for path in known)
    assert again.recheck_at is None


@pytest.mark.parametrize("change", ["size", "mtime", "ctime", "inode"])
def test_any_sign_of_change_has_the_content_read(disk: Disk, root: Path, change: str) -> None:
    write(root / "f", "before")
    known = look(disk, {}).entries
    stat = (root / "f").stat()
    if change == "size":
        (root / "f").write_text("longer than before")
        os.utime(root / "f", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    elif change == "mtime":
        os.utime(root / "f", ns=(LONG_AGO, LONG_AGO))
    elif change == "ctime":
        (root / "f").chmod(0o600)
    else:
        shutil.copy2(root / "f", root / "g")
        (root / "g").rename(root / "f")
    assert look(disk, known).hashed == 1


def test_a_rolling_reading_finds_what_no_stat_shows(disk: Disk, root: Path) -> None:
    write(root / "f", "before")
    known = look(disk, {}).entries
    lying = {"f": LocalEntry("f", LocalKind.FILE, known["f"].stat, "0" * 64, hashed_at=known["f"].hashed_at)}
    assert look(disk, lying).hashed == 0
    found = look(disk, lying, rehash=lambda entry: entry.path == "f")
    assert found.entries["f"].content_hash == hashlib.sha256(b"before").hexdigest()


def test_files_that_moved_with_their_folder_are_not_read_again(disk: Disk, root: Path) -> None:
    for number in range(10):
        write(root / f"old/deep/f{number}", str(number))
    known = look(disk, {}).entries
    (root / "old").rename(root / "new")
    for dirty in (None, {"old", "new"}):
        found = look(disk, known, dirty)
        assert found.hashed == 0
        assert found.entries["new/deep/f3"].content_hash == known["old/deep/f3"].content_hash
        assert found.gone == set(known)


def test_a_tree_deeper_than_any_stack_is_walked(disk: Disk, root: Path) -> None:
    deep = "/".join(["d"] * 300)
    (root / deep).mkdir(parents=True)
    write(root / deep / "f")
    found = look(disk, {})
    assert f"{deep}/f" in found.entries
    assert len(look(disk, found.entries, {deep}).entries) == 2


def test_the_agents_own_folder_is_not_there(disk: Disk, root: Path) -> None:
    write(root / ".lockstep/tmp/x")
    assert not look(disk, {}).entries
    assert not look(disk, {}, {".lockstep", ".lockstep/tmp/x"}).entries


# What was written just now -----------------------------------------------------------------------


def test_a_file_written_a_moment_ago_is_read_once_more_when_it_has_rested(disk: Disk, root: Path) -> None:
    write(root / "f", age=None)
    now = time.time()
    first = look(disk, {}, now=now)
    assert first.entries["f"].content_hash is not None
    assert first.recheck == {"f"}
    assert first.recheck_at == now + 2
    soon = look(disk, first.entries, first.recheck, now=now + 1)
    assert (soon.hashed, soon.recheck) == (0, {"f"})
    with patch.object(time, "time", lambda: now + 3):
        later = look(disk, first.entries, first.recheck, now=now + 3)
        assert later.hashed == 1
        assert not later.recheck
        assert look(disk, later.entries, now=now + 3).hashed == 0


def test_a_large_file_is_not_read_before_it_has_rested(
    disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "LARGE_BYTES", 10)
    write(root / "f", "more than ten bytes", age=None)
    found = look(disk, {})
    assert found.hashed == 0
    assert found.problems["f"].code == "changing"
    assert found.recheck == {"f"}
    rested = look(disk, found.entries, now=time.time() + 3)
    assert rested.entries["f"].content_hash is not None
    assert not rested.problems


def test_a_file_that_a_program_is_writing_is_left_to_it(disk: Disk, root: Path) -> None:
    with (root / "f").open("w") as writer:
        writer.write("half")
        writer.flush()
        found = look(disk, {})
        assert found.problems["f"].code == "changing"
        assert found.entries["f"].content_hash is None
        assert found.recheck == {"f"}
    assert look(disk, found.entries, {"f"}).entries["f"].content_hash == hashlib.sha256(b"half").hexdigest()


def test_a_file_that_is_open_but_rests_is_read(disk: Disk, root: Path) -> None:
    write(root / "f", "log")
    with (root / "f").open("a"):
        assert look(disk, {}).entries["f"].content_hash is not None


def test_a_file_that_changes_while_it_is_read_gets_no_hash(disk: Disk, root: Path) -> None:
    write(root / "f", "before")
    known = look(disk, {}).entries
    write(root / "f", "edited", age=500)
    real = os.preadv

    def user_writes(fd: int, buffers: list[memoryview], offset: int) -> int:
        (root / "f").write_text("again!")
        return real(fd, buffers, offset)

    with patch.object(os, "preadv", user_writes):
        found = look(disk, known)
    entry = found.entries["f"]
    assert entry.trouble is not None
    assert (entry.content_hash, entry.trouble.code) == (None, "changing")
    assert found.recheck == {"f"}
    assert not found.gone


# What events do not tell -------------------------------------------------------------------------


def test_half_of_an_exchange_is_seen_as_a_whole(disk: Disk, root: Path) -> None:
    """The event for the other places may come late: until then it would look like edits."""
    for name in "abc":
        write(root / name, name)
    known = look(disk, {}).entries
    (root / "a").rename(root / "aside")
    (root / "b").rename(root / "a")
    (root / "c").rename(root / "b")
    (root / "aside").rename(root / "c")
    found = look(disk, known, {"a"})
    assert {path: entry.stat.ino for path, entry in found.entries.items()} == {
        "a": known["b"].stat.ino, "b": known["c"].stat.ino, "c": known["a"].stat.ino,
    }  # fmt: skip


def test_a_folder_that_is_seen_at_its_new_path_is_gone_from_the_old_one(disk: Disk, root: Path) -> None:
    write(root / "d/e/f")
    known = look(disk, {}).entries
    (root / "d").rename(root / "new")
    found = look(disk, known, {"new"})
    assert set(found.entries) == {"new", "new/e", "new/e/f"}
    assert found.gone == {"d", "d/e", "d/e/f"}


def test_a_write_through_one_name_of_a_file_is_seen_at_its_other_names(disk: Disk, root: Path) -> None:
    write(root / "a")
    os.link(root / "a", root / "b")
    known = look(disk, {}).entries
    write(root / "a", "more")
    assert set(look(disk, known, {"a"}).entries) == {"a", "b"}


# What is gone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("partial", [False, True])
def test_what_was_deleted_is_gone_with_all_below(disk: Disk, root: Path, partial: bool) -> None:
    write(root / "d/e/f")
    write(root / "d/g")
    write(root / "stays")
    known = look(disk, {}).entries
    shutil.rmtree(root / "d")
    for dirty in [{"d"}, {"d/e/f", "d/g", "d"}, {"d/e/f"}] if partial else [None]:
        assert look(disk, known, dirty).gone == {"d", "d/e", "d/e/f", "d/g"}


def test_a_folder_that_became_a_file_or_a_link_holds_nothing_any_more(
    disk: Disk, root: Path, tmp_path: Path
) -> None:
    write(tmp_path / "outside/f")
    write(root / "a/f")
    write(root / "b/f")
    known = look(disk, {}).entries
    for name in ("a", "b"):
        shutil.rmtree(root / name)
    write(root / "a", "a file now")
    (root / "b").symlink_to(tmp_path / "outside")
    for dirty in (None, {"a", "b"}, {"a/f", "b/f"}):
        found = look(disk, known, dirty)
        assert found.gone == {"a/f", "b/f"}
        assert found.entries["a"].kind is LocalKind.FILE
        assert found.problems["b"].code == "unsafe_symlink"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "stat"])
@pytest.mark.parametrize("dirty", [None, {"d"}, {"d/sub/f"}, {"d/sub"}], ids=["full", "d", "file", "sub"])
def test_no_error_of_the_system_is_read_as_a_deletion(
    disk: Disk, root: Path, dirty: set[str] | None, call: str, number: int
) -> None:
    write(root / "d/sub/f")
    write(root / "d/g")
    known = look(disk, {}).entries
    for name in ("sub", "d", "f", "."):
        (root / "d/sub/f").unlink(missing_ok=True)
        with failing(call, name, number):
            found = look(disk, known, dirty)
        expected = {"d/sub/f"} if name == "." or (name == "f" and call == "open") else set()
        assert found.gone <= expected | ({"d/sub/f"} if call == "stat" and name in {"d", "sub"} else set())
        assert "d/g" not in found.gone
        assert "d/sub" not in found.gone
        if dirty is None and name in {"sub", "d"}:
            assert found.problems
            assert "d/sub/f" not in found.gone


def test_a_folder_that_cannot_be_listed_hides_nothing_that_was_known(disk: Disk, root: Path) -> None:
    write(root / "d/f")
    known = look(disk, {}).entries
    with failing("open", "d", errno.EACCES):
        found = look(disk, known)
    assert found.opaque == {"d"}
    assert found.problems["d"].code == "permission_denied"
    assert not found.gone
    assert merged(known, found)["d/f"].content_hash == known["d/f"].content_hash
    again = look(disk, merged(known, found), {"d"})
    assert again.entries["d"].trouble is None
    assert not again.opaque


def test_permissions_of_a_real_user_give_problems_and_no_deletions(disk: Disk, root: Path) -> None:
    write(root / "closed/f")
    write(root / "listed only/f")
    write(root / "secret")
    known = look(disk, {}).entries
    (root / "closed").chmod(0)
    (root / "listed only").chmod(0o444)
    (root / "secret").chmod(0)
    child = os.fork()
    if child == 0:
        os._exit(_scan_as_nobody(disk, known))
    _, status = os.waitpid(child, 0)
    for name in ("closed", "listed only", "secret"):
        (root / name).chmod(0o755)
    assert os.waitstatus_to_exitcode(status) == 0


def _scan_as_nobody(disk: Disk, known: Mapping[str, LocalEntry]) -> int:
    try:
        if os.geteuid() == 0:
            for path in [disk.root.path, *disk.root.path.rglob("*")]:
                os.lchown(path, 65534, 65534)
            for above in disk.root.path.parents:
                if str(above).startswith("/tmp/pytest"):  # noqa: S108
                    above.chmod(0o755)
            os.setgid(65534)
            os.setuid(65534)
        found = scan(disk, known, ignored=nothing)
        codes = {path: trouble.code for path, trouble in found.problems.items()}
        wanted = {"closed", "listed only/f", "secret"}
        return int(bool(found.gone) or codes != dict.fromkeys(wanted, "permission_denied"))
    except BaseException:  # noqa: BLE001  the exit code is all that the parent sees
        return 2


def test_a_root_that_is_missing_or_foreign_teaches_nothing(disk: Disk, root: Path) -> None:
    write(root / "f")
    known = look(disk, {}).entries
    root.rename(root.with_name("away"))
    for dirty in (None, {"f"}, {"d/e"}):
        with pytest.raises(BlockedError):
            look(disk, known, dirty)
    root.mkdir()
    for dirty in (None, {"f"}):
        with pytest.raises(BlockedError):
            look(disk, known, dirty)


@pytest.mark.parametrize("dirty", [None, {"m/f"}, {"m"}], ids=["full", "file", "folder"])
@pytest.mark.parametrize("mounted", [True, False])
def test_a_disk_that_is_mounted_or_unmounted_inside_deletes_nothing(
    disk: Disk, root: Path, dirty: set[str] | None, mounted: bool
) -> None:
    write(root / "m/f")
    write(root / "m/sub/g")
    for name in "abc":
        write(root / name / "f")
    known = dict(look(disk, {}).entries)
    home, other = disk.device(), disk.device() + 1
    for path, entry in known.items():
        on_mount = path == "m" or path.startswith("m/")
        was = other if on_mount != mounted and on_mount else home
        known[path] = _on_device(entry, was)
    shutil.rmtree(root / "m")
    (root / "m").mkdir()
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        found = real(path, **options)
        if path == "m" and mounted:
            return os.stat_result((*found[:2], other, *found[3:10]), {"st_mtime_ns": 1, "st_ctime_ns": 1})
        return found

    with patch.object(os, "stat", stat):
        found = look(disk, known, dirty)
    assert not found.gone
    assert "unmounted" in {trouble.code for trouble in found.problems.values()}


M_FILES = ("m/f", "m/sub/g")


@pytest.fixture(params=["among others", "alone"])
def mounted(request: pytest.FixtureRequest, disk: Disk, root: Path) -> Iterator["Mount"]:
    """The folder `m` on another disk, alone in the root or not."""
    for path in M_FILES:
        write(root / path)
    if request.param == "among others":
        write(root / "a/f")
    mount = Mount(root)
    with mount.active():
        mount.known = look(disk, {}).entries
        yield mount


class Mount:
    """Lets `m` seem to lie on another disk, and can put that away and bring it back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.away = root.with_name("the disk")
        self.number = root.stat().st_dev + 1
        self.inodes: set[int] = set()
        self.known: dict[str, LocalEntry] = {}

    def unmount(self) -> None:
        (self.root / "m").rename(self.away)
        (self.root / "m").mkdir()

    def mount(self) -> None:
        shutil.rmtree(self.root / "m")
        self.away.rename(self.root / "m")

    @contextmanager
    def active(self) -> Iterator[None]:
        self.inodes = {path.stat().st_ino for path in [self.root / "m", *(self.root / "m").rglob("*")]}

        def told(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
            def call(what: Any, **options: Any) -> os.stat_result:
                found = real(what, **options)
                return self._moved(found) if found.st_ino in self.inodes else found

            return call

        with patch.object(os, "stat", told(os.stat)), patch.object(os, "fstat", told(os.fstat)):
            yield

    def _moved(self, found: os.stat_result) -> os.stat_result:
        named = ("st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns", "st_ctime_ns")
        return os.stat_result(
            (*found[:2], self.number, *found[3:10]), {name: getattr(found, name) for name in named}
        )


@pytest.mark.parametrize(
    "scopes",
    [[None] * 4, [{"m/f"}] * 3, [{"m"}, None, {"m/sub/g"}], [{"m/sub/g"}, {"m/f"}, None]],
    ids=["full", "partial", "mixed", "below first"],
)
def test_an_unmounted_disk_deletes_nothing_however_often_it_is_looked_for(
    disk: Disk, mounted: Mount, scopes: list[set[str] | None]
) -> None:
    known = mounted.known
    mounted.unmount()
    for dirty in scopes:
        found = look(disk, known, dirty)
        assert not found.gone
        assert found.problems["m"].code == "unmounted"
        assert "m" in found.opaque
        known = merged(known, found)
        assert set(known) == set(mounted.known)
        assert known["m"].stat == mounted.known["m"].stat
    mounted.mount()
    for dirty in (scopes[-1], None):
        found = look(disk, known, dirty)
        assert not found.gone
        assert not found.problems
        known = merged(known, found)
    assert known.keys() == mounted.known.keys()
    assert all(known[path] is mounted.known[path] for path in M_FILES)
    assert known["m"].stat.dev == mounted.number


def test_once_the_disk_is_back_what_was_deleted_on_it_is_gone(disk: Disk, root: Path, mounted: Mount) -> None:
    mounted.unmount()
    known = merged(mounted.known, look(disk, mounted.known))
    mounted.mount()
    (root / "m/f").unlink()
    assert look(disk, known).gone == {"m/f"}


def test_what_lies_under_a_missing_disk_is_left_alone(disk: Disk, root: Path, mounted: Mount) -> None:
    known = mounted.known
    mounted.unmount()
    write(root / "m/sub/new")
    for dirty in (None, {"m/sub/new"}, None):
        found = look(disk, known, dirty)
        assert not found.gone
        assert found.hashed == 0
        known = merged(known, found)
        assert set(known) == set(mounted.known)
    assert known["m"].trouble is not None


def test_a_disk_mounted_over_known_files_hides_them_until_it_is_gone_again(disk: Disk, root: Path) -> None:
    write(root / "a/f")
    write(root / "m/f")
    known = first = dict(look(disk, {}).entries)
    (root / "m").rename(root.with_name("hidden"))
    write(root / "m/other")
    with Mount(root).active():
        for _ in range(3):
            found = look(disk, known)
            assert not found.gone
            assert found.problems["m"].code == "unmounted"
            known = merged(known, found)
            assert set(known) == set(first)
    shutil.rmtree(root / "m")
    root.with_name("hidden").rename(root / "m")
    found = look(disk, known)
    assert not found.gone | set(found.problems)
    assert {path: e.content_hash for path, e in merged(known, found).items()} == {
        path: e.content_hash for path, e in first.items()
    }


def test_a_mount_point_that_is_deleted_is_gone(disk: Disk, root: Path, mounted: Mount) -> None:
    mounted.unmount()
    known = merged(mounted.known, look(disk, mounted.known))
    (root / "m").rmdir()
    assert look(disk, known).gone == {"m", "m/f", "m/sub", "m/sub/g"}


def test_a_missing_disk_whose_number_the_root_took_at_a_restart_deletes_nothing(
    disk: Disk, root: Path
) -> None:
    write(root / "a/f")
    write(root / "m/f")
    home = disk.device()
    known = {
        path: _on_device(entry, home if path[0] == "m" else home + 7)
        for path, entry in look(disk, {}).entries.items()
    }
    known["m"] = _with_inode(known["m"], 2)
    shutil.rmtree(root / "m")
    (root / "m").mkdir()
    found = look(disk, known)
    assert not found.gone
    assert found.problems["m"].code == "unmounted"


def test_numbers_and_inodes_that_all_changed_are_no_obstacle(disk: Disk, root: Path) -> None:
    write(root / "d/f")
    write(root / "d/g")
    found = look(disk, {}).entries
    known = {p: _with_inode(_on_device(e, e.stat.dev + 7), e.stat.ino + 1000) for p, e in found.items()}
    (root / "d/f").unlink()
    assert look(disk, known).gone == {"d/f"}


def _with_inode(entry: LocalEntry, inode: int) -> LocalEntry:
    return replace(entry, stat=replace(entry.stat, ino=inode))


def _on_device(entry: LocalEntry, device: int) -> LocalEntry:
    return replace(entry, stat=replace(entry.stat, dev=device))


def test_device_numbers_that_all_changed_with_a_restart_are_no_obstacle(disk: Disk, root: Path) -> None:
    write(root / "d/f")
    write(root / "d/g")
    known = {p: _on_device(e, e.stat.dev + 7) for p, e in look(disk, {}).entries.items()}
    (root / "d/f").unlink()
    assert look(disk, known).gone == {"d/f"}


def test_what_a_listing_missed_is_looked_at_itself(disk: Disk, root: Path) -> None:
    write(root / "d/f")
    write(root / "d/g")
    known = look(disk, {}).entries
    from agent.scanner import walk  # noqa: PLC0415

    with patch.object(walk, "names_in", lambda _fd: ["d"] if not hasattr(walk, "seen") else []):
        found = look(disk, known)
    assert not found.gone
    assert {"d/f", "d/g"} <= set(merged(known, found))


def test_a_file_that_vanishes_between_listing_and_reading_is_no_error(disk: Disk, root: Path) -> None:
    write(root / "f")
    real = Disk.hash_file

    def user_deletes(self: Disk, path: str, **options: Any) -> Any:
        (root / path).unlink()
        return real(self, path, **options)

    with patch.object(Disk, "hash_file", user_deletes):
        found = look(disk, {})
    assert not found.entries
    assert not found.problems
    assert found.recheck == {"f"}


# What is left alone ------------------------------------------------------------------------------


def test_an_ignored_path_is_neither_found_nor_gone(disk: Disk, root: Path) -> None:
    write(root / "build/deep/f")
    write(root / "f")
    known = look(disk, {}).entries

    def ignored(path: str, _is_dir: bool) -> bool:
        return path == "build" or path.startswith("build/")

    for dirty in (None, {"build"}, {"build/deep/f"}, {"build/deep", "f"}):
        found = look(disk, known, dirty, ignored=ignored)
        assert not found.gone
        assert not {"build", "build/deep", "build/deep/f"} & set(found.entries)
    assert look(disk, known, ignored=ignored).ignored >= {"build"}
    shutil.rmtree(root / "build")
    assert not look(disk, known, ignored=ignored).gone


def test_special_files_are_reported(disk: Disk, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        found = look(disk, {})
    assert {path: t.code for path, t in found.problems.items()} == {
        "pipe": "special_file",
        "socket": "special_file",
    }
    assert found.entries["pipe"].kind is LocalKind.OTHER


@pytest.mark.parametrize(
    ("target", "code"),
    [("f", None), ("nowhere", None), ("l", None), ("../f", "unsafe_symlink"), ("/etc", "unsafe_symlink")],
)
def test_links_are_kept_as_links_when_they_stay_inside(
    disk: Disk, root: Path, target: str, code: str | None
) -> None:
    (root / "l").symlink_to(target)
    found = look(disk, {})
    assert found.entries["l"].symlink_target == target
    trouble = found.problems.get("l")
    assert (trouble.code if trouble else None) == code


@pytest.mark.parametrize("name", [b"caf\xe9", b".LOCKSTEP", b"d/.lockstep"])
def test_a_name_that_no_other_device_could_hold_is_reported_with_all_below_left_alone(
    disk: Disk, root: Path, name: bytes
) -> None:
    path = os.path.join(os.fsencode(root), name)  # noqa: PTH118
    os.makedirs(os.path.join(path, b"below"))  # noqa: PTH103, PTH118
    found = look(disk, {})
    assert found.problems[os.fsdecode(name)].code == "invalid_name"
    assert not any(p.endswith("below") for p in found.entries)
    assert not look(disk, found.entries, {f"{os.fsdecode(name)}/below"}).entries


def test_of_two_spellings_of_a_name_the_known_one_wins(disk: Disk, root: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(root / composed, "composed")
    known = look(disk, {}).entries
    write(root / decomposed, "decomposed")
    for dirty in (None, {decomposed}, {composed}):
        found = look(disk, known, dirty)
        assert found.problems == {decomposed: judging.COLLISION}
        assert found.entries[composed].trouble is None
    both = merged(known, look(disk, known))
    (root / composed).unlink()
    found = look(disk, both, {composed})
    assert found.gone == {composed}
    assert found.entries[decomposed].trouble is None
    assert found.entries[decomposed].content_hash is not None


def test_of_two_new_spellings_the_first_in_order_wins(disk: Disk, root: Path) -> None:
    write(root / "d/K")
    write(root / "d/\u212a")
    found = look(disk, {})
    assert found.problems == {"d/\u212a": judging.COLLISION}


def test_an_unreadable_file_keeps_what_was_known_of_it(disk: Disk, root: Path) -> None:
    write(root / "f", "before")
    known = look(disk, {}).entries
    with failing("open", "f", errno.EACCES):
        same = look(disk, known, rehash=lambda _: True)
        write(root / "f", "something else")
        other = look(disk, known)
    assert same.problems["f"].code == other.problems["f"].code == "permission_denied"
    assert same.entries["f"].content_hash == known["f"].content_hash
    assert other.entries["f"].content_hash is None
    assert not other.gone
    assert look(disk, other.entries).problems == {}


# A part of the tree ------------------------------------------------------------------------------


def test_a_dirty_file_is_looked_at_alone(disk: Disk, root: Path) -> None:
    write(root / "d/f")
    write(root / "d/g")
    known = look(disk, {}).entries
    write(root / "d/f", "edited")
    write(root / "d/g", "edited")
    assert set(look(disk, known, {"d/f"}).entries) == {"d/f"}


def test_no_entry_comes_without_the_folders_that_it_is_in(disk: Disk, root: Path) -> None:
    write(root / "new/a/f")
    write(root / "new/b")
    assert set(look(disk, {}, {"new/a/f"}).entries) == {"new", "new/a", "new/a/f", "new/b"}


def test_many_deleted_folders_are_found_gone(disk: Disk, root: Path) -> None:
    for number in range(40):
        write(root / f"d{number}/e/f")
    known = look(disk, {}).entries
    for number in range(20):
        shutil.rmtree(root / f"d{number}")
    dirty = {f"d{number}" for number in range(20)}
    assert len(look(disk, known, dirty).gone) == 60


@pytest.mark.parametrize("seed", range(30))
def test_looking_at_the_changed_paths_gives_what_a_full_scan_gives(disk: Disk, root: Path, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"{a}{b}" for a in "ab" for b in ("", "/c", "/c/d", "/e", "/caf\u00e9", "/cafe\u0301")]
    known: dict[str, LocalEntry] = {}
    for _ in range(6):
        dirty = {path for path in (_change(rng, root, rng.choice(names), names) for _ in range(4)) if path}
        dirty |= {name for name in names if name in str(dirty)}
        part = look(disk, known, dirty)
        whole = look(disk, known)
        assert not part.gone - whole.gone
        known = merged(known, part)
        assert {p: (e.kind, e.content_hash) for p, e in known.items()} == {
            p: (e.kind, e.content_hash) for p, e in whole.entries.items()
        }


def _change(rng: random.Random, root: Path, name: str, names: list[str]) -> str | None:
    """Change something at random; return the path, whose hint covers what is below it."""
    path = root / name
    if not path.parent.is_dir():
        return None
    if path.is_dir():
        shutil.rmtree(path)
    elif path.is_file():
        path.unlink()
    match rng.randrange(3):
        case 0:
            write(path, str(rng.random()), age=rng.randrange(100, 10_000))
        case 1:
            path.mkdir()
            write(path / "c", str(rng.random()))
        case _:
            pass
    return name


# Clocks and times that lie -----------------------------------------------------------------------


def test_a_file_from_the_future_is_read_once_and_is_at_rest(disk: Disk, root: Path) -> None:
    write(root / "f", age=-40 * 365 * 86_400)
    with patch.object(judging, "LARGE_BYTES", 0):
        first = look(disk, {})
    assert not first.problems
    assert not first.recheck
    with (root / "f").open("a"):
        again = look(disk, first.entries)
    assert again.hashed == 0
    assert not again.recheck


def test_a_file_from_the_future_that_a_program_keeps_open_is_read(disk: Disk, root: Path) -> None:
    write(root / "f", age=-40 * 365 * 86_400)
    with (root / "f").open("a"):
        found = look(disk, {})
    assert not found.problems
    assert found.entries["f"].content_hash


def test_a_file_read_before_the_clock_was_set_back_comes_to_rest(disk: Disk, root: Path) -> None:
    write(root / "f", age=0)
    known = look(disk, {}).entries
    assert not judging.settled(known["f"])
    back = time.time() - 3600
    with patch.object(clock, "now", return_value=back):
        found = look(disk, known, now=back)
        assert found.hashed == 1
        settled = merged(known, found)
        again = look(disk, settled, now=back + 3)
    assert again.hashed == 0
    assert not again.recheck


def test_where_names_have_spellings_a_folder_is_listed_once_for_all_that_is_dirty_in_it(
    disk: Disk, root: Path
) -> None:
    paths = {f"d/{number}" for number in range(50)}
    for path in paths:
        write(root / path)
    disk.folds_names = True
    with patch.object(os, "scandir", wraps=os.scandir) as listed:
        found = look(disk, {"d": look(disk, {}).entries["d"]}, paths)
    assert found.entries.keys() == paths
    assert listed.call_count <= 4
