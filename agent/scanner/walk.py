"""Walking folders, whole or at single paths. Iterative: depth costs no stack."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from agent.disk import Disk, DiskError, MismatchError, VanishedError
from agent.disk.errors import translate
from agent.disk.native import Place
from agent.disk.root import names_in
from agent.model import LocalEntry, LocalKind, Trouble
from agent.scanner.judge import COLLISION, Judge, Known, Step, Verdict
from agent.scanner.result import ScanResult
from libs.contracts.paths import STATE_FOLDER, name_key

Ignored = Callable[[str, bool], bool]
"""Says of a path, and whether it is a folder, that a rule leaves it out."""


class Walk:
    """Collects what stands in folders into a result; what has to be read is listed in `to_hash`."""

    def __init__(self, disk: Disk, known: Known, judge: Judge, ignored: Ignored) -> None:
        self.result = ScanResult()
        self.to_hash: list[LocalEntry] = []
        self.present: set[str] = set()
        """Paths that are there although they have no entry: ignored, or not to be read."""
        self.changed: set[tuple[int, int]] = set()
        """Device and inode of what is not as it was known at its path."""
        self._disk = disk
        self._known = known
        self._judge = judge
        self._ignored = ignored
        self._listed: dict[str, dict[str, list[str]]] = {}

    def everything_below(self, top: str) -> None:
        """List the folder `top` (empty: the root) and every folder below it."""
        waiting = [top]
        while waiting:
            waiting.extend(self._list(waiting.pop()))

    def at(self, path: str, *, anew: bool = False) -> bool:
        """Look at one path, and below it when it is a folder. Return False when nothing is there.

        Where names have several spellings the folder is listed, once in a scan, or `anew`. Raises
        `MismatchError` when the folder that it is in is not there, and other `DiskError`s.
        """
        parent, _, name = path.rpartition("/")
        if not name.isascii() or self._disk.folds_names:
            with self._disk.root.folder(parent) as fd:
                names = self._spellings(fd, parent, name, anew=anew)
                folders = self._look_at(Place(fd, ""), parent, names)
        else:
            with self._disk.root.place(path) as place:
                names, folders = [name], self._look_at(place, parent, [name])
        for folder in folders:
            self.everything_below(folder)
        return name in names and (path in self.result.entries or path in self.present)

    def _spellings(self, fd: int, folder: str, name: str, *, anew: bool) -> list[str]:
        """Return the names in a folder that are one with `name` in NFC."""
        if anew or folder not in self._listed:
            listed: dict[str, list[str]] = {}
            for other in names_in(fd):
                listed.setdefault(name_key(other), []).append(other)
            self._listed[folder] = listed
        return self._listed[folder].get(name_key(name), [])

    def _list(self, path: str) -> list[str]:
        """Look at everything in a folder; return the folders in it that are to be listed."""
        try:
            with self._disk.root.folder(path) as fd:
                return self._look_at(Place(fd, ""), path, names_in(fd))
        except MismatchError:
            if not path:
                raise
            self.result.entries.pop(path, None)
            self.result.recheck.add(path)
        except DiskError as error:
            if not path:
                raise
            self._hide(path, error.trouble)
        return []

    def _hide(self, folder: str, trouble: Trouble) -> None:
        """Remember that a folder could not be listed."""
        self.result.opaque.add(folder)
        entry = self.result.entries.get(folder) or self._known.get(folder)
        if entry is not None:
            self._keep(Verdict(replace(entry, trouble=trouble)))

    def _look_at(self, folder: Place, parent: str, names: Iterable[str]) -> list[str]:
        """Look at `names` of a folder; return the folders among them that are to be listed."""
        names = [name for name in names if parent or name != STATE_FOLDER]
        losers = self._losers(parent, names)
        prefix = f"{parent}/" if parent else ""
        found = (self._one(prefix + name, Place(folder.fd, name), name in losers) for name in names)
        return [path for path in found if path is not None]

    def _losers(self, parent: str, names: list[str]) -> set[str]:
        """Return the names that differ from another only in their Unicode form, and lose to it."""
        if all(map(str.isascii, names)):
            return set()
        prefix = f"{parent}/" if parent else ""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name_key(name), []).append(name)
        losers: set[str] = set()
        for group in groups.values():
            winner = min(group, key=lambda name: (not self._was_synced(prefix + name), name))
            losers.update(name for name in group if name != winner)
        return losers

    def _was_synced(self, path: str) -> bool:
        known = self._known.get(path)
        return known is not None and (known.trouble is None or known.trouble.code != COLLISION.code)

    def _one(self, path: str, place: Place, loser: bool) -> str | None:  # noqa: FBT001  one of three facts
        """Look at one entry; return its path when it is a folder to be listed."""
        try:
            raw = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
            verdict = self._judge.verdict(path, place, raw)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._unreadable(path, translate(error, path))
            return None
        is_folder = verdict.entry.kind is LocalKind.FOLDER
        if self._ignored(path, is_folder):
            self.result.ignored.add(path)
            self.present.add(path)
            return None
        if loser:
            verdict = Verdict(replace(verdict.entry, trouble=COLLISION))
        if verdict.entry is not self._known.get(path):
            self.changed.add((raw.st_dev, raw.st_ino))
        self._keep(verdict)
        return path if is_folder and verdict.entry.trouble is None else None

    def _unreadable(self, path: str, error: DiskError) -> None:
        """What is listed is there, even when nothing more can be learnt of it."""
        self.present.add(path)
        if self._ignored(path, False):
            return
        self.result.opaque.add(path)
        self.result.report(path, error.trouble)
        known = self._known.get(path)
        if known is not None:
            self.result.entries[path] = replace(known, trouble=error.trouble)

    def _keep(self, verdict: Verdict) -> None:
        entry = verdict.entry
        self.result.entries[entry.path] = entry
        if entry.trouble is not None:
            self.result.report(entry.path, entry.trouble)
        if verdict.step is Step.HASH:
            self.to_hash.append(entry)
        elif verdict.step is Step.WAIT:
            self.result.recheck.add(entry.path)


def is_absent(error: DiskError) -> bool:
    """Say whether an error proves that nothing stands at the path: no such name, or no folder above."""
    return isinstance(error, VanishedError) or error.code == "not_a_folder"
