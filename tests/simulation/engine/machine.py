"""One machine of the simulation: its system calls, and the instant in which it dies.

Every call of the agent that changes something (disk, database, network) is a step. In a chosen
step the machine dies: that call and all after it do nothing, whatever handlers still run, as after
a kill. In any call, of those that only look too, its user may act, or the call may fail.
"""

import errno
import os
import sqlite3
import stat as modes
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from agent import clock
from agent.disk import native
from agent.disk.native import UnsupportedError

CURRENT: ContextVar["Machine | None"] = ContextVar("machine", default=None)
"""The machine whose agent runs; None: the test itself, or a user."""

CHANGING = (
    "rename",
    "replace",
    "unlink",
    "rmdir",
    "mkdir",
    "link",
    "symlink",
    "fchmod",
    "utime",
    "ftruncate",
    "write",
    "pwrite",
)
LOOKING = ("open", "stat", "fstat", "readlink", "preadv", "pread", "scandir")
NATIVE = ("rename_noreplace", "rename_exchange")
_READS = os.O_WRONLY | os.O_RDWR | os.O_PATH


_MOST = 60_000
"""Steps of one run, or of a running agent since it was left alone; a few hundred are usual."""


class Killed(BaseException):
    """The agent is gone."""


class EndlessError(BaseException):
    """A run does one thing after the other and comes to no end; nothing in the agent may catch this."""


@dataclass
class Machine:
    """What one device's system is like and what happens in which of its calls."""

    name: str
    exchanges: bool = True
    """Whether its disk has the conditional renames."""
    keeps_birth: bool = True
    steps: int = 0
    """Changing calls so far of this run."""
    calls: int = 0
    """Calls so far of this run, the looking ones too."""
    dead: bool = False
    dies_at: int = -1
    """The step at which it dies; -1: never."""
    acts: dict[int, Callable[[], object]] = field(default_factory=dict)
    """Call → what its user does right before it."""
    fails: dict[int, int] = field(default_factory=dict)
    """Call → the error it fails with."""
    hidden: set[int] = field(default_factory=set)
    """Inodes that may not be read."""
    about: str = ""
    """The name that the latest call was about, as far as it is one of the user's."""
    log: list[str] = field(default_factory=list)
    open: list[sqlite3.Connection] = field(default_factory=list)

    def begin(self) -> None:
        """A new process."""
        self.steps = self.calls = 0
        self.dead = False
        self.dies_at = -1
        self.acts.clear()
        self.fails.clear()

    def end(self) -> None:
        """The process is gone: the system closes what it had open."""
        for connection in self.open:
            connection.close()
        self.open.clear()
        self.dead = False

    def step(self, what: str) -> None:
        """Count a call that changes something, or die in it."""
        if self.dead:
            raise Killed
        self.steps += 1
        if self.steps > _MOST:
            raise EndlessError(f"{self.name} has done {_MOST} steps; the last ones: {self.log[-40:]}")
        self.log.append(what)
        if self.steps - 1 == self.dies_at:
            self.dead = True
            raise Killed

    def call(self, *names: Any) -> None:
        """Count a call of any kind: the user may act right before it, or it fails."""
        if self.dead:
            raise Killed
        for name in names:
            if isinstance(name, str) and not name.startswith(_OWN):
                self.about = name
        self.calls += 1
        act = self.acts.pop(self.calls - 1, None)
        if act is not None:
            token = CURRENT.set(None)
            try:
                act()
            finally:
                CURRENT.reset(token)
        number = self.fails.pop(self.calls - 1, None)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def check_readable(self, name: Any, flags: int, dir_fd: int | None) -> None:
        """Refuse to open what is hidden: to read a file, to list a folder."""
        if not self.hidden or flags & _READS:
            return
        try:
            found = _REAL_STAT(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return
        if found.st_ino in self.hidden and (modes.S_ISREG(found.st_mode) or flags & os.O_DIRECTORY):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))


_REAL_STAT = os.stat
_OWN = (".", "/", "swap.", "second.", "scratch.")


class Connection(sqlite3.Connection):
    """A database whose transactions begin and end in steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        machine = CURRENT.get()
        if machine is not None:
            machine.open.append(self)

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        machine = CURRENT.get()
        if machine is not None and sql.startswith(("BEGIN", "COMMIT")):
            _call_database(machine)
            machine.step(sql.partition(" ")[0].lower())
        elif machine is not None and machine.dead:
            raise Killed
        return super().execute(sql, *args)


def _call_database(machine: Machine) -> None:
    try:
        machine.call()
    except OSError as error:
        failed = sqlite3.OperationalError("database or disk is full")
        failed.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise failed from error


def _changing(name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        machine = CURRENT.get()
        if machine is not None:
            machine.call(*args)
            machine.step(name)
        return real(*args, **kwargs)

    return call


def _looking(name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        machine = CURRENT.get()
        if machine is not None:
            machine.call(*args)
        return real(*args, **kwargs)

    return call


def _opening() -> Callable[..., Any]:
    real = os.open

    def call(name: Any, flags: int, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> int:
        machine = CURRENT.get()
        if machine is not None:
            machine.call(name)
            machine.check_readable(name, flags, dir_fd)
            if flags & os.O_CREAT:
                machine.step("create")
        return real(name, flags, *args, dir_fd=dir_fd, **kwargs)

    return call


def _path_opening() -> Callable[..., Any]:
    real = Path.open

    def call(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        machine = CURRENT.get()
        if machine is not None:
            machine.call()
            if not mode.startswith("r"):
                machine.step("write file")
        return real(path, mode, *args, **kwargs)

    return call


def _much_room(_place: Any) -> Any:
    machine = CURRENT.get()
    if machine is not None:
        machine.call()
    return SimpleNamespace(f_bavail=1 << 30, f_frsize=4096)


def _native(name: str) -> Callable[..., None]:
    real = getattr(native, name)

    def call(*args: Any) -> None:
        machine = CURRENT.get()
        if machine is None:
            real(*args)
            return
        machine.call(*(place.name for place in args))
        if not machine.exchanges:
            raise UnsupportedError
        machine.step(name)
        real(*args)

    return call


def _birth() -> Callable[..., int | None]:
    real = native.birth_ns

    def call(*args: Any) -> int | None:
        machine = CURRENT.get()
        return real(*args) if machine is None or machine.keeps_birth else None

    return call


def _connect() -> Callable[..., sqlite3.Connection]:
    real = sqlite3.connect

    def call(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return real(*args, factory=Connection, **kwargs)

    return call


@contextmanager
def played(monotonic: Callable[[], float], wall: Callable[[], float]) -> Iterator[None]:
    """Let every call of the agent pass through its machine, and time be the simulation's."""
    replaced: list[tuple[Any, str, Any]] = [
        *((os, name, _changing(name)) for name in CHANGING),
        *((os, name, _looking(name)) for name in LOOKING if name != "open"),
        (os, "open", _opening()),
        (os, "statvfs", _much_room),
        (Path, "open", _path_opening()),
        (os, "fsync", lambda _fd: None),
        *((native, name, _native(name)) for name in NATIVE),
        (native, "birth_ns", _birth()),
        (native, "open_for_writing", lambda _fd: False),
        (sqlite3, "connect", _connect()),
        (time, "monotonic", monotonic),
        (time, "time", wall),
        (clock, "now", wall),
    ]
    with ExitStack() as stack:
        for owner, name, stand_in in replaced:
            stack.enter_context(patch.object(owner, name, stand_in))
        yield
