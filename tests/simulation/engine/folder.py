"""A real folder as its user sees and changes it: the same verbs as the planner's simulated disk.

Contents are texts by which each can be followed; the bytes of one are such that a mixed or partial
file shows (see `contents`).
"""

import os
import stat as modes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from agent.model import LocalKind
from tests.simulation.disk import is_below, parent_of
from tests.simulation.engine.contents import bytes_of, content_of
from tests.simulation.engine.machine import Machine

OWN = ".lockstep"
_KINDS = {modes.S_IFREG: LocalKind.FILE, modes.S_IFDIR: LocalKind.FOLDER, modes.S_IFLNK: LocalKind.SYMLINK}


@dataclass
class Entry:
    """What stands at a path now."""

    folder: "Folder"
    path: str
    stat: os.stat_result

    @property
    def _real(self) -> Path:
        return self.folder.root / self.path

    @property
    def kind(self) -> LocalKind:
        return _KINDS.get(modes.S_IFMT(self.stat.st_mode), LocalKind.OTHER)

    @property
    def content(self) -> str:
        match self.kind:
            case LocalKind.FILE:
                return content_of(self._real.read_bytes())
            case LocalKind.SYMLINK:
                return str(self._real.readlink())
            case _:
                return ""

    @property
    def mtime_ns(self) -> int:
        return self.stat.st_mtime_ns

    @mtime_ns.setter
    def mtime_ns(self, value: int) -> None:
        os.utime(self._real, ns=(value, value), follow_symlinks=False)

    @property
    def ctime_ns(self) -> int:
        return self.stat.st_ctime_ns

    @ctime_ns.setter
    def ctime_ns(self, value: int) -> None:
        """The kernel keeps it by itself."""

    @property
    def executable(self) -> bool:
        return bool(self.stat.st_mode & 0o100)

    @executable.setter
    def executable(self, value: bool) -> None:
        self._real.chmod(0o755 if value else 0o644)

    @property
    def hidden(self) -> bool:
        return self.stat.st_ino in self.folder.machine.hidden

    @hidden.setter
    def hidden(self, value: bool) -> None:
        if value:
            self.folder.machine.hidden.add(self.stat.st_ino)
        else:
            self.folder.machine.hidden.discard(self.stat.st_ino)


class Folder:
    """The synced folder of one device, without the agent's own folder in it."""

    def __init__(self, root: Path, machine: Machine, tick: Callable[[], int]) -> None:
        self.root = root
        self.machine = machine
        self.tick = tick
        self.kind = SimpleNamespace(fold=str)

    # Looking ----------------------------------------------------------------------------------

    @property
    def entries(self) -> dict[str, Entry]:
        """Everything in it, by path."""
        found: dict[str, Entry] = {}
        waiting = [""]
        while waiting:
            parent = waiting.pop()
            for real in sorted((self.root / parent).iterdir()):
                path = f"{parent}/{real.name}" if parent else real.name
                if path == OWN:
                    continue
                found[path] = Entry(self, path, os.lstat(self.root / path))
                if found[path].kind is LocalKind.FOLDER:
                    waiting.append(path)
        return found

    def signs(self) -> dict[str, tuple[int, ...]]:
        """Return what a watcher would see change of each path."""
        return {
            path: (e.stat.st_ino, e.stat.st_mode, e.stat.st_mtime_ns, e.stat.st_size)
            for path, e in self.entries.items()
        }

    def find(self, path: str) -> str | None:
        return path if os.path.lexists(self.root / path) else None

    def is_folder(self, path: str) -> bool:
        real = self.root / path
        return real.is_dir() and not real.is_symlink()

    def below(self, path: str) -> list[str]:
        return [p for p in self.entries if p.startswith(path + "/")]

    def contents_below(self, path: str) -> Iterator[str]:
        for candidate, entry in self.entries.items():
            if is_below(candidate, path) and entry.kind in {LocalKind.FILE, LocalKind.SYMLINK}:
                yield entry.content

    def kept_contents(self) -> set[str]:
        """Return what the agent has put into its own folder: the trash, what was being swapped."""
        found: set[str] = set()
        for path in (self.root / OWN).rglob("*"):
            if path.is_symlink():
                found.add(str(path.readlink()))
            elif path.is_file():
                found.add(content_of(path.read_bytes()))
        return found

    # Changing ---------------------------------------------------------------------------------

    def _dated(self, path: str) -> None:
        now = self.tick()
        os.utime(self.root / path, ns=(now, now), follow_symlinks=False)

    def add(self, path: str, kind: LocalKind, content: str = "") -> None:
        real = self.root / path
        match kind:
            case LocalKind.FOLDER:
                real.mkdir()
                return
            case LocalKind.FILE:
                real.write_bytes(bytes_of(content))
            case LocalKind.SYMLINK:
                real.symlink_to(content)
            case LocalKind.OTHER:
                os.mkfifo(real)
        self._dated(path)

    def put_over(self, path: str, kind: LocalKind, content: str) -> None:
        """Write a new file beside it, outside what is synced, and rename that over it."""
        aside = self.root.parent / f"{self.machine.name}.saving"
        aside.write_bytes(bytes_of(content))
        now = self.tick()
        os.utime(aside, ns=(now, now))
        aside.rename(self.root / path)
        assert kind is LocalKind.FILE

    def write(self, path: str, content: str) -> None:
        real = self.root / path
        if real.is_symlink():
            real.unlink()
            real.symlink_to(content)
        else:
            real.write_bytes(bytes_of(content))
        self._dated(path)

    def remove(self, path: str) -> None:
        for gone in sorted(self.below(path), reverse=True):
            self._remove_one(gone)
        self._remove_one(path)

    def _remove_one(self, path: str) -> None:
        real = self.root / path
        self.machine.hidden.discard(os.lstat(real).st_ino)
        if self.is_folder(path):
            real.rmdir()
        else:
            real.unlink()

    def rename(self, path: str, to: str) -> None:
        (self.root / path).rename(self.root / to)

    def permute(self, moves: dict[str, str]) -> None:
        """Carry out moves that take each other's places, by way of names outside."""
        outside = self.root.parent
        aside = {path: outside / f"{self.machine.name}.moving{n}" for n, path in enumerate(moves)}
        for path, spare in aside.items():
            (self.root / path).rename(spare)
        for path, to in moves.items():
            aside[path].rename(self.root / to)


def fits(folder: Folder, path: str) -> bool:
    """Whether something new can stand at a path."""
    return folder.is_folder(parent_of(path)) and folder.find(path) is None
