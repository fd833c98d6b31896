"""Whatever the user does, and whatever fails, in any instant of a step that destroys: nothing is lost.

Every system call of a step is counted. A run is repeated for each of them with the user acting
right before it, with the call failing, and with the agent dying there.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agent.disk import Disk, DiskError, Ready, native
from agent.disk.native import UnsupportedError
from agent.model import LocalEntry, LocalKind

OLD, NEW, USER = b"what both sides agreed on", b"what the server has now", b"what the user writes now"
LONG_AGO = 10**18
CALLS = (
    "open", "close", "stat", "fstat", "rename", "unlink", "rmdir", "mkdir", "link", "symlink", "readlink",
    "fchmod", "utime", "fsync", "preadv", "scandir",
)  # fmt: skip
NATIVE = ("rename_noreplace", "rename_exchange", "open_for_writing")


class Killed(BaseException):
    """The agent is gone: from here on nothing of it runs."""


@dataclass
class Instants:
    """Counts system calls and lets something happen right before one of them."""

    at: int = -1
    act: Callable[[], None] = lambda: None
    count: int = 0
    busy: bool = False
    dead: bool = False

    def before_call(self) -> None:
        if self.busy:
            return
        if self.dead:
            raise Killed
        self.count += 1
        if self.count - 1 == self.at:
            self.busy = True
            try:
                self.act()
            finally:
                self.busy = False

    def fail(self, number: int) -> None:
        raise OSError(number, os.strerror(number))

    def die(self) -> None:
        self.dead = True
        raise Killed


@contextmanager
def counted(instants: Instants, *, plain_disk: bool) -> Iterator[None]:
    """Pass every call through `instants`; on a plain disk there are no conditional renames."""

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            instants.before_call()
            return real(*args, **kwargs)

        return call

    def refused(*_: Any) -> None:
        instants.before_call()
        raise UnsupportedError

    with ExitStack() as stack:
        for name in CALLS:
            real = (lambda _fd: None) if name == "fsync" else getattr(os, name)
            # A descriptor is closed by the kernel when the agent dies.
            stack.enter_context(patch.object(os, name, real if name == "close" else wrapped(real)))
        for name in NATIVE:
            replaced = refused if plain_disk and name.startswith("rename") else wrapped(getattr(native, name))
            stack.enter_context(patch.object(native, name, replaced))
        yield


@dataclass
class Stage:
    """A folder with one file that both sides agreed on, and a finished download."""

    root: Path
    disk: Disk
    expect: LocalEntry
    other: LocalEntry
    ready: Ready
    late: list[int] = field(default_factory=list)

    @staticmethod
    def set_up(root: Path) -> "Stage":
        root.mkdir()
        disk = Disk(root)
        disk.prepare()
        expect = known_file(root, disk, "doc.txt", OLD)
        other = known_file(root, disk, "other.txt", OLD + b" too")
        with disk.new_temp("a" * 24, "b" * 24) as temp:
            os.write(temp.fd, NEW)
        ready = Ready(temp.name, hashlib.sha256(NEW).hexdigest(), LONG_AGO + 5)
        return Stage(root, disk, expect, other, ready)

    def contents(self) -> set[bytes]:
        """Return every content that can be reached below the root, the agent's own folder included."""
        return {p.read_bytes() for p in self.root.rglob("*") if p.is_file() and not p.is_symlink()}

    def finish(self) -> None:
        for fd in self.late:
            os.ftruncate(fd, 0)
            os.write(fd, USER)
            os.close(fd)


def known_file(root: Path, disk: Disk, name: str, content: bytes) -> LocalEntry:
    (root / name).write_bytes(content)
    os.utime(root / name, ns=(LONG_AGO, LONG_AGO))
    stat, digest = disk.hash_file(name)
    return LocalEntry(name, LocalKind.FILE, stat, digest)


# What the agent does ---------------------------------------------------------------------------


