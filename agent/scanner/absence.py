"""Which known paths are gone. Only positive evidence counts, and only in a folder that is the same."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Final

from agent.disk import Disk, DiskError
from agent.disk.root import names_in
from agent.model import LocalEntry, LocalKind, Trouble
from agent.scanner.judge import Known
from agent.scanner.walk import Ignored, Walk, is_absent

ELSEWHERE: Final = Trouble("unmounted", "The disk that was mounted here is not there, or another one is")
_FEW = 8
_TRIES = 3


class Absence:
    """Asks the disk about every known path that a walk has not met."""

    def __init__(self, disk: Disk, known: Known, walk: Walk, ignored: Ignored) -> None:
        self._disk = disk
        self._known = known
        self._walk = walk
        self._ignored = ignored
        self._excused: set[str] = set()
        self._elsewhere: dict[str, bool] = {}

    def settle(self, candidates: Iterable[str]) -> None:
        """Put into `gone` what is gone; what turns out to be there is walked after all."""
        result = self._walk.result
        waiting = sorted(candidates)
        for _ in range(_TRIES):
            missed = [path for path in waiting if not self._is_met(path) and self._is_there(path)]
            for path in missed:
                self._walk_again(path)
            waiting = [path for path in missed if not self._is_met(path)]
            if not waiting:
                return
        result.recheck.update(waiting)

    def _is_met(self, path: str) -> bool:
        return path in self._walk.result.entries or path in self._walk.present

    def _is_there(self, path: str) -> bool:
        """Say whether a known path that the walk has not met is there; parents are asked first."""
        result, parent = self._walk.result, path.rpartition("/")[0]
        if parent in result.gone:
            result.gone.add(path)
        elif parent in self._excused or self._hides(parent):
            self._excused.add(path)
        elif self._ignored(path, self._known[path].kind is LocalKind.FOLDER):
            self._excused.add(path)
            result.ignored.add(path)
        else:
            return self._ask(path)
        return False

    def _hides(self, folder: str) -> bool:
        """Say whether what is below a folder was left out: not listed, ignored, or not synced."""
        entry = self._walk.result.entries.get(folder)
        not_synced = entry is not None and entry.kind is LocalKind.FOLDER and entry.trouble is not None
        return not_synced or folder in self._walk.result.opaque or folder in self._walk.present

    def _ask(self, path: str) -> bool:
        result = self._walk.result
        try:
            found = self._disk.look(path)
            if found is None and (mount := self._mount_above(path)) is not None:
                self._hold(mount)
                self._excused.add(path)
                return False
            spelt_otherwise = found is not None and self._is_other_spelling(found)
        except DiskError as error:
            result.report(path, error.trouble)
            result.opaque.add(path)
            self._excused.add(path)
            return False
        if found is None or spelt_otherwise:
            result.gone.add(path)
            return False
        return True

    def _walk_again(self, path: str) -> None:
        try:
            self._walk.at(path, anew=True)
        except DiskError as error:
            if not is_absent(error):
                self._walk.result.problems[path] = error.trouble

    def _is_other_spelling(self, found: LocalEntry) -> bool:
        """Say whether a disk that folds names answered for an entry that is listed otherwise."""
        if not self._disk.folds_names:
            return False
        with self._disk.root.folder(found.parent) as fd:
            return found.name not in names_in(fd)

    def _mount_above(self, path: str) -> str | None:
        """Return the topmost folder above `path` that lies on another disk than it did."""
        for folder in ancestors(path):
            if folder not in self._elsewhere:
                self._elsewhere[folder] = self._is_another_disk(folder)
            if self._elsewhere[folder]:
                return folder
        return None

    def _hold(self, mount: str) -> None:
        """Leave a folder as it was known, device number and all, and whatever is in it now alone.

        So every later scan finds the same, until the disk is back: then a walk enters the folder
        without trouble.
        """
        result = self._walk.result
        for found in (result.entries, result.problems):
            for path in list(below(found, {mount})):
                del found[path]
        result.entries[mount] = replace(self._known[mount], trouble=ELSEWHERE)
        result.problems[mount] = ELSEWHERE
        result.opaque.add(mount)

    def _is_another_disk(self, folder: str) -> bool:
        """Say whether a folder lay on the root's own disk and does not, or the other way round."""
        known = self._known.get(folder)
        now = self._disk.look(folder) if known is not None else None
        if known is None or now is None or now.kind is not LocalKind.FOLDER:
            return False
        return (known.stat.dev in self._homes) != (now.stat.dev == self._home)

    @cached_property
    def _home(self) -> int:
        return self._disk.device()

    @cached_property
    def _homes(self) -> set[int]:
        """The device numbers that the root's own disk had when its entries were recorded.

        Numbers may change when the machine starts: entries that are plainly the same tell. Where
        inodes change too (FAT, some network disks), files of the same size and time do, unless
        the number of today was known before.
        """
        met = [(self._known[e.path], e) for e in self._met_at_home() if e.path in self._known]
        if same := {was.stat.dev for was, now in met if was.stat.ino == now.stat.ino and _alike(was, now)}:
            return same
        if any(entry.stat.dev == self._home for entry in self._known.values()):
            return {self._home}
        alike = {was.stat.dev for was, now in met if was.kind is LocalKind.FILE and _alike(was, now)}
        return alike or {self._home}

    def _met_at_home(self) -> Iterator[LocalEntry]:
        found = self._walk.result.entries.values()
        return (entry for entry in found if entry.trouble is None and entry.stat.dev == self._home)


def _alike(one: LocalEntry, other: LocalEntry) -> bool:
    return (one.kind, one.stat.size, one.stat.mtime_ns) == (other.kind, other.stat.size, other.stat.mtime_ns)


def below(known: Iterable[str], folders: set[str]) -> Iterator[str]:
    """Yield the paths that lie below any of `folders`."""
    if not folders:
        return
    if len(folders) <= _FEW:
        prefixes = tuple(f"{folder}/" for folder in folders)
        yield from (path for path in known if path.startswith(prefixes))
    else:
        yield from (path for path in known if any(above in folders for above in ancestors(path)))


def ancestors(path: str) -> Iterator[str]:
    """Yield the folders that a path is in, the topmost first, without the root."""
    end = path.find("/")
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)
