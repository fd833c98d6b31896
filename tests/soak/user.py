"""The person at a device: acts on a real folder, and keeps the ledger.

Every verb is a no-op returning False when it makes no sense in the present state. While agents run,
anything may have changed since the look: what a verb meets then is an `OSError`, as any program
would get, and the verb ends there.
"""

import os
import shutil
import stat as modes
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from libs.contracts.limits import MAX_NAME_BYTES
from libs.contracts.paths import STATE_FOLDER, name_key
from tests.soak.content import Author, compose, hash_of
from tests.soak.ledger import Ledger
from tests.soak.steps import Step

ANCHOR: Final = "anchor"
"""A file that no step touches: a folder emptied by its user is another matter."""
_MANY: Final = 90
_GROWING: Final = frozenset(
    {"create", "mkdir", "copy", "shared", "deep", "unpack", "hole", "hardlink", "link"}
)
_LONGEST: Final = 900


class User:
    """One user with his folder."""

    def __init__(self, name: str, folder: Path, ledger: Ledger, seed: str) -> None:
        self.name = name
        self.folder = folder
        self.journal: list[str] = []
        self.ledger = ledger
        self.seed = seed

    def act(self, step: Step, verbs: "Mapping[str, Verb]") -> bool:
        """Do a step by the verb that it names; say whether anything was done."""
        paths = self.paths()
        verb = step.verb
        if len(paths) > _MANY and verb in _GROWING:
            verb = "deltree" if step.pick % 2 else "delete"
        said: list[str] = []
        try:
            done = verbs[verb](Hand(self, paths, step, said))
        except OSError as error:
            done = False
            said.append(f"! {error.strerror}")
        self.journal.append(f"{time.time():.3f} {step.number} {verb} {' '.join(said)} {'' if done else '-'}")
        return done

    def heal(self) -> None:
        """Remove what cannot be synced."""
        for path in self.paths():
            if modes.S_ISFIFO((self.folder / path).lstat().st_mode):
                (self.folder / path).unlink()

    def paths(self) -> list[str]:
        """Every path below the folder, sorted, less the agent's own and the anchor."""
        found = []
        for base, folders, files in os.walk(self.folder):
            at = Path(base)
            if at == self.folder:
                folders[:] = [name for name in folders if name != STATE_FOLDER]
            found += [str((at / name).relative_to(self.folder)) for name in [*folders, *files]]
        return sorted(path for path in found if path != ANCHOR)

    def contents_of(self, path: Path) -> list[str]:
        """The contents at and below a path, as the ledger knows them."""
        if path.is_symlink():
            return [f"-> {path.readlink()}"]
        if path.is_dir():
            return [content for child in sorted(path.iterdir()) for content in self.contents_of(child)]
        return [hash_of(path.read_bytes())] if path.is_file() else []


Verb = Callable[["Hand"], bool]


class Hand:
    """One step of a user."""

    def __init__(self, user: User, paths: list[str], step: Step, said: list[str]) -> None:
        self.user = user
        self.step = step
        self._paths = paths
        self._said = said
        self.ledger = user.ledger
        self.author = Author(user.name, step.number, user.seed)

    # Choosing -----------------------------------------------------------------------------

    def at(self, path: str) -> Path:
        self._said.append(path if len(path) < 60 else f"{path[:30]}…{path[-25:]}")
        return self.user.folder / path

    def pick(self, number: int, is_kind: Callable[[Path], bool] = os.path.lexists) -> Path | None:
        """One of the paths of a kind that there are."""
        fitting = [path for path in self._paths if is_kind(self.user.folder / path)]
        return self.at(fitting[number % len(fitting)]) if fitting else None

    def file(self, number: int | None = None) -> Path | None:
        return self.pick(self.step.pick if number is None else number, is_file)

    def parent(self, number: int) -> Path:
        """One of the folders, the root included."""
        folders = ["", *(path for path in self._paths if is_folder(self.user.folder / path))]
        return self.user.folder / folders[number % len(folders)]

    def new_path(self) -> Path | None:
        """A free path for something of the step's name."""
        path = self.parent(self.step.other) / self.step.name
        self._said.append(str(path.relative_to(self.user.folder))[-60:])
        return path if self.fits(path) else None

    def fits(self, path: Path) -> bool:
        """Whether nothing of this name, in any spelling, is there, and names and paths stay short."""
        relative = path.relative_to(self.user.folder)
        if len(path.name.encode()) > MAX_NAME_BYTES or len(str(relative).encode()) > _LONGEST:
            return False
        return name_key(path.name) not in {name_key(found.name) for found in path.parent.iterdir()}

    # Writing ------------------------------------------------------------------------------

    def content(self) -> bytes:
        return compose(self.author, self.step.size, records=1 + self.step.other % 3)

    def record_of(self, path: Path, content: bytes, before: bytes | None = None) -> None:
        """Enter what was written at a path, and what it replaced."""
        now = hash_of(content)
        origin = None if before is None else hash_of(before)
        where = f"{self.user.name} step {self.step.number} at {path.relative_to(self.user.folder)}"
        self.ledger.wrote(now, where, origin)
        if origin is not None and origin != now:
            self.ledger.destroy([origin])
        self.named(path)
        if path.exists() and path.stat().st_nlink > 1:
            self.ledger.copy([now])

    def named(self, path: Path) -> None:
        for name in path.relative_to(self.user.folder).parts:
            self.ledger.named(name)

    def put_new(self, path: Path, content: bytes) -> bool:
        """Write a file that must be new."""
        with path.open("xb") as file:
            file.write(content)
        self.record_of(path, content)
        return True

    def change(self, path: Path, change: Callable[[bytes], bytes]) -> bool:
        """Write a file in place, through the descriptor by which it was read."""
        with path.open("r+b") as file:
            before = file.read()
            after = change(before)
            start = len(before) if after.startswith(before) else 0
            file.seek(start)
            file.write(after[start:])
            file.truncate()
        self.record_of(path, after, before)
        return True

    def remove(self, path: Path) -> bool:
        """Delete a file, a link or a folder with all that is in it."""
        gone = self.user.contents_of(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        self.ledger.destroy(gone)
        return True

    def move(self, path: Path, to: Path) -> bool:
        """Rename or move to a free path."""
        if not self.fits(to) and not (to.parent == path.parent and name_key(to.name) == name_key(path.name)):
            return False
        return self.rename(path, to)

    def rename(self, path: Path, to: Path) -> bool:
        moved = self.user.contents_of(path)
        over = self.user.contents_of(to) if to.is_file() or to.is_symlink() else []
        self.ledger.set_free(moved)
        self._said.append(f"→ {str(to.relative_to(self.user.folder))[-60:]}")
        path.rename(to)
        self.ledger.destroy(content for content in over if content not in moved)
        self.named(to)
        if not to.name.isascii():
            self.ledger.copy(moved)
        return True

    def spare(self, path: Path) -> Path:
        """A name beside a path that nothing has."""
        spare = path.with_name(f"spare{self.step.number}")
        self.named(spare)
        return spare


def is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
