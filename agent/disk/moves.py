"""Renames, moves and exchanges of what the user has: never over anything."""

import os
from contextlib import suppress
from dataclasses import replace

from agent.disk import native
from agent.disk.base import Rooted
from agent.disk.errors import MismatchError, OccupiedError, VanishedError
from agent.disk.look import Seen, look, present
from agent.disk.native import Place, UnsupportedError
from agent.disk.rename import give_back, kept_name, private_name, put, swap_visible
from agent.disk.root import names_in, sync_folder
from agent.disk.temps import TMP
from agent.model import LocalEntry, LocalKind
from libs.contracts.paths import name_key


class Moves(Rooted):
    """The methods that give entries other names."""

    def move(self, source: str, target: str, *, expect: LocalEntry | None = None) -> LocalEntry:
        """Rename an entry of any kind to a free path; with `expect`, only that one.

        The result carries the hash of `expect` on only when nothing was written meanwhile.
        Renaming in upper and lower case alone works on disks that fold case.
        """
        if target.startswith(source + "/"):
            raise MismatchError("A folder cannot go into itself", code="cycle", path=source)
        with self.root.state(TMP) as attic, self.root.place(source) as from_, self.root.place(target) as to:
            before = _expected(from_, expect, source)
            _rename(from_, to, target, attic)
            after = look(to)
            if not _is(after, before):
                if after is not None:
                    give_back(to, from_, kept_name)
                raise MismatchError("Something else was put there in that instant", path=source)
            _flush(from_, to)
        return _entry(target, before, after, expect)

    def exchange(
        self, one: str, other: str, *, expect_one: LocalEntry, expect_other: LocalEntry
    ) -> tuple[LocalEntry, LocalEntry]:
        """Let two entries change places; return what is at `one` and at `other` then."""
        if one.startswith(other + "/") or other.startswith(one + "/"):
            raise MismatchError("A folder cannot go into itself", code="cycle", path=one)
        with self.root.state(TMP) as attic, self.root.place(one) as here, self.root.place(other) as there:
            first, second = _expected(here, expect_one, one), _expected(there, expect_other, other)
            _exchange(here, there, attic)
            now_here, now_there = look(here), look(there)
            if not (_is(now_here, second) and _is(now_there, first)):
                with suppress(OSError, UnsupportedError):
                    _exchange(here, there, attic)
                raise MismatchError("Something else was put there in that instant", path=one)
            _flush(here, there)
        return _entry(one, second, now_here, expect_other), _entry(other, first, now_there, expect_one)


def _rename(source: Place, target: Place, path: str, attic: int) -> None:
    try:
        put(source, target, attic)
    except FileExistsError as error:
        if not _one_entry_two_spellings(source, target):
            raise OccupiedError("Something else is there", path=path) from error
        between = Place(target.fd, f"{target.name[:40]}.{private_name()}")
        put(source, between, attic)
        give_back(between, target, kept_name)


def _expected(place: Place, expect: LocalEntry | None, path: str) -> Seen:
    seen = look(place)
    if seen is None:
        raise VanishedError("It is no longer there", path=path)
    if expect is not None and (seen.kind, seen.stat.dev, seen.stat.ino) != (
        expect.kind, expect.stat.dev, expect.stat.ino,
    ):  # fmt: skip
        raise MismatchError("Something else is there now", path=path)
    return seen


def _is(now: Seen | None, before: Seen) -> bool:
    return now is not None and (now.kind, now.stat.ino) == (before.kind, before.stat.ino)


def _entry(path: str, before: Seen | None, after: Seen | None, expect: LocalEntry | None) -> LocalEntry:
    """Return the entry at its new path; its hash only if it is proven that nothing was written."""
    before, after = present(before), present(after)
    if expect is None:
        return LocalEntry(path, after.kind, after.stat)
    untouched = before.stat.same(expect.stat) and after.stat.same_content_signs(before.stat)
    if after.kind is LocalKind.FILE and not untouched:
        return replace(expect, path=path, stat=after.stat, content_hash=None, hashed_at=0.0)
    return replace(expect, path=path, stat=after.stat)


def _exchange(one: Place, other: Place, attic: int) -> None:
    try:
        native.rename_exchange(one, other)
    except UnsupportedError:
        swap_visible(one, other, attic)


def _one_entry_two_spellings(source: Place, target: Place) -> bool:
    """Say whether a disk that folds case or Unicode forms takes both names for one entry.

    Two hard links that differ in case on another disk are two entries: both names are listed.
    """
    if name_key(source.name).casefold() != name_key(target.name).casefold():
        return False
    here, there = look(source), look(target)
    if here is None or there is None or (here.stat.dev, here.stat.ino) != (there.stat.dev, there.stat.ino):
        return False
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target.fd)
    try:
        return target.name not in names_in(fd)
    finally:
        os.close(fd)


def _flush(one: Place, other: Place) -> None:
    sync_folder(one)
    sync_folder(other)
