"""The disk of a simulated device: paths, inodes, and what its user does to them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.model import FileStat, LocalEntry, LocalKind, Trouble
from libs.contracts.paths import name_key


def parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(folder + "/")


@dataclass(slots=True, eq=False)
class Inode:
    """What stands at a path. `content` of a link is its target."""

    ino: int
    birth_ns: int
    kind: LocalKind
    content: str = ""
    mtime_ns: int = 0
    ctime_ns: int = 0
    executable: bool = False
    hidden: bool = False
    """No permission: a file cannot be read, a folder not listed."""


@dataclass(frozen=True, slots=True)
class DiskKind:
    """What a disk is like."""

    reuses_inodes: bool = False
    keeps_birth: bool = True
    fold: Callable[[str], str] = str
    opaque_in_trouble: bool = True
    """Whether a folder that cannot be listed is itself in trouble, or only what is below it."""


class VacancyError(Exception):
    """The place is taken, or there is no folder to hold it."""


@dataclass(slots=True)
class Disk:
    """Entries by path, always a tree; the methods are atomic, as the system's calls are."""

    kind: DiskKind
    tick: Callable[[], int]
    entries: dict[str, Inode] = field(default_factory=dict)
    freed: list[int] = field(default_factory=list)
    next_ino: int = 1

    # Looking ----------------------------------------------------------------------------------

    def find(self, path: str) -> str | None:
        """Return the path as the disk spells it, when something stands there."""
        if path in self.entries:
            return path
        folded = self.kind.fold(path)
        return next((p for p in self.entries if self.kind.fold(p) == folded), None)

    def is_folder(self, path: str) -> bool:
        return path == "" or (path in self.entries and self.entries[path].kind is LocalKind.FOLDER)

    def below(self, path: str) -> list[str]:
        return [p for p in self.entries if p.startswith(path + "/")]

    def scan(self, preferred: set[str]) -> tuple[dict[str, LocalEntry], frozenset[str]]:
        """Return what a scan sees, and the folders that could not be listed.

        Of two names that differ only in their Unicode form the second is in trouble; a name in
        `preferred` is the first.
        """
        opaque = {p for p, i in self.entries.items() if i.hidden and i.kind is LocalKind.FOLDER}
        seen: dict[str, LocalEntry] = {}
        forms: set[str] = set()
        for path in sorted(self.entries, key=lambda p: (p not in preferred, p)):
            if any(is_below(path, folder) and path != folder for folder in opaque):
                continue
            entry = self.look(path)
            if join(name_key(parent_of(path)), name_key(name_of(path))) in forms:
                entry = _troubled(entry, "same_name")
            forms.add(join(name_key(parent_of(path)), name_key(name_of(path))))
            seen[path] = entry
        return _troubled_below(seen), frozenset(opaque)

    def look(self, path: str) -> LocalEntry:
        inode = self.entries[path]
        stat = FileStat(
            dev=1,
            ino=inode.ino,
            size=len(inode.content),
            mtime_ns=inode.mtime_ns,
            ctime_ns=inode.ctime_ns,
            mode=0o755 if inode.executable else 0o644,
            birth_ns=inode.birth_ns if self.kind.keeps_birth else None,
        )
        trouble = self._trouble(inode)
        readable = inode.kind is LocalKind.FILE and trouble is None
        return LocalEntry(
            path=path,
            kind=inode.kind,
            stat=stat,
            content_hash=inode.content if readable else None,
            symlink_target=inode.content if inode.kind is LocalKind.SYMLINK else None,
            trouble=trouble,
        )

    def _trouble(self, inode: Inode) -> Trouble | None:
        if inode.kind is LocalKind.OTHER:
            return Trouble("special_file", "It is neither file, folder nor link")
        if inode.hidden and (inode.kind is not LocalKind.FOLDER or self.kind.opaque_in_trouble):
            return Trouble("unreadable", "There is no permission to read it")
        return None

    def holds(self, entry: LocalEntry) -> bool:
        """Whether an entry is as it was seen: what every destructive step asks first."""
        if entry.path not in self.entries:
            return False
        now = self.look(entry.path)
        return (now.kind, now.stat.ino, now.content_hash, now.symlink_target) == (
            entry.kind, entry.stat.ino, entry.content_hash, entry.symlink_target,
        )  # fmt: skip

    # Changing ---------------------------------------------------------------------------------

    def _inode(self, kind: LocalKind, content: str) -> Inode:
        if self.kind.reuses_inodes and self.freed:
            ino = self.freed.pop()
        else:
            ino, self.next_ino = self.next_ino, self.next_ino + 1
        now = self.tick()
        return Inode(ino, now, kind, content, now, now)

    def _check_vacant(self, path: str, but: str | None = None) -> None:
        found = self.find(path)
        if not self.is_folder(parent_of(path)) or (found is not None and found != but):
            raise VacancyError(path)

    def add(self, path: str, kind: LocalKind, content: str = "") -> Inode:
        self._check_vacant(path)
        self.entries[path] = self._inode(kind, content)
        return self.entries[path]

    def put_over(self, path: str, kind: LocalKind, content: str) -> Inode:
        """Replace what is not a folder by a new inode, as a rename over it does."""
        fresh = self._inode(kind, content)
        self.freed.append(self.entries[path].ino)
        self.entries[path] = fresh
        return fresh

    def write(self, path: str, content: str) -> None:
        inode = self.entries[path]
        inode.content = content
        inode.mtime_ns = inode.ctime_ns = self.tick()

    def remove(self, path: str) -> None:
        """Remove an entry with everything below it."""
        for gone in [*self.below(path), path]:
            self.freed.append(self.entries.pop(gone).ino)

    def rename(self, path: str, to: str) -> None:
        """Move an entry to a vacant place; a change of a folded name's spelling is allowed."""
        self._check_vacant(to, but=path)
        if is_below(to, path) and to != path:
            raise VacancyError(to)
        self.permute({path: to})

    def permute(self, moves: dict[str, str]) -> None:
        """Carry out moves at once; where all are vacated or taken by each other."""
        taken = [(p, _moved(p, moves), self.entries.pop(p)) for p in self._with_below(moves)]
        for _, to, inode in taken:
            assert to not in self.entries
            self.entries[to] = inode
        for path in moves.values():
            self.entries[path].ctime_ns = self.tick()

    def _with_below(self, moves: dict[str, str]) -> list[str]:
        return [p for p in self.entries if any(is_below(p, start) for start in moves)]

    def contents_below(self, path: str) -> Iterator[str]:
        """Yield the contents of files and links at and below a path."""
        for candidate, inode in self.entries.items():
            if is_below(candidate, path) and inode.kind in {LocalKind.FILE, LocalKind.SYMLINK}:
                yield inode.content


def _moved(path: str, moves: dict[str, str]) -> str:
    start = max((s for s in moves if is_below(path, s)), key=len)
    return moves[start] + path[len(start) :]


def _troubled(entry: LocalEntry, code: str) -> LocalEntry:
    return LocalEntry(entry.path, entry.kind, entry.stat, trouble=Trouble(code, code))


def _troubled_below(seen: dict[str, LocalEntry]) -> dict[str, LocalEntry]:
    """A scan does not go below a folder whose name cannot be synced."""
    closed = [p for p, e in seen.items() if e.trouble is not None and e.kind is LocalKind.FOLDER]
    return {
        path: entry
        for path, entry in seen.items()
        if not any(is_below(path, folder) and path != folder for folder in closed)
    }
