"""What a path's stat means, given what was known of it. No folder is opened here."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Final, NamedTuple

from agent.disk import native
from agent.disk.look import file_stat, kind_of
from agent.disk.native import Place
from agent.model import FileStat, LocalEntry, LocalKind, Trouble
from libs.contracts.paths import name_problem
from libs.contracts.tree import check_symlink_target

SETTLE_SECONDS: Final = 2.0
"""A file hashed so soon after its last write is read once more: clocks of disks are coarse."""
LARGE_BYTES: Final = 16 * 1024 * 1024
"""A larger file is not read at all until it has rested for `SETTLE_SECONDS`."""

CHANGING: Final = Trouble("changing", "The file is being written to")
COLLISION: Final = Trouble(
    "name_collision", "Another name in this folder differs only in its Unicode form; rename one"
)
_SPECIAL: Final = Trouble("special_file", "Pipes, sockets and devices are not synced")
_UNSAFE: Final = Trouble("unsafe_symlink", "The link is absolute or leads out of the folder")

Known = Mapping[str, LocalEntry]


class Step(Enum):
    """What is left to do for an entry."""

    DONE = auto()
    HASH = auto()
    WAIT = auto()
    """Done for now; look at it again when it has rested."""


class Verdict(NamedTuple):
    """The entry as far as its stat tells it."""

    entry: LocalEntry
    step: Step = Step.DONE


class Judge:
    """Compares what the disk says with what was known."""

    def __init__(
        self,
        known: Known,
        *,
        rehash: Callable[[LocalEntry], bool],
        safe_symlink: Callable[[str, str], bool],
        now: float,
    ) -> None:
        self._known = known
        self._rehash = rehash
        self._safe_symlink = safe_symlink
        self._now = now
        self._by_inode: dict[tuple[int, int], LocalEntry] | None = None

    def verdict(self, path: str, place: Place, raw: os.stat_result) -> Verdict:
        """Judge what stands at `path`. Raises `OSError` when a link cannot be read."""
        known = self._known.get(path)
        if known is not None and known.trouble is None and is_same(raw, known):
            return self._unchanged(known)
        kind = kind_of(raw.st_mode)
        bare = LocalEntry(path, kind, _stat(place, raw, known))
        problem = name_problem(place.name)
        if problem is not None:
            return Verdict(
                replace(bare, trouble=Trouble("invalid_name", f"The name cannot be synced: {problem}"))
            )
        match kind:
            case LocalKind.FOLDER:
                return Verdict(bare)
            case LocalKind.OTHER:
                return Verdict(replace(bare, trouble=_SPECIAL))
            case LocalKind.SYMLINK:
                return Verdict(self._link(bare, place))
            case LocalKind.FILE:
                return self._file(bare, known)

    def _unchanged(self, known: LocalEntry) -> Verdict:
        if known.kind is not LocalKind.FILE:
            return Verdict(known)
        if known.content_hash is None or self._rehash(known):
            return Verdict(known, Step.HASH)
        if settled(known):
            return Verdict(known)
        return Verdict(known, Step.WAIT if self._is_fresh(known.stat) else Step.HASH)

    def _file(self, bare: LocalEntry, known: LocalEntry | None) -> Verdict:
        moved = self._moved_along(bare) if known is None else None
        if moved is not None:
            return self._unchanged(moved)
        if bare.stat.size > LARGE_BYTES and self._is_fresh(bare.stat):
            return Verdict(replace(bare, trouble=CHANGING), Step.WAIT)
        return Verdict(bare, Step.HASH)

    def _is_fresh(self, stat: FileStat) -> bool:
        """Whether a file was written to a moment ago; a time to come (a clock was set back) is none."""
        return 0 <= self._now - stat.mtime_ns / 1e9 < SETTLE_SECONDS

    def _moved_along(self, bare: LocalEntry) -> LocalEntry | None:
        """Return what was known of a file that moved with its folder: every sign of it is equal.

        A file that was itself renamed has another ctime and is read again.
        """
        if not bare.parent or bare.parent in self._known:
            return None
        if self._by_inode is None:
            self._by_inode = {
                (entry.stat.dev, entry.stat.ino): entry
                for entry in self._known.values()
                if entry.kind is LocalKind.FILE and entry.trouble is None
            }
        before = self._by_inode.get((bare.stat.dev, bare.stat.ino))
        if before is None or not before.stat.same(bare.stat) or before.stat.birth_ns != bare.stat.birth_ns:
            return None
        return before.at(bare.path)

    def _link(self, bare: LocalEntry, place: Place) -> LocalEntry:
        target = os.readlink(place.name, dir_fd=place.fd)
        entry = replace(bare, symlink_target=target)
        try:
            check_symlink_target(target)
        except ValueError as error:
            return replace(entry, trouble=Trouble("unsafe_symlink", f"The link cannot be synced: {error}"))
        return entry if self._safe_symlink(bare.path, target) else replace(entry, trouble=_UNSAFE)


def is_same(raw: os.stat_result, known: LocalEntry) -> bool:
    """Say whether nothing suggests that an entry differs from what was known (`FileStat.same`)."""
    stat = known.stat
    return (
        stat.ino == raw.st_ino
        and stat.ctime_ns == raw.st_ctime_ns
        and stat.mtime_ns == raw.st_mtime_ns
        and stat.size == raw.st_size
        and stat.dev == raw.st_dev
        and known.kind is kind_of(raw.st_mode)
    )


def settled(entry: LocalEntry) -> bool:
    """Say whether a file had rested when it was read, so that a later write shows in its times."""
    return abs(entry.hashed_at - entry.stat.mtime_ns / 1e9) >= SETTLE_SECONDS


def _stat(place: Place, raw: os.stat_result, known: LocalEntry | None) -> FileStat:
    if known is not None and is_same(raw, known):
        return known.stat
    return file_stat(raw, native.birth_ns(place.fd, place.name, raw.st_ino))