def install(stage: Stage) -> LocalEntry | None:
    return stage.disk.install(stage.ready, "doc.txt", expect=stage.expect)


def install_new(stage: Stage) -> LocalEntry | None:
    return stage.disk.install(stage.ready, "new.txt", expect=None)


def replace_by_link(stage: Stage) -> LocalEntry | None:
    stage.disk.replace_symlink("doc.txt", "other.txt", expect=stage.expect, mtime_ns=LONG_AGO)
    return None


def remove(stage: Stage) -> LocalEntry | None:
    stage.disk.remove("doc.txt", stage.expect)
    return None


def move(stage: Stage) -> LocalEntry | None:
    return stage.disk.move("doc.txt", "moved.txt", expect=stage.expect)


def exchange(stage: Stage) -> LocalEntry | None:
    one, _ = stage.disk.exchange("doc.txt", "other.txt", expect_one=stage.expect, expect_other=stage.other)
    return one


def set_attributes(stage: Stage) -> LocalEntry | None:
    return stage.disk.set_attributes("doc.txt", stage.expect, mtime_ns=LONG_AGO + 7, executable=True)


STEPS = [install, install_new, replace_by_link, remove, move, exchange, set_attributes]


# What the user does ----------------------------------------------------------------------------


def target_of(stage: Stage, step: Callable[..., Any]) -> Path:
    return stage.root / ("new.txt" if step is install_new else "doc.txt")


def writes_in_place(_stage: Stage, path: Path) -> None:
    if path.is_symlink():
        path = path.with_name("elsewhere.txt")
    path.write_bytes(USER)


def saves_by_renaming(stage: Stage, path: Path) -> None:
    beside = stage.root / "editor.tmp"
    beside.write_bytes(USER)
    beside.rename(path)


def opens_now_writes_later(stage: Stage, path: Path) -> None:
    if path.exists() and not path.is_symlink():
        stage.late.append(os.open(path, os.O_WRONLY))
    else:
        path.with_name("elsewhere.txt").write_bytes(USER)


def renames_after_writing(stage: Stage, path: Path) -> None:
    if path.exists() and not path.is_symlink():
        path.write_bytes(USER)
        path.rename(stage.root / "renamed by user.txt")
    else:
        (stage.root / "renamed by user.txt").write_bytes(USER)


