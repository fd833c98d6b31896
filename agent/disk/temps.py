"""The agent's own folder: the marker, temporary files, what a crash left behind."""

import errno
import os
import secrets
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from agent.disk.base import Rooted
from agent.disk.errors import BlockedError, MismatchError, NameImpossibleError, OccupiedError, translated
from agent.disk.look import Seen, hash_open, kind_of, look, look_inside, reading
from agent.disk.native import Place
from agent.disk.rename import PRIVATE, SECOND, hash_of_prepared, put
from agent.disk.root import MARKER, components, names_in, sync_folder
from agent.model import FileStat, LocalEntry, LocalKind
from libs.contracts.paths import STATE_FOLDER

TMP: Final = "tmp"
TRASH: Final = "trash"
_NO_MODES: Final = frozenset({errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_SCRATCH: Final = "scratch."
"""How names of the agent's own trials begin: a crash may leave them, and they hold nothing of anybody."""
_JOURNAL: Final = ".ranges"
"""How the name of a partial download's journal ends."""
_BLOCK: Final = 512
"""Bytes in the unit of `st_blocks`."""
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Temp:
    """A temporary file, open for reading and writing; whoever opened it closes it."""

    name: str
    fd: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something in the agent's temporary folder.

    `private`: it was on its way in or out when the agent died, so it may be the user's only copy.
    """

    name: str
    kind: LocalKind
    stat: FileStat
    links: int = 1
    """How many names the file has, this one among them."""
    held: int = 0
    """Bytes that it takes on the disk, its size at most: a partial download may have gaps."""

    @property
    def download(self) -> str | None:
        """The name of the partial download of which it is the journal, if it is one."""
        return None if self.private or not self.name.endswith(_JOURNAL) else self.name[: -len(_JOURNAL)]

    @property
    def private(self) -> bool:
        """Whether it is no download but an entry that was being swapped or renamed."""
        return self.name.startswith((PRIVATE, SECOND))

    @property
    def second(self) -> bool:
        """Whether it is but another name of a file that has its own."""
        return self.name.startswith(SECOND) and self.links > 1

    def is_as_prepared(self, content: str) -> bool:
        """Whether what it holds is what was prepared under this name, and not what that has replaced."""
        parts = self.name.split(".")
        prepared = parts[2] if len(parts) > len(("swap", "random")) else None
        return self.private and prepared == hash_of_prepared(self.kind, content)

    @property
    def worthless(self) -> bool:
        """Whether it is one of the agent's own trials, with nothing of anybody in it."""
        return self.name.startswith(_SCRATCH)


class Temps(Rooted):
    """The methods that work inside `.lockstep`."""

    def prepare(self) -> None:
        """Make the agent's own folders (mode 0700) and take the root's identity from now on.

        The root itself must be there; ask `root_state` first, or an empty mount point is taken
        for it.
        """
        with translated(""):
            self.root.remember()
            with self.root.open() as root:
                _make_private(root, STATE_FOLDER)
            with self.root.state() as state:
                _make_private(state, TMP)
                _make_private(state, TRASH)
            with suppress(OSError), self.root.state(TMP) as tmp:
                # A full or read-only disk cannot be tried out; it can still be read.
                self.folds_names = _folds_names(tmp)
                self.keeps_modes = _keeps_modes(tmp)

    def write_marker(self, marker: str) -> None:
        """Write the root's marker so that a crash leaves the old one or the new one."""
        self.write_note(MARKER, marker)
        self.root.remember()

    def write_note(self, note: str, text: str) -> None:
        """Write a small file of the agent's own folder so that a crash leaves the old one or the new one."""
        name = _scratch_name()
        with translated(STATE_FOLDER), self.root.state() as state, self.root.state(TMP) as tmp:
            fd = os.open(name, _NEW | os.O_EXCL, 0o600, dir_fd=tmp)
            try:
                os.write(fd, text.encode() + b"\n")
                os.fsync(fd)
                os.rename(name, note, src_dir_fd=tmp, dst_dir_fd=state)
            except OSError:
                os.unlink(name, dir_fd=tmp)
                raise
            finally:
                os.close(fd)
            os.fsync(state)

    def temp_name(self, node_id: str, version_id: str) -> str:
        """Return the name by which a partial download of a version is found again."""
        name = f"{node_id}.{version_id}"
        if len(components(name)) != 1 or name.startswith((PRIVATE, SECOND, _SCRATCH)):
            raise NameImpossibleError("An identifier is malformed", code="path_refused")
        return name

    @contextmanager
    def new_temp(self, node_id: str, version_id: str) -> Iterator[Temp]:
        """Open the temporary file for a download; what an earlier try left in it is still there.

        It stays when the body ends: `install` takes it by its name, or `discard_temp` drops it.
        Raises `BlockedError` "in_use" while it is open already or being installed.
        """
        name = self.temp_name(node_id, version_id)
        with self._claimed(name), self._temp(name) as place, _plain(place.fd, place.name) as fd:
            yield Temp(name, fd)

    @contextmanager
    def new_journal(self, temp: Temp) -> Iterator[int]:
        """Open the journal of a partial download that is open, with what an earlier try left in it.

        It stays as the temporary file does; `install` drops it.
        """
        with self._temp(temp.name + _JOURNAL) as place, _plain(place.fd, place.name) as fd:
            yield fd

    def has_journal(self, temp: Temp) -> bool:
        """Whether an earlier try has begun to fetch the file in ranges."""
        return self.has_temp(temp.name + _JOURNAL)

    def leftover_temps(self) -> tuple[Leftover, ...]:
        """Return what lies in the temporary folder, sorted by name."""
        with translated(TMP), self.root.state(TMP) as tmp:
            found = [(name, look(Place(tmp, name)), *_links(tmp, name)) for name in names_in(tmp)]
        return tuple(
            Leftover(name, seen.kind, seen.stat, links, held)
            for name, seen, links, held in found
            if seen is not None
        )

    def hash_temp(self, name: str) -> tuple[FileStat, str]:
        """Return the stat and SHA-256 of a file in the temporary folder."""
        with self._temp(name) as place, reading(place) as (fd, stat):
            return stat, hash_open(fd, stat, self._stopping.is_set)

    def temp_content(self, leftover: Leftover) -> str | None:
        """Return the hash of a file in the temporary folder, the target of a link; None for anything else."""
        match leftover.kind:
            case LocalKind.FILE:
                return self.hash_temp(leftover.name)[1]
            case LocalKind.SYMLINK:
                with self._temp(leftover.name) as place:
                    return os.readlink(place.name, dir_fd=place.fd)
            case _:
                return None

    def discard_temp(self, name: str) -> None:
        """Remove a file of the temporary folder that the caller knows to be worthless.

        Only the caller can know that: a download that is verified elsewhere or not wanted.
        """
        with self._temp(name) as place, suppress(FileNotFoundError):
            os.unlink(place.name, dir_fd=place.fd)

    def discard_idle(self, name: str, download: str) -> None:
        """Remove a partial download, or what lies beside it, as `discard_temp` does.

        Raises `BlockedError` "in_use" while the download is open or being installed.
        """
        with self._claimed(download):
            self.discard_temp(name)

    def has_temp(self, name: str) -> bool:
        """Whether something with this name is in the temporary folder."""
        with self._temp(name) as place:
            return look(place) is not None

    def return_temp(self, name: str, download: str) -> None:
        """Give a prepared file the free name of the download that it was."""
        with self._temp(name) as source, self._temp(download) as target:
            put(source, target)
            # It may have got the mode of a read-only file: the next try writes into it.
            os.chmod(target.name, 0o600, dir_fd=target.fd)

    def rescue_temp(self, name: str, path: str) -> LocalEntry:
        """Move something out of the temporary folder to a free path, where the user finds it."""
        with self._temp(name) as source, self.root.place(path) as slot:
            try:
                put(source, slot)
            except FileExistsError as error:
                raise OccupiedError("Something else is there", path=path) from error
            sync_folder(slot)
            seen = look(slot)
            if seen is None:
                raise MismatchError("It was moved on at once", path=path)
            return LocalEntry(path, seen.kind, seen.stat)

    @contextmanager
    def _temp(self, name: str) -> Iterator[Place]:
        if len(components(name)) != 1:
            raise NameImpossibleError("It is no name of a temporary file", code="path_refused")
        with translated(name), self.root.state(TMP) as tmp:
            yield Place(tmp, name)


@contextmanager
def _plain(folder: int, name: str) -> Iterator[int]:
    """Open a file of the agent's own, which is made if it is not there."""
    fd = os.open(name, _NEW, 0o600, dir_fd=folder)
    try:
        if kind_of(os.fstat(fd).st_mode) is not LocalKind.FILE or os.fstat(fd).st_nlink != 1:
            raise BlockedError("The temporary file is not a plain file")
        yield fd
    finally:
        os.close(fd)


def drop_journal(tmp: int, name: str) -> None:
    """Remove the journal of a download that is whole and in its place, if it has one."""
    with suppress(OSError):  # what stays is dropped at the next start
        os.unlink(name + _JOURNAL, dir_fd=tmp)


def _links(folder: int, name: str) -> tuple[int, int]:
    """Return how many names a file has, and how many bytes it takes."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 1, 0
    return found.st_nlink, min(found.st_size, found.st_blocks * _BLOCK)


def _scratch_name() -> str:
    return _SCRATCH + secrets.token_hex(8)


def _make_private(folder: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    seen = look(Place(folder, name))
    if seen is None or seen.kind is not LocalKind.FOLDER:
        raise BlockedError("The agent's own folder is something else", code="state_folder_unusable")


def _set_mode(fd: int, mode: int) -> None:
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def _keeps_modes(folder: int) -> bool:
    """Try out whether the disk keeps an executable bit, set and not set."""
    name = _scratch_name()
    fd = os.open(name, _NEW | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        return all(_kept_mode(fd, mode) for mode in (0o700, 0o600))
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=folder)


def _kept_mode(fd: int, mode: int) -> bool:
    _set_mode(fd, mode)
    return bool(os.fstat(fd).st_mode & 0o100) == bool(mode & 0o100)


def _folds_names(folder: int) -> bool:
    """Try out whether the disk takes other spellings (case, Unicode form) for the same name."""
    name = f"{_scratch_name()}a\u00e9"
    os.close(os.open(name, _NEW | os.O_EXCL, 0o600, dir_fd=folder))
    try:
        others = (name.upper(), unicodedata.normalize("NFD", name))
        return any(look(Place(folder, other)) is not None for other in others)
    finally:
        os.unlink(name, dir_fd=folder)


def dress(fd: int, mode: int, mtime_ns: int) -> Seen:
    """Give a file its mode and time and flush it; return what it is then.

    A disk may keep no modes (FAT refuses them): the file is then what the disk makes of it.
    """
    _set_mode(fd, mode)
    os.utime(fd, ns=(time.time_ns(), mtime_ns))
    os.fsync(fd)
    return look_inside(fd)
