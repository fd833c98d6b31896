"""Changing the disk. Every method checks at the moment of writing, and loses nothing that it meets."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from agent import clock
from agent.disk.errors import BlockedError, MismatchError, NameImpossibleError, OccupiedError
from agent.disk.look import check_content, check_signs, hash_open, look, look_inside, present
from agent.disk.native import Place
from agent.disk.reads import Reads
from agent.disk.rename import (
    KeepName,
    hash_of_prepared,
    is_still,
    is_still_inode,
    kept_name,
    private_name,
    put,
    rename,
    swap,
)
from agent.disk.root import sync_folder
from agent.disk.temps import TMP, dress, drop_journal
from agent.model import LocalEntry, LocalKind

_NO_SYMLINKS: Final = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_STAGED: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ATTRIBUTES: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Ready:
    """A finished temporary file, its content verified by the caller, and what it is to become."""

    name: str
    content_hash: str
    mtime_ns: int
    executable: bool = False
    journal: bool = False
    """Whether a journal lies beside it, to go when it has its place."""


class Changes(Reads):
    """The methods that write."""

    def install(
        self, ready: Ready, path: str, *, expect: LocalEntry | None, keep_name: KeepName = kept_name
    ) -> LocalEntry:
        """Give a finished temporary file its place, over nothing or over exactly `expect`.

        `expect` may be a file or a link. Whatever else is found there at that moment stays, or
        is kept beside under a name of `keep_name`, and `MismatchError` (or `BlockedError`
        "in_use", when a program has the file open for writing) is raised; the temporary file
        then has its name again. While `new_temp` has it open: `BlockedError` "in_use", untouched.
        """
        with self.root.place(path) as slot, self._withdrawn(ready) as private:
            fd = os.open(private.name, _STAGED, dir_fd=private.fd)
            try:
                before = dress(fd, self._mode(slot, executable=ready.executable), ready.mtime_ns)
                self._bring_in(private, slot, expect, keep_name)
                after = look_inside(fd)
            finally:
                os.close(fd)
            if ready.journal:
                drop_journal(private.fd, ready.name)
        stat = after.stat if after.stat.same_content_signs(before.stat) else before.stat
        return LocalEntry(path, LocalKind.FILE, stat, ready.content_hash, hashed_at=clock.now())

    def make_symlink(self, path: str, target: str, *, mtime_ns: int | None = None) -> LocalEntry:
        """Make a link at a free path."""
        return self.replace_symlink(path, target, expect=None, mtime_ns=mtime_ns)

    def replace_symlink(
        self,
        path: str,
        target: str,
        *,
        expect: LocalEntry | None,
        mtime_ns: int | None = None,
        keep_name: KeepName = kept_name,
    ) -> LocalEntry:
        """Make a link over nothing or over exactly `expect`, a file or a link; as `install`.

        Raises `BlockedError` "unsafe_symlink" when it would lead out of the root.
        """
        if not self.safe_symlink(path, target):
            raise BlockedError("The link leads out of the folder", code="unsafe_symlink", path=path)
        name = private_name(hash_of_prepared(LocalKind.SYMLINK, target))
        with self.root.place(path) as slot, self.root.state(TMP) as tmp:
            private = Place(tmp, name)
            _make_link(target, private, path)
            made = None
            try:
                if mtime_ns is not None:
                    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=tmp, follow_symlinks=False)
                made = look(private)
                self._bring_in(private, slot, expect, keep_name)
            except BaseException:
                if made is None or is_still(private, made):
                    os.unlink(name, dir_fd=tmp)
                raise
            now = look(slot) if is_still(slot, made) else None
        stat = (now or present(made)).stat
        return LocalEntry(path, LocalKind.SYMLINK, stat, symlink_target=target)

    def make_folder(self, path: str) -> LocalEntry:
        """Make a folder at a free path. Raises `OccupiedError` also when a folder is there."""
        with self.root.place(path) as slot:
            os.mkdir(slot.name, 0o777, dir_fd=slot.fd)
            sync_folder(slot)
            seen = look(slot)
        if seen is None or seen.kind is not LocalKind.FOLDER:
            raise MismatchError("The new folder was moved at once", path=path)
        return LocalEntry(path, seen.kind, seen.stat)

    def set_attributes(self, path: str, expect: LocalEntry, *, mtime_ns: int, executable: bool) -> LocalEntry:
        """Set time and executable bit of a file, or the time of a link, that is exactly `expect`.

        The content is read again afterwards: a write of that instant must not pass as unchanged.
        """
        if expect.kind is LocalKind.SYMLINK:
            return self._set_link_time(path, expect, mtime_ns)
        with self.root.place(path) as slot:
            check_signs(slot, expect)
            fd = os.open(slot.name, _ATTRIBUTES, dir_fd=slot.fd)
            try:
                found = look_inside(fd)
                if found.kind is not LocalKind.FILE or not found.stat.same_content_signs(expect.stat):
                    raise MismatchError("It is no longer what it was", path=path)
                now = dress(fd, with_executable(found.stat.mode, executable=executable), mtime_ns)
                if hash_open(fd, now.stat, self._stopping.is_set) != expect.content_hash:
                    raise MismatchError("Its content is no longer what it was", path=path)
            finally:
                os.close(fd)
        return replace(expect, path=path, stat=now.stat, hashed_at=clock.now(), trouble=None)

    def _set_link_time(self, path: str, expect: LocalEntry, mtime_ns: int) -> LocalEntry:
        with self.root.place(path) as slot:
            check_content(slot, expect, self._stopping.is_set)
            os.utime(slot.name, ns=(mtime_ns, mtime_ns), dir_fd=slot.fd, follow_symlinks=False)
            seen = look(slot)
        if seen is None or (seen.kind, seen.stat.ino) != (expect.kind, expect.stat.ino):
            raise MismatchError("It is no longer what it was", path=path)
        return replace(expect, path=path, stat=seen.stat)

    def _bring_in(self, private: Place, slot: Place, expect: LocalEntry | None, keep: KeepName) -> None:
        if expect is None:
            put(private, slot)
        elif expect.kind in {LocalKind.FILE, LocalKind.SYMLINK}:
            swap(private, slot, expect, keep, self._stopping.is_set)
        else:
            raise OccupiedError("A folder is there", path=expect.path)
        sync_folder(slot)

    @contextmanager
    def _withdrawn(self, ready: Ready) -> Iterator[Place]:
        """Rename a temporary file so that no download can be continued into it meanwhile.

        It gets its name back when the body fails and it is still there, not the user's.
        """
        with self._claimed(ready.name), self.root.state(TMP) as tmp:
            temp, private = Place(tmp, ready.name), Place(tmp, private_name(ready.content_hash))
            rename(temp, private)
            made = look(private)
            try:
                yield private
            except BaseException:
                if is_still_inode(private, made):
                    with suppress(OSError):
                        put(private, temp)
                        # It may have got the mode of a read-only file: the next try writes into it.
                        os.chmod(temp.name, 0o600, dir_fd=temp.fd)
                raise

    def _mode(self, slot: Place, *, executable: bool) -> int:
        """Return the permission bits for a file: those of the one it replaces, or the usual ones."""
        seen = look(slot)
        if seen is None or seen.kind is not LocalKind.FILE:
            return with_executable(0o666, executable=executable) & ~self._umask | 0o600
        return with_executable(seen.stat.mode & 0o777, executable=executable)


def _make_link(target: str, place: Place, path: str) -> None:
    try:
        os.symlink(target, place.name, dir_fd=place.fd)
    except OSError as error:
        if error.errno not in _NO_SYMLINKS:
            raise
        raise NameImpossibleError(
            "This disk cannot hold symbolic links", code="symlink_impossible", path=path
        ) from error


def with_executable(mode: int, *, executable: bool) -> int:
    """Return permission bits with the executable bit set for all who may read, or for nobody."""
    if bool(mode & 0o100) == executable:
        return mode
    return mode | 0o100 | (mode & 0o444) >> 2 if executable else mode & ~0o111
