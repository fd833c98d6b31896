"""What has arrived of a file that `get` fetches: beside its target, where the same command finds it again.

Its name is made of the target's name and of the very content, so the same command after a kill goes on
with it, and nothing else does. The journal beside it is never believed (see `agent.transfer.ranges`).
"""

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import LocalError
from agent.files import sync_folder
from agent.ignore import GET_PREFIX
from agent.transfer import in_ranges
from libs.contracts.api import Download

_JOURNAL: Final = ".ranges"
"""How the name of a partial file's journal ends."""
_BLOCK: Final = 512
"""Bytes in the unit of `st_blocks`."""
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAME: Final = re.compile(rf"{re.escape(GET_PREFIX)}[0-9a-f]{{16}}-[0-9a-f]{{32}}(?:{re.escape(_JOURNAL)})?")


@dataclass(frozen=True, slots=True)
class Partial:
    """A file on its way to `target`, open for reading and writing and locked by this process."""

    target: Path
    path: Path
    fd: int
    journal: int | None
    """The open journal of a file that is fetched in ranges."""

    def install(self) -> None:
        """Make it the target, durably, in one step; what else was begun for that is dropped. Blocks.

        Raises `OSError`, and `LocalError` "changed" when something else has taken its name.
        """
        os.fsync(self.fd)
        if not _is_at(self.fd, self.path):
            raise LocalError(f"{self.path} was moved or removed meanwhile", code="changed")
        self.path.replace(self.target)
        _remove(_journal_of(self.path))
        sync_folder(self.target.parent)
        with suppress(OSError):
            _drop_others(self.target)

    def held(self) -> int:
        """Return how many bytes are on the disk; there may be gaps between them."""
        found = os.fstat(self.fd)
        return min(found.st_size, found.st_blocks * _BLOCK)


@contextmanager
def partial(target: Path, item: Download) -> Iterator[Partial]:
    """Open what has arrived of `item` for `target`, which may be nothing yet.

    What holds a byte stays when the body ends, unless it was installed. Raises `OSError`, and
    `LocalError` "in_use" while another process fetches the same to the same place, "unwritable"
    when something that is no such file has the name.
    """
    path = target.parent / (_prefix(target) + _key(item.node_id, item.version_id, item.content_hash)[:32])
    fd = _locked(path, os.O_CREAT)
    journal: int | None = None
    try:
        if in_ranges(item.size):
            journal = _opened(_journal_of(path), os.O_CREAT)
        yield Partial(target, path, fd, journal)
    finally:
        if os.fstat(fd).st_size == 0 and _is_at(fd, path):
            _remove(_journal_of(path))
            _remove(path)
        for open_fd in (fd, journal):
            if open_fd is not None:
                os.close(open_fd)


def _prefix(target: Path) -> str:
    """Return how the names begin of all that was begun for a target."""
    return f"{GET_PREFIX}{_key(target.name)[:16]}-"


def _key(*parts: str) -> str:
    return hashlib.sha256(b"\0".join(os.fsencode(part) for part in parts)).hexdigest()


def _journal_of(path: Path) -> Path:
    return path.with_name(path.name + _JOURNAL)


def _locked(path: Path, flags: int = 0) -> int:
    """Open a partial file that nobody else writes; whoever had it before may have moved it on meanwhile."""
    while True:
        fd = _opened(path, flags)
        try:
            _lock(fd, path)
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _opened(path: Path, flags: int) -> int:
    """Open a file of this user's own; what another put at a name that can be guessed is not written to.

    The owner of the folder is no other: some disks say of all their files that they are one user's.
    """
    fd = os.open(path, _FLAGS | flags, 0o600)
    found, own = os.fstat(fd), {os.geteuid(), path.parent.stat().st_uid}
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in own:
        os.close(fd)
        raise LocalError(f"{path} is in the way", code="unwritable")
    return fd


def _lock(fd: int, path: Path) -> None:
    """Lock it where the disk has locks: without, two that fetch the same write the same bytes."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LocalError(f"Another command writes {path}", code="in_use") from error
    except OSError:
        return


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _drop_others(target: Path) -> None:
    """Remove what was begun of other contents for a target that is whole now, unless it is being fetched."""
    prefix = _prefix(target)
    for name in os.listdir(target.parent):  # noqa: PTH208 - names, of a folder that may hold many
        if name.startswith(prefix) and _NAME.fullmatch(name):
            with suppress(OSError, LocalError):
                _drop_idle(target.with_name(name.removesuffix(_JOURNAL)))


def _drop_idle(path: Path) -> None:
    try:
        fd = _locked(path)
    except FileNotFoundError:
        _remove(_journal_of(path))
        return
    try:
        _remove(_journal_of(path))
        _remove(path)
    finally:
        os.close(fd)
