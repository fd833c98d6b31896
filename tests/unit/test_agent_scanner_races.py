"""What a user does in any instant of a scan: nothing is lost, nothing is taken for gone that is there.

Every system call of a scan is an instant. In each of them each change is tried.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agent.disk import Disk, DiskError
from agent.model import LocalEntry, LocalKind
from agent.scanner import ScanResult, scan

CALLS = ("open", "stat", "fstat", "scandir", "preadv", "readlink")
OLD = 10**18
"""A time of modification long ago, so that files are at rest."""


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


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, ns=(OLD, OLD + len(content)))


def look(disk: Disk, known: Mapping[str, LocalEntry], dirty: set[str] | None = None) -> ScanResult:
    return scan(disk, known, ignored=lambda _path, _is_folder: False, dirty=dirty)


def merged(known: Mapping[str, LocalEntry], result: ScanResult) -> dict[str, LocalEntry]:
    return {path: entry for path, entry in known.items() if path not in result.gone} | result.entries


@contextmanager
def instants(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with a number before every system call of the body."""
    number = 0

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number += 1
            act(number)
            return real(*args, **kwargs)

        return call

    patches = [patch.object(os, name, before(getattr(os, name))) for name in CALLS]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


# What the user does ------------------------------------------------------------------------------


def grows(root: Path) -> None:
    with (root / "d/f").open("a") as file:
        file.write("more")


def truncates(root: Path) -> None:
    os.truncate(root / "d/f", 1)


def saves_by_renaming(root: Path) -> None:
    write(root / "tmp", "saved")
    (root / "tmp").rename(root / "d/f")


def deletes(root: Path) -> None:
    (root / "d/f").unlink()


def makes_a_pipe_of_it(root: Path) -> None:
    (root / "d/f").unlink()
    os.mkfifo(root / "d/f")


def makes_a_folder_of_it(root: Path) -> None:
    (root / "d/f").unlink()
    write(root / "d/f/inside", "inside")


def makes_a_link_of_it(root: Path) -> None:
    (root / "d/f").unlink()
    (root / "d/f").symlink_to("../../outside/f")


def removes_the_folder(root: Path) -> None:
    shutil.rmtree(root / "d")


def renames_the_folder(root: Path) -> None:
    (root / "d").rename(root / "e")


def puts_a_link_in_the_folders_place(root: Path) -> None:
    (root / "d").rename(root / "e")
    (root / "d").symlink_to("../outside")


def puts_another_folder_there(root: Path) -> None:
    (root / "d").rename(root / "e")
    write(root / "d/new\nline", "new")


CHANGES = [
    grows, truncates, saves_by_renaming, deletes,
    makes_a_pipe_of_it, makes_a_folder_of_it, makes_a_link_of_it,
    removes_the_folder, renames_the_folder, puts_a_link_in_the_folders_place, puts_another_folder_there,
]  # fmt: skip


def stage(root: Path) -> None:
    for each in (root, root.parent / "outside"):
        for path in each.iterdir() if each.is_dir() else ():
            if path.name != ".lockstep":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    write(root.parent / "outside/f", "secret")
    write(root / "d/f", "content")
    write(root / "d/g", "other")
    write(root / "d/sub/h", "deep")
    (root / "d/l").symlink_to("f")
    write(root / "z", "last")


def truth(root: Path) -> dict[str, str]:
    """Path → what is there now."""
    found = {}
    for path in root.rglob("*"):
        name = os.fspath(path.relative_to(root))
        if name.partition("/")[0] != ".lockstep":
            found[name] = _described(path)
    return found


def _described(path: Path) -> str:
    if path.is_symlink():
        return f"symlink {path.readlink()}"
    if path.is_dir():
        return "folder"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "other"


def told(entries: Mapping[str, LocalEntry]) -> dict[str, str]:
    """What a scan says, as `truth` says it."""
    return {path: _told(entry) for path, entry in entries.items()}


def _told(entry: LocalEntry) -> str:
    if entry.symlink_target is not None:
        return f"symlink {entry.symlink_target}"
    return entry.content_hash or entry.kind.value


