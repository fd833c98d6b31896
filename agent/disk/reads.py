"""Reading the disk: nothing here changes anything."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from agent.disk import native
from agent.disk.base import Rooted
from agent.disk.errors import DiskError, MismatchError, translated
from agent.disk.look import Digest, Seen, hash_open, look, look_inside, reading
from agent.disk.root import components, is_state_folder, names_in, read_marker, read_note
from agent.model import FileStat, LocalEntry, LocalKind
from libs.contracts.paths import name_key

_AHEAD_SECONDS: Final = 3600.0
"""How far the clock of a disk on another machine may be ahead of this one's."""


class RootKind(StrEnum):
    """What stands where the synced folder should be."""

    FOLDER = "folder"
    MISSING = "missing"
    NOT_A_FOLDER = "not_a_folder"
    UNREADABLE = "unreadable"
    """The system does not say: permission, input/output error. Never read as missing."""


@dataclass(frozen=True, slots=True)
class RootState:
    """What the guards want to know of the root. `empty`: nothing but the agent's own folder."""

    kind: RootKind
    marker: str | None = None
    empty: bool = False


class Opened(NamedTuple):
    """A file held open for reading, and what it was when it was opened."""

    fd: int
    stat: FileStat


class Reads(Rooted):
    """The methods that look."""

    def root_state(self) -> RootState:
        """Return what stands where the root should be. Raises nothing and changes nothing."""
        try:
            fd = os.open(self.root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return RootState(RootKind.MISSING)
        except NotADirectoryError:
            return RootState(RootKind.NOT_A_FOLDER)
        except OSError:
            return RootState(RootKind.UNREADABLE)
        try:
            return _state_of(fd)
        except OSError:
            return RootState(RootKind.UNREADABLE)
        finally:
            os.close(fd)

    def marker(self) -> str | None:
        """Return the id in the root's marker file; None when there is none."""
        with translated(""), self.root.open() as fd:
            return read_marker(fd)

    def note(self, name: str) -> str | None:
        """Return what a small file of the agent's own folder says; None when there is none."""
        with translated(name), self.root.open() as fd:
            return read_note(fd, name)

    def free_bytes(self) -> int:
        """Return how many bytes this user can still write on the root's disk."""
        with translated(""), self.root.open() as fd:
            found = os.fstatvfs(fd)
            return found.f_bavail * found.f_frsize

    def look(self, path: str) -> LocalEntry | None:
        """Return what stands at a path, without the content's hash; None when nothing does.

        Nothing stands below what is not a folder. Any other error is raised: it says nothing.
        """
        try:
            with self.root.place(path) as place:
                seen = look(place)
                target = _target(place, seen)
        except MismatchError as error:
            if error.code in {"vanished", "not_a_folder"}:
                return None
            raise
        return None if seen is None else LocalEntry(path, seen.kind, seen.stat, symlink_target=target)

    def stands(self, path: str) -> LocalEntry | None:
        """Return what stands at a path spelt just so; None when nothing does.

        As `look`, but on a disk that folds names an entry that is listed in another spelling is
        not at this path. Other Unicode forms of the same name are the same spelling.
        """
        entry = self.look(path)
        if entry is None or not self.folds_names:
            return entry
        with self.root.folder(entry.parent) as fd:
            listed = {name_key(name) for name in names_in(fd)}
        return entry if name_key(entry.name) in listed else None

    def lstat(self, path: str) -> FileStat | None:
        """Return the stat of what stands at a path; None when nothing does."""
        entry = self.look(path)
        return None if entry is None else entry.stat

    def kind(self, path: str) -> LocalKind | None:
        """Return the kind of what stands at a path; None when nothing does."""
        entry = self.look(path)
        return None if entry is None else entry.kind

    def read_link(self, path: str) -> str:
        """Return where a symbolic link points. Raises `MismatchError` when it is none."""
        with self.root.place(path) as place:
            seen = look(place)
            if seen is None or seen.kind is not LocalKind.SYMLINK:
                raise MismatchError("It is not a symbolic link", path=path)
            return os.readlink(place.name, dir_fd=place.fd)

    def hash_file(
        self, path: str, *, writers_since: float | None = None, digest: Digest | None = None
    ) -> tuple[FileStat, str]:
        """Return a file's stat and SHA-256, both of the same instant; `digest` makes more of the bytes.

        Raises `MismatchError` "changing" when it was written to meanwhile, and when it was last
        written to after `writers_since` (seconds since 1970) by a program that still has it open.
        A time more than an hour later was made up, or a clock was set back: it tells nothing.
        """
        with self.open_for_read(path) as (fd, stat):
            written = stat.mtime_ns / 1e9
            fresh = writers_since is not None and writers_since < written < writers_since + _AHEAD_SECONDS
            if fresh and native.open_for_writing(fd):
                raise MismatchError("A program is writing to the file", code="changing", path=path)
            return stat, hash_open(fd, stat, self._stopping.is_set, digest)

    def device(self, path: str = "") -> int:
        """Return the number of the device that a folder lies on."""
        with self.root.folder(path) as fd:
            return os.fstat(fd).st_dev

    @contextmanager
    def open_for_read(self, path: str) -> Iterator[Opened]:
        """Open a regular file for reading, links not followed."""
        with self.root.place(path) as place, reading(place) as (fd, stat):
            yield Opened(fd, stat)

    def still(self, opened: Opened, path: str) -> bool:
        """Say whether an open file is unchanged since and still what stands at the path."""
        if not look_inside(opened.fd).stat.same(opened.stat):
            return False
        with suppress(DiskError):
            found = self.lstat(path)
            return found is not None and found.same(opened.stat)
        return False

    def safe_symlink(self, path: str, target: str) -> bool:
        """Say whether a link at `path` is relative and stays inside the root, judged by its text.

        A target that passes above the root on its way, or into the agent's own folder, does not.
        """
        if not target or target.startswith("/") or "\0" in target:
            return False
        at = components(path)[:-1]
        for part in target.split("/"):
            if part == "..":
                if not at:
                    return False
                at.pop()
            elif is_state_folder(part):
                return False
            elif part not in {"", "."}:
                at.append(part)
        return True


def _state_of(fd: int) -> RootState:
    with os.scandir(fd) as entries:
        empty = all(is_state_folder(entry.name) for entry in entries)
    return RootState(RootKind.FOLDER, read_marker(fd), empty)


def _target(place: tuple[int, str], seen: Seen | None) -> str | None:
    """RACE: a link replaced since the look shows by its stat at the next one."""
    if seen is None or seen.kind is not LocalKind.SYMLINK:
        return None
    with suppress(OSError):
        return os.readlink(place[1], dir_fd=place[0])
    return None