def deletes_and_makes_anew(_stage: Stage, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(USER)


USERS = [
    writes_in_place,
    saves_by_renaming,
    opens_now_writes_later,
    renames_after_writing,
    deletes_and_makes_anew,
]


def calls_of(step: Callable[[Stage], Any], root: Path, *, plain_disk: bool) -> int:
    stage, instants = Stage.set_up(root), Instants()
    with counted(instants, plain_disk=plain_disk):
        step(stage)
    return instants.count


def assert_not_fooled(stage: Stage, entry: LocalEntry | None) -> None:
    """What a step returns as known is true, or the next scan sees by the stat that it is not."""
    if entry is None or entry.content_hash is None:
        return
    path = stage.root / entry.path
    found = stage.disk.lstat(entry.path)
    if found is not None and found.same(entry.stat):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.content_hash


@pytest.mark.parametrize("plain_disk", [False, True], ids=["renameat2", "plain-rename"])
@pytest.mark.parametrize("user", USERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("step", STEPS, ids=lambda f: f.__name__)
def test_what_the_user_writes_in_any_instant_is_kept(
    tmp_path: Path, step: Callable[[Stage], LocalEntry | None], user: Callable[..., None], plain_disk: bool
) -> None:
    for at in range(calls_of(step, tmp_path / "dry", plain_disk=plain_disk)):
        stage = Stage.set_up(tmp_path / str(at))
        path, entry = target_of(stage, step), None
        instants = Instants(at, lambda stage=stage, path=path: user(stage, path))  # type: ignore[misc]
        try:
            with counted(instants, plain_disk=plain_disk):
                entry = step(stage)
        except DiskError:
            pass
        stage.finish()
        assert USER in stage.contents(), f"lost when it came before call {at}"
        assert_not_fooled(stage, entry)


@pytest.mark.parametrize("plain_disk", [False, True], ids=["renameat2", "plain-rename"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT], ids=errno.errorcode.get)
@pytest.mark.parametrize("step", STEPS, ids=lambda f: f.__name__)
def test_a_step_that_fails_anywhere_leaves_what_was_there(
    tmp_path: Path, step: Callable[[Stage], LocalEntry | None], number: int, plain_disk: bool
) -> None:
    for at in range(calls_of(step, tmp_path / "dry", plain_disk=plain_disk)):
        stage, instants = Stage.set_up(tmp_path / str(at)), Instants(at)
        instants.act = lambda instants=instants: instants.fail(number)  # type: ignore[misc]
        failed = False
        try:
            with counted(instants, plain_disk=plain_disk):
                step(stage)
        except DiskError:
            failed = True
        found, path = stage.contents(), stage.root / "doc.txt"
        replaced = path.is_symlink() or (path.exists() and path.read_bytes() == NEW)
        assert OLD in found or replaced, f"lost when call {at} failed"
        assert not failed or NEW in found or step not in {install, install_new}, f"download lost at {at}"


@pytest.mark.parametrize("plain_disk", [False, True], ids=["renameat2", "plain-rename"])
@pytest.mark.parametrize(
    "user", [None, writes_in_place, opens_now_writes_later], ids=lambda f: f.__name__ if f else "nobody"
)
@pytest.mark.parametrize("step", STEPS, ids=lambda f: f.__name__)
def test_an_agent_that_dies_anywhere_leaves_what_was_there(
    tmp_path: Path,
    step: Callable[[Stage], LocalEntry | None],
    user: Callable[..., None] | None,
    plain_disk: bool,
) -> None:
    for at in range(calls_of(step, tmp_path / "dry", plain_disk=plain_disk)):
        stage, instants = Stage.set_up(tmp_path / str(at)), Instants(at)
        path = target_of(stage, step)

        def act(stage: Stage = stage, path: Path = path, instants: Instants = instants) -> None:
            if user is not None:
                user(stage, path)
            instants.die()

        instants.act = act
        with pytest.raises(Killed), counted(instants, plain_disk=plain_disk):
            step(stage)
        stage.finish()
        found = stage.contents()
        assert (OLD if user is None else USER) in found or (user is None and NEW in found)


@pytest.mark.parametrize("step", [install, replace_by_link, remove], ids=lambda f: f.__name__)
def test_a_file_that_a_program_holds_open_for_writing_is_left_to_it(
    tmp_path: Path, step: Callable[[Stage], LocalEntry | None]
) -> None:
    stage = Stage.set_up(tmp_path / "root")
    with (stage.root / "doc.txt").open("ab") as writer:
        with pytest.raises(DiskError) as caught:
            step(stage)
        assert caught.value.code == "in_use"
        writer.write(USER)
    assert (stage.root / "doc.txt").read_bytes() == OLD + USER
    assert not list((stage.root / ".lockstep/trash").iterdir())


@pytest.mark.parametrize("step", [install, remove], ids=lambda f: f.__name__)
def test_an_edit_that_no_time_stamp_shows_is_found_and_put_back(
    tmp_path: Path, step: Callable[[Stage], LocalEntry | None]
) -> None:
    stage = Stage.set_up(tmp_path / "root")
    path, hidden = stage.root / "doc.txt", OLD[::-1]
    path.write_bytes(hidden)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    with pytest.raises(DiskError) as caught:
        step(stage)
    assert caught.value.code == "changed"
    assert path.read_bytes() == hidden
    assert NEW in stage.contents()
    assert not [name for name in os.listdir(stage.root) if "kept" in name]  # noqa: PTH208
