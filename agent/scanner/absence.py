"""Which known paths are gone. Only positive evidence counts, and only in a folder that is the same."""

from collections import Counter
from collections.abc import Iterable, Iterator

from agent.disk import Disk, DiskError
from agent.disk.root import names_in
from agent.model import LocalEntry, LocalKind, Trouble
from agent.scanner.judge import Known
from agent.scanner.walk import Ignored, Walk, is_absent

_ELSEWHERE = Trouble("unmounted", "The disk that was mounted here is not there, or another one is")
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
        self._home: int | None = None
        self._known_home: int | None = None

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
            if found is None and self._is_another_disk(path):
                result.opaque.add(path.rpartition("/")[0])
                result.problems[path] = _ELSEWHERE
                self._excused.add(path)
                return False
            spelt_otherwise = found is not None and self._is_other_spelling(found)
        except DiskError as error:
            result.problems[path] = error.trouble
            result.opaque.add(path)
            self._excused.add(path)
            return False
        if found is None or spelt_otherwise:
            result.gone.add(path)
            return False
        return True

    def _walk_again(self, path: str) -> None:
        try:
            self._walk.at(path)
        except DiskError as error:
            if not is_absent(error):
                self._walk.result.problems[path] = error.trouble

    def _is_other_spelling(self, found: LocalEntry) -> bool:
        """Say whether a disk that folds names answered for an entry that is listed otherwise."""
        if not self._disk.folds_names:
            return False
        with self._disk.root.folder(found.parent) as fd:
            return found.name not in names_in(fd)

    def _is_another_disk(self, path: str) -> bool:
        """Say whether the folder that `path` was in lies on another disk than it did.

        Device numbers may change when the machine starts, so what counts is whether the folder
        lies on the root's own disk: it did and does not, or it did not and does.
        """
        parent = path.rpartition("/")[0]
        known = self._known.get(parent)
        now = self._disk.lstat(parent) if known is not None else None
        if known is None or now is None or known.stat.dev == now.dev:
            return False
        self._home = self._disk.device() if self._home is None else self._home
        if self._known_home is None:
            tops = Counter(entry.stat.dev for entry in self._known.values() if "/" not in entry.path)
            self._known_home = tops.most_common(1)[0][0]
        return (known.stat.dev == self._known_home) != (now.dev == self._home)


def below(known: Known, folders: set[str]) -> Iterator[str]:
    """Yield the known paths that lie below any of `folders`."""
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
