"""One agent per home: the lock that `sync` and `start` hold, and a word to whoever holds it.

The word is a byte through a named pipe. The kernel itself says whether anyone listens, so nothing
has to be believed of a process id that a crash left behind.
"""

import asyncio
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent.errors import LocalError
from libs.runtime.logs import get_logger

log = get_logger("lock")

_TRIES: Final = 4
_PAUSE: Final = 0.05
"""Seconds between tries: `is_locked` holds the lock for an instant to find out."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the device's state. Raises `LocalError` "already_running". Blocks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(f"{path} cannot be opened: {error.strerror}", code="home_unusable") from error
    try:
        if not any(_try(fd, last=number == _TRIES - 1) for number in range(_TRIES)):
            raise LocalError(code="already_running")
        yield
    finally:
        os.close(fd)


def _try(fd: int, *, last: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not last:
            time.sleep(_PAUSE)
        return False
    return True


def is_locked(path: Path) -> bool:
    """Say whether an agent of this device runs."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


# A word to the one who holds it ---------------------------------------------------------------


@contextmanager
def listening(path: Path, told: Callable[[], None]) -> Iterator[bool]:
    """Call `told` in the running loop whenever another process nudges this one.

    To be used while the lock is held. Yields False where the disk has no named pipes.
    """
    loop = asyncio.get_running_loop()
    try:
        fd = _open_pipe(path)
    except OSError as error:
        log.warning("no nudges: the agent notices a pause only after a while", detail=str(error))
        yield False
        return
    loop.add_reader(fd, _drain, fd, told)
    try:
        yield True
    finally:
        loop.remove_reader(fd)
        os.close(fd)
        with suppress(OSError):
            path.unlink()


def _open_pipe(path: Path) -> int:
    """Make the pipe and open both ends, so that it never ends when a writer goes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def _drain(fd: int, told: Callable[[], None]) -> None:
    with suppress(BlockingIOError):
        os.read(fd, 4096)
    told()


def nudge(path: Path) -> bool:
    """Have the agent that listens at a pipe look at the memory; return whether there is one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENXIO, errno.ELOOP}:
            return False
        raise
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
        with suppress(BlockingIOError):  # full: it has been told and will look
            os.write(fd, b".")
    finally:
        os.close(fd)
    return True
