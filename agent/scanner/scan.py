"""One scan: walk, find out what is gone, read what is new."""

from collections.abc import Callable
from dataclasses import replace

from agent import clock
from agent.disk import Disk, DiskError
from agent.manifests import Manifests
from agent.model import LocalEntry, LocalKind
from agent.scanner.absence import ELSEWHERE, Absence, ancestors, below
from agent.scanner.hashing import Hashed, hash_files
from agent.scanner.judge import CHANGING, SETTLE_SECONDS, Judge, Known, settled
from agent.scanner.result import ScanResult
from agent.scanner.walk import Ignored, Walk, is_absent
from libs.contracts.paths import STATE_FOLDER


def scan(  # noqa: PLR0913 - named options, each with what it usually is
    disk: Disk,
    known: Known,
    *,
    ignored: Ignored,
    dirty: set[str] | None = None,
    rehash: Callable[[LocalEntry], bool] = lambda _: False,
    now: float | None = None,
    manifests: Manifests | None = None,
) -> ScanResult:
    """Observe the whole folder, or only the `dirty` paths and what is below them.

    Of large files that are read `manifests` keeps the chunks.

    Raises `DiskError` when the root itself cannot be listed: then nothing was learnt. Every
    other error becomes a problem of its path.
    """
    now = clock.now() if now is None else now
    judge = Judge(known, rehash=rehash, safe_symlink=disk.safe_symlink, now=now)
    walk = Walk(disk, known, judge, ignored)
    if dirty is None or "" in dirty:
        walk.everything_below("")
        candidates = {path for path in known if path not in walk.result.entries}
    else:
        partial = _Partial(disk, known, walk, ignored)
        candidates = partial.scan(dirty)
        while others := _other_paths(known, walk) - partial.asked:
            candidates = partial.scan(others)
    Absence(disk, known, walk, ignored).settle(candidates)
    _read_new_content(disk, known, walk, manifests)
    result = walk.result
    if result.recheck:
        result.recheck_at = now + SETTLE_SECONDS
    return result


def _other_paths(known: Known, walk: Walk) -> set[str]:
    """Return the other known paths of what changed that were not met yet.

    No event tells of a hard link's other names. What was moved is known at its old path until that
    is looked at, and of two events one may come late: half of an exchange looks like an edit.
    """
    if not walk.changed:
        return set()
    return {
        path
        for path, entry in known.items()
        if (entry.stat.dev, entry.stat.ino) in walk.changed and path not in walk.result.entries
    }


class _Partial:
    """Widens dirty paths to what has to be looked at so that no entry comes without its folder."""

    def __init__(self, disk: Disk, known: Known, walk: Walk, ignored: Ignored) -> None:
        self._disk = disk
        self._known = known
        self._walk = walk
        self._ignored = ignored
        self._done: set[str] = set()
        """Paths that were looked at, with everything below them."""
        self.asked: set[str] = set()
        """The dirty paths of all scans."""

    def scan(self, dirty: set[str]) -> set[str]:
        """Look at the dirty paths; return the known paths in the scope of all so far that were not met."""
        self.asked |= dirty
        for path in sorted(dirty):
            self._look(path)
        entries = self._walk.result.entries
        scope = self._done | set(below(self._known, {path for path in self._done if self._may_hold(path)}))
        return {path for path in scope if path in self._known and path not in entries}

    def _may_hold(self, path: str) -> bool:
        known = self._known.get(path)
        return known is None or known.kind is LocalKind.FOLDER

    def _look(self, dirty: str) -> None:
        path: str | None = self._scope(dirty)
        while path:
            try:
                self._walk.at(path)
            except DiskError as error:
                if not is_absent(error):
                    self._blocked(path, error)
                    return
                # The folder above is not there, or is no folder any more: look at that.
                self._done.add(path)
                path = path.rpartition("/")[0]
                continue
            self._done.add(path)
            return

    def _blocked(self, path: str, error: DiskError) -> None:
        if error.code in {"root_missing", "root_changed"}:
            raise error
        self._walk.result.problems[path] = error.trouble
        if error.code != "permission_denied":
            self._walk.result.recheck.add(path)

    def _scope(self, path: str) -> str | None:
        """Return the path to look at for a dirty one: itself, or the topmost folder above it to walk.

        That is one that is not known, or whose disk was not there.
        """
        for above in [*ancestors(path), path]:
            if above in self._done or above == STATE_FOLDER:
                return None
            if above != path and (self._ignored(above, True) or self._is_left_out(above)):
                return None
            if above not in self._known or self._trouble(above) == ELSEWHERE.code:
                return above
        return path

    def _is_left_out(self, folder: str) -> bool:
        return self._trouble(folder) in _LEFT_OUT

    def _trouble(self, path: str) -> str | None:
        known = self._known.get(path)
        return None if known is None or known.trouble is None else known.trouble.code


_LEFT_OUT = {"invalid_name", "name_collision"}


def _read_new_content(disk: Disk, known: Known, walk: Walk, manifests: Manifests | None) -> None:
    result = walk.result
    wanted = [entry for entry in walk.to_hash if result.entries.get(entry.path) is entry]
    for hashed in hash_files(disk, wanted, manifests):
        if hashed.stat is not None and hashed.digest is not None:
            _take(result, hashed)
        elif hashed.error is not None:
            _refuse(result, hashed, hashed.error, known.get(hashed.path))


def _take(result: ScanResult, hashed: Hashed) -> None:
    before = result.entries[hashed.path]
    stat = hashed.stat or before.stat
    entry = LocalEntry(hashed.path, LocalKind.FILE, stat, hashed.digest, hashed_at=hashed.at)
    result.entries[hashed.path] = entry
    result.hashed += 1
    result.hashed_bytes += stat.size
    if not settled(entry):
        result.recheck.add(hashed.path)


def _refuse(result: ScanResult, hashed: Hashed, error: DiskError, known: LocalEntry | None) -> None:
    """Enter a file that could not be read: present, unchanged as far as anyone knows."""
    path = hashed.path
    if error.code in {"changing", "changed", "vanished", "not_a_folder", "stopping"}:
        result.recheck.add(path)
    if is_absent(error):
        # The next look finds out; until then it counts as it was.
        del result.entries[path]
        return
    trouble = CHANGING if error.code == "changing" else error.trouble
    entry = result.entries[path]
    same = known is not None and known.stat.same(entry.stat)
    kept = known if same and known is not None else replace(entry, content_hash=None, hashed_at=0.0)
    result.entries[path] = replace(kept, trouble=trouble)
    result.report(path, trouble)