@pytest.mark.timeout(120)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    ("dirty", "is_known"),
    [(None, False), (None, True), ({"d/f"}, True)],
    ids=["first look", "full", "one file"],
)
def test_what_a_user_does_in_any_instant_of_a_scan_is_seen_by_it_or_by_the_next(
    disk: Disk, root: Path, change: Callable[[Path], None], *, is_known: bool, dirty: set[str] | None
) -> None:
    when, last = 1, False
    while not last:
        stage(root)
        known = dict(look(disk, {}).entries) if is_known else {}
        if is_known:
            write(root / "d/f", "edited")
        states = [truth(root)]
        last = True

        def act(number: int, when: int = when, states: list[dict[str, str]] = states) -> None:
            nonlocal last
            if number == when:
                change(root)
                states.append(truth(root))
                last = False

        with instants(act):
            result = look(disk, known, dirty)
        when += 1
        now = truth(root)
        assert not result.gone & now.keys()
        for path, hashed in told(result.entries).items():
            kind = result.entries[path].kind
            if kind is LocalKind.FILE and result.entries[path].content_hash:
                assert hashed in {state.get(path) for state in states}, path
        seen = merged(known, result)
        if result.recheck:
            seen = merged(seen, look(disk, seen, set(result.recheck)))
        assert told(merged(seen, look(disk, seen))) == now
    assert when > 4


def test_errors_that_pass_by_themselves_are_looked_at_again_soon(disk: Disk, root: Path) -> None:
    write(root / "d/f", "content")
    real = os.open
    for name, number in (("f", errno.EMFILE), ("f", errno.EWOULDBLOCK), ("d", errno.ENFILE)):

        def refuse(path: Any, *args: Any, name: str = name, number: int = number, **more: Any) -> int:
            if path == name:
                raise OSError(number, os.strerror(number))
            return real(path, *args, **more)

        with patch.object(os, "open", refuse):
            result = look(disk, {})
        assert result.recheck
        assert not look(disk, merged({}, result), set(result.recheck)).problems


def test_a_file_with_anothers_write_lease_is_reported_and_read_when_it_is_free(
    disk: Disk, root: Path
) -> None:
    write(root / "f", "content")
    holder = (
        "import fcntl, os, signal, sys, time\n"
        f"fd = os.open({os.fspath(root / 'f')!r}, os.O_RDWR)\n"
        "fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        result = look(disk, {})
        process.communicate()
    assert result.problems["f"].code == "in_use"
    assert result.recheck == {"f"}
    assert look(disk, merged({}, result), {"f"}).entries["f"].content_hash


def test_paths_longer_than_the_system_takes_at_once_are_found_and_seen_to_go(disk: Disk, root: Path) -> None:
    name, here = "n" * 250, os.open(root, os.O_RDONLY)
    opened = [here]
    for _ in range(20):
        os.mkdir(name, dir_fd=opened[-1])
        opened.append(os.open(name, os.O_RDONLY, dir_fd=opened[-1]))
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=opened[-1]))
    deep = "/".join([name] * 20 + ["f"])
    assert len(deep) > os.pathconf(root, "PC_PATH_MAX")
    known = look(disk, {}).entries
    assert known[deep].content_hash
    assert look(disk, known, {deep}).entries.keys() == {deep}
    os.unlink("f", dir_fd=opened[-1])
    assert look(disk, known).gone == {deep}
    shutil.rmtree(name, dir_fd=here)
    for folder in opened:
        os.close(folder)


def test_a_root_that_goes_in_any_instant_of_a_scan_teaches_no_deletion(disk: Disk, root: Path) -> None:
    away = root.with_name("away")
    stage(root)
    known = look(disk, {}).entries
    when, last = 1, False
    while not last:
        last = True

        def act(number: int, when: int = when) -> None:
            nonlocal last
            if number == when:
                root.rename(away)
                root.mkdir()
                last = False

        try:
            with instants(act):
                gone = look(disk, known).gone
        except DiskError:
            gone = set()
        assert not gone
        if away.exists():
            root.rmdir()
            away.rename(root)
        when += 1
    assert when > 10


def test_names_with_newlines_and_other_odd_bytes_are_found(disk: Disk, root: Path) -> None:
    for name in ("a\nb", "tab\t", " lead", "trail ", "\x01", "-", "~", "*", "\\", '"', "\u202egnp.exe"):
        write(root / name, name)
    found = look(disk, {})
    assert told(found.entries) == truth(root)
    assert not found.problems
