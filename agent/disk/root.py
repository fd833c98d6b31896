"""The root folder and the way to every path below it, one component at a time.

No path is ever handed to the system whole: each folder is opened relative to the one above it
without following links, so that a link put in the way at any moment leads to an error and not
outside. Descriptors are opened anew for each operation, so nothing here keeps a disk busy.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent.disk.errors import BlockedError, NameImpossibleError, translated
from agent.disk.native import Place
from libs.contracts.paths import STATE_FOLDER, name_key

MARKER: Final = "root"
"""The file in the state folder that tells one synced root from another."""
_MARKER_BYTES: Final = 1024
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP: Final = _FOLDER | (os.O_PATH if sys.platform.startswith("linux") else 0)
"""To pass through a folder; on Linux that needs no permission to list it."""


class Root:
    """The folder that is kept in step, recognised by device and inode or by its marker."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._identity: tuple[int, int] | None = None
        self._marker: str | None = None

    @contextmanager
    def open(self) -> Iterator[int]:
        """Open the root. Raises `BlockedError`: "root_missing", or "root_changed" for another folder.

        A missing root says nothing of what was in it, so it is never `VanishedError`.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BlockedError("The synced folder is not there", code="root_missing") from error
        try:
            self._check(fd)
            yield fd
        finally:
            os.close(fd)

    def remember(self) -> None:
        """Take the folder that is there now for the root from now on."""
        self._identity = None
        with translated(""), self.open() as fd:
            self._identity, self._marker = _identity(fd), read_marker(fd)

    def _check(self, fd: int) -> None:
        """A disk that was mounted again is known by its marker; an empty mount point is not."""
        if self._identity is None or self._identity == _identity(fd):
            return
        if self._marker is None or read_marker(fd) != self._marker:
            raise BlockedError("Another folder is in the place of the synced one", code="root_changed")
        self._identity = _identity(fd)

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """Open the folder at `path` (empty: the root) for listing and flushing."""
        with translated(path), self.open() as root:
            fd = _descend(root, components(path) if path else [], _FOLDER)
            try:
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def place(self, path: str) -> Iterator[Place]:
        """Open the folder that `path` is in and name the entry in it; it need not exist."""
        *above, name = components(path)
        with translated(path), self.open() as root:
            fd = _descend(root, above, _STEP)
            try:
                yield Place(fd, name)
            finally:
                os.close(fd)

    @contextmanager
    def state(self, *names: str) -> Iterator[int]:
        """Open the agent's own folder, or one below it; the body's errors stay the caller's."""
        with translated(STATE_FOLDER), self.open() as root:
            fd = _open_state(root, names)
        try:
            yield fd
        finally:
            os.close(fd)


def _open_state(root: int, names: tuple[str, ...]) -> int:
    """Open a folder of the agent's own; one that somebody removed below it is made again."""
    try:
        return _descend(root, [STATE_FOLDER, *names], _FOLDER)
    except FileNotFoundError:
        if not names:
            raise
    above = _open_state(root, names[:-1])
    try:
        with suppress(FileExistsError):
            os.mkdir(names[-1], 0o700, dir_fd=above)
        return os.open(names[-1], _FOLDER, dir_fd=above)
    finally:
        os.close(above)


def components(path: str) -> list[str]:
    """Split a path below the root or raise `NameImpossibleError` "path_refused".

    Refused: empty, absolute, `.` and `..`, empty components, NUL, the agent's own folder at any
    depth, and text that no file name can be.
    """
    names = path.split("/")
    if "\0" in path or any(name in {"", ".", ".."} or is_state_folder(name) for name in names):
        raise NameImpossibleError("The path leads out of the folder", code="path_refused", path=path)
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise NameImpossibleError("The path is not text", code="path_refused", path=path) from error
    return names


def is_state_folder(name: str) -> bool:
    """Say whether a name is that of the agent's own folder, on a disk that folds case too."""
    return name[:1] == "." and name_key(name).casefold() == STATE_FOLDER


def read_marker(root: int) -> str | None:
    """Return what the marker in the folder `root` says; None when there is none. Raises `OSError`."""
    return read_note(root, MARKER)


def read_note(root: int, name: str) -> str | None:
    """Return what a small file of the agent's own folder says; None when there is none. Raises `OSError`."""
    with suppress(FileNotFoundError, NotADirectoryError):
        fd = _descend(root, [STATE_FOLDER, name], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(fd, _MARKER_BYTES).decode(errors="replace").strip() or None
        finally:
            os.close(fd)
    return None


def names_in(fd: int) -> list[str]:
    """Return the names in an open folder, sorted."""
    with os.scandir(fd) as entries:
        return sorted(entry.name for entry in entries)


def sync_folder(place: Place) -> None:
    """Make renames and removals in the folder of `place` durable, where it can be listed."""
    with suppress(PermissionError):
        fd = os.open(".", _FOLDER, dir_fd=place.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _descend(start: int, names: list[str], last_flags: int) -> int:
    fd = os.dup(start)
    for index, name in enumerate(names):
        flags = last_flags if index == len(names) - 1 else _STEP
        try:
            below = os.open(name, flags, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _identity(fd: int) -> tuple[int, int]:
    stat = os.fstat(fd)
    return stat.st_dev, stat.st_ino
