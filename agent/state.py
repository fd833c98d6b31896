"""The agent's memory: a SQLite file with the three trees' observations. Work is never stored.

The trees are mirrored in dictionaries, so that planning reads no rows. Every change goes through
`transaction`, which is durable when it returns (WAL with full sync); what fails in it leaves file
and mirror as they were. Losing the file loses no user's file: everything is observed anew and
bound by content.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent import clock
from agent.errors import LocalError
from agent.former import SCHEMA as FORMER_SCHEMA
from agent.former import FormerVersions
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble, VersionRef
from agent.parts import SCHEMA as PARTS_SCHEMA
from agent.parts import PartMemory

SCHEMA_VERSION: Final = 3
LONGEST_RETRY: Final = 3600.0
"""Seconds beyond which no next try is ever set."""
PAUSED: Final = "paused"
"""The key of `meta` that is there while the user wants this device to rest (since when)."""
SYNCED_AT: Final = "synced_at"
"""The key of `meta` that says when everything was in step last (seconds since 1970)."""
PHASE: Final = "phase"
"""The key of `meta` under which the agent says what it does: see `agent.board`."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS remote (
    id TEXT PRIMARY KEY, parent_id TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    seq INTEGER NOT NULL, deleted INTEGER NOT NULL, version_id TEXT, size INTEGER NOT NULL,
    content_hash TEXT, mtime_ns INTEGER NOT NULL, executable INTEGER NOT NULL,
    symlink_target TEXT, epoch INTEGER NOT NULL, device TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS local (
    path BLOB PRIMARY KEY, kind TEXT NOT NULL, stat TEXT NOT NULL, content_hash TEXT,
    symlink_target BLOB, trouble TEXT, hashed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS synced (
    id TEXT PRIMARY KEY, parent_id TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    version_id TEXT, content_hash TEXT, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    executable INTEGER NOT NULL, symlink_target TEXT, stat TEXT, epoch INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS problems (
    path BLOB PRIMARY KEY, code TEXT NOT NULL, detail TEXT NOT NULL, attempts INTEGER NOT NULL,
    retry_at REAL
) STRICT;
"""


_BASES: Final = "ALTER TABLE remote ADD COLUMN base TEXT;"

_STEPS: Final = (_SCHEMA, PARTS_SCHEMA, _BASES + FORMER_SCHEMA)
"""What each version of the schema adds to the one before."""

_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""Everything else (a full disk, no permission, locked) says nothing about what the file holds."""


class StateDamagedError(RuntimeError):
    """The file is damaged, or is no database at all."""


class StateUnwritableError(LocalError):
    """The file cannot be written now (its disk is full or read-only, say); nothing of it is lost."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"The agent's memory cannot be written: {detail}", code="state_unwritable")


class StateTooNewError(RuntimeError):
    """The state was written by a newer version of the agent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a path is not in step. `retry_at` in seconds since 1970; None: when it changes."""

    path: str
    code: str
    detail: str
    attempts: int = 1
    retry_at: float | None = None

    @property
    def wait(self) -> float | None:
        """The seconds until the next try, 0 when it is due; None: it waits for a change."""
        return None if self.retry_at is None else clock.until(self.retry_at, LONGEST_RETRY)


class State:
    """The open memory. Used by one thread; one agent at a time (see the lock in `app`)."""

    def __init__(self, path: Path, *, copy: bool = False) -> None:
        """Open or create the file. Raises `StateTooNewError`, `StateDamagedError`.

        With `copy` it is a copy in RAM of one moment, empty when there is no file: an agent may go
        on writing, and nothing that is done to the copy reaches the disk.
        """
        self.path = path
        self._db = _copied(path) if copy else _connect(path)
        self._inside = False
        self.remote: dict[str, RemoteNode] = {}
        self.local: dict[str, LocalEntry] = {}
        self.synced: dict[str, SyncedNode] = {}
        self.problems: dict[str, Problem] = {}
        self.parts = PartMemory(self._db, self.transaction)
        self.former = FormerVersions(self._db, self.transaction)
        try:
            self._load()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _load(self) -> None:
        """Read everything. Raises `StateDamagedError` also for rows that no agent wrote."""
        with damage_told():
            try:
                self._load_rows()
            except (ValueError, TypeError) as error:
                raise StateDamagedError(f"A row makes no sense: {error}") from error

    def _load_rows(self) -> None:
        rows = _Rows()
        self.remote = {n.id: n for n in map(rows.remote, self._db.execute("SELECT * FROM remote"))}
        self.local = {e.path: e for e in map(rows.local, self._db.execute("SELECT * FROM local"))}
        self.synced = {n.id: n for n in map(rows.synced, self._db.execute("SELECT * FROM synced"))}
        self.problems = {p.path: p for p in map(_problem, self._db.execute("SELECT * FROM problems"))}
        self.former.load()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of the body durable together, or none of them. Nesting joins."""
        if self._inside:
            yield
            return
        with damage_told():
            self._db.execute("BEGIN IMMEDIATE")
            self._inside = True
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._inside = False

    def _roll_back(self) -> None:
        """Return to what the file holds; SQLite may have rolled back by itself (a full disk)."""
        with suppress(sqlite3.OperationalError):
            self._db.execute("ROLLBACK")
        self._load()

    # Single values ------------------------------------------------------------------------

    def get(self, key: str) -> str | None:
        """Return a value of `meta`."""
        with damage_told():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, value: str) -> None:
        """Set a value of `meta`."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # Remote -------------------------------------------------------------------------------

    def put_remote(self, nodes: Iterable[RemoteNode]) -> None:
        """Keep what the server told; a row older than the known one changes nothing."""
        newer: dict[str, RemoteNode] = {}
        for node in nodes:
            known = newer.get(node.id) or self.remote.get(node.id)
            if known is None or node.seq >= known.seq:
                newer[node.id] = node
        with self.transaction():
            self._insert("remote", [tuple(_columns(node)) for node in newer.values()])
            self.remote.update(newer)

    def keep_remote(self, ids: set[str]) -> None:
        """Drop every remote node but these."""
        gone = [node_id for node_id in self.remote if node_id not in ids]
        with self.transaction():
            self._db.executemany("DELETE FROM remote WHERE id = ?", ((i,) for i in gone))
            for node_id in gone:
                del self.remote[node_id]

    # Local --------------------------------------------------------------------------------

    def put_local(self, entries: Iterable[LocalEntry]) -> None:
        """Keep what a scan, or an action that read it back, saw."""
        entries = list(entries)
        with self.transaction():
            self._insert("local", [_local_columns(entry) for entry in entries])
            self.local.update({entry.path: entry for entry in entries})

    def drop_local(self, paths: Iterable[str]) -> None:
        """Forget paths that are gone."""
        gone = [path for path in paths if path in self.local]
        with self.transaction():
            self._db.executemany("DELETE FROM local WHERE path = ?", ((os.fsencode(p),) for p in gone))
            for path in gone:
                del self.local[path]

    def below(self, path: str) -> list[str]:
        """Return the known paths at and below `path`."""
        prefix = path + "/"
        return [known for known in self.local if known == path or known.startswith(prefix)]

    def move_local(self, source: str, target: str) -> None:
        """Follow a rename on disk, with everything below it."""
        moved = [self.local[path].at(target + path[len(source) :]) for path in self.below(source)]
        with self.transaction():
            self.drop_local(self.below(source))
            self.put_local(moved)

    def swap_local(self, one: str, other: str) -> None:
        """Follow an exchange of two paths on disk, with everything below them."""
        first = [self.local[path].at(other + path[len(one) :]) for path in self.below(one)]
        second = [self.local[path].at(one + path[len(other) :]) for path in self.below(other)]
        with self.transaction():
            self.drop_local([*self.below(one), *self.below(other)])
            self.put_local([*first, *second])

    # Synced -------------------------------------------------------------------------------

    def put_synced(self, nodes: Iterable[SyncedNode]) -> None:
        """Remember what both sides agree on, and of what they agreed on until now the version."""
        nodes = list(nodes)
        with self.transaction():
            self.former.note(self._replaced_by(nodes))
            self._insert("synced", [tuple(_columns(node)) for node in nodes])
            self.synced.update({node.id: node for node in nodes})

    def _replaced_by(self, nodes: Iterable[SyncedNode]) -> Iterator[SyncedNode]:
        for node in nodes:
            old = self.synced.get(node.id)
            if old is not None and old.content_hash != node.content_hash:
                yield old

    def drop_synced(self, ids: Iterable[str]) -> None:
        """Forget nodes, all but the version that was agreed on."""
        gone = [node_id for node_id in ids if node_id in self.synced]
        with self.transaction():
            self.former.note(self.synced[node_id] for node_id in gone)
            self._db.executemany("DELETE FROM synced WHERE id = ?", ((i,) for i in gone))
            for node_id in gone:
                del self.synced[node_id]

    def rebind_folder(self, old_id: str, new: SyncedNode) -> None:
        """A folder has a new node: it takes the old one's place, its children stay its children."""
        children = [replace(n, parent_id=new.id) for n in self.synced.values() if n.parent_id == old_id]
        with self.transaction():
            self.drop_synced([old_id])
            self.put_synced([new, *children])

    # Problems -----------------------------------------------------------------------------

    def put_problem(self, path: str, trouble: Trouble, delay: Callable[[int], float]) -> None:
        """Remember a failure; `delay(attempts)` gives the seconds until the next try."""
        attempts = self.problems[path].attempts + 1 if path in self.problems else 1
        problem = Problem(path, trouble.code, trouble.detail, attempts, clock.now() + delay(attempts - 1))
        row = (os.fsencode(path), problem.code, problem.detail, problem.attempts, problem.retry_at)
        with self.transaction():
            self._insert("problems", [row])
            self.problems[path] = problem

    def drop_problems(self, paths: Iterable[str]) -> None:
        """Forget problems that are solved."""
        solved = [path for path in paths if path in self.problems]
        with self.transaction():
            self._db.executemany("DELETE FROM problems WHERE path = ?", ((os.fsencode(p),) for p in solved))
            for path in solved:
                del self.problems[path]

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)  # noqa: S608 — the table's name is ours


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise `LocalError` "state_too_new" or "state_damaged" where a command only reads or notes."""
    try:
        yield
    except StateTooNewError as error:
        raise LocalError(str(error), code="state_too_new") from error
    except StateDamagedError as error:
        raise LocalError(code="state_damaged") from error


@contextmanager
def damage_told() -> Iterator[None]:
    """Raise `StateDamagedError` for what SQLite calls corrupt, `StateUnwritableError` for the rest."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Text that is no text has no code of SQLite's.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if code & 0xFF in _DAMAGED:
            raise StateDamagedError(str(error)) from error
        raise StateUnwritableError(str(error)) from error


def _copied(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        if path.exists():
            with damage_told(), closing(_connect(path, readonly=True)) as source:
                source.backup(db)
        _migrate(db, readonly=False)
    except BaseException:
        db.close()
        raise
    return db


def _connect(path: Path, *, readonly: bool = False, beside: bool = False) -> sqlite3.Connection:
    """Open the file. `beside`: its agent may run and be an older one, which needs the tables it knows."""
    mode = "ro" if readonly else "rwc"
    with damage_told():
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=10
        )
    try:
        with damage_told():
            if not readonly:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
            _migrate(db, readonly=readonly, beside=beside)
            if not readonly:
                _check(db)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    """Raise `StateDamagedError` when pages of the file do not fit together."""
    found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    if found != "ok":
        raise StateDamagedError(found)


def _migrate(db: sqlite3.Connection, *, readonly: bool, beside: bool = False) -> None:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StateTooNewError(
            f"state.db has schema {version}, this agent knows {SCHEMA_VERSION}: upgrade it"
        )
    if version < SCHEMA_VERSION and not readonly and not (beside and version):
        _take_steps(db)


def _take_steps(db: sqlite3.Connection) -> None:
    """Bring the schema up to date, unless another process has done so meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        for step in _STEPS[version:]:
            for statement in step.split(";"):
                db.execute(statement)
        if version < SCHEMA_VERSION:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.OperationalError):
            db.execute("ROLLBACK")
        raise


# Rows ---------------------------------------------------------------------------------------


def _columns(node: RemoteNode | SyncedNode) -> list[Any]:
    values: list[Any] = []
    for name in node.__slots__:
        value = getattr(node, name)
        if isinstance(value, FileStat):
            values.append(_stat_text(value))
        elif isinstance(value, VersionRef):
            values.append(json.dumps([value.node_id, value.version_id, value.content_hash]))
        else:
            values.append(int(value) if isinstance(value, bool) else value)
    return values


def _stat_text(stat: FileStat) -> str:
    # In the order of the fields; `asdict` would copy each value, for every row.
    return json.dumps([stat.dev, stat.ino, stat.size, stat.mtime_ns, stat.ctime_ns, stat.mode, stat.birth_ns])


class _Rows:
    """Makes observations of rows. What is equal in several of them is one object.

    The trees tell of the same things: that is a good third of the memory of a large folder.
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._stats: dict[str, FileStat] = {}

    def _shared(self, value: Any) -> Any:
        return self._values.setdefault(value, value) if isinstance(value, str | int) else value

    def _stat(self, text: str) -> FileStat:
        if text not in self._stats:
            self._stats[text] = FileStat(*json.loads(text))
        return self._stats[text]

    def remote(self, row: tuple[Any, ...]) -> RemoteNode:
        values = dict(zip(RemoteNode.__slots__, map(self._shared, row), strict=True))
        values.update(
            kind=Kind(values["kind"]),
            deleted=bool(values["deleted"]),
            executable=bool(values["executable"]),
            base=None if values["base"] is None else VersionRef(*json.loads(values["base"])),
        )
        return RemoteNode(**values)

    def synced(self, row: tuple[Any, ...]) -> SyncedNode:
        *columns, stat, epoch = row
        values = dict(zip(SyncedNode.__slots__, [*map(self._shared, columns), stat, epoch], strict=True))
        values.update(
            kind=Kind(values["kind"]),
            executable=bool(values["executable"]),
            stat=None if stat is None else self._stat(stat),
        )
        return SyncedNode(**values)

    def local(self, row: tuple[Any, ...]) -> LocalEntry:
        path, kind, stat, content_hash, target, trouble, hashed_at = row
        return LocalEntry(
            path=os.fsdecode(path),
            kind=LocalKind(kind),
            stat=self._stat(stat),
            content_hash=self._shared(content_hash),
            symlink_target=None if target is None else os.fsdecode(target),
            trouble=None if trouble is None else Trouble(*json.loads(trouble)),
            hashed_at=hashed_at,
        )


def _local_columns(entry: LocalEntry) -> tuple[Any, ...]:
    target = None if entry.symlink_target is None else os.fsencode(entry.symlink_target)
    trouble = None if entry.trouble is None else json.dumps([entry.trouble.code, entry.trouble.detail])
    return (
        os.fsencode(entry.path), entry.kind.value, _stat_text(entry.stat), entry.content_hash, target,
        trouble, entry.hashed_at,
    )  # fmt: skip


def _problem(row: tuple[Any, ...]) -> Problem:
    return Problem(os.fsdecode(row[0]), *row[1:])


def merged(
    base: Mapping[str, LocalEntry], changed: Mapping[str, LocalEntry], gone: Iterable[str]
) -> dict[str, LocalEntry]:
    """Return `base` with a scan's result applied."""
    result = {**base, **changed}
    for path in gone:
        result.pop(path, None)
    return result


@dataclass(frozen=True, slots=True)
class Summary:
    """What `status` wants to know, read without loading the trees."""

    files: int
    problems: tuple[Problem, ...]
    phase: str | None
    """JSON that the agent keeps under `PHASE`."""
    synced_at: float | None
    paused: bool = False


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open a memory that another process may be writing, or about to make; None when there is none."""
    if not path.exists():
        yield None
        return
    with damage_told(), closing(_connect(path, readonly=True)) as db:
        is_made = db.execute("PRAGMA user_version").fetchone()[0] > 0
        yield db if is_made else None


def read_summary(path: Path) -> Summary | None:
    """Read a memory that another process may be writing; None when there is none.

    Raises `StateTooNewError`, `StateDamagedError`.
    """
    with _read_only(path) as db:
        if db is None:
            return None
        meta = dict(db.execute("SELECT key, value FROM meta"))
        files = db.execute("SELECT COUNT(*) FROM synced WHERE kind != 'folder'").fetchone()[0]
        problems = tuple(map(_problem, db.execute("SELECT * FROM problems ORDER BY path")))
    at = meta.get(SYNCED_AT)
    synced_at = None if at is None else float(at)
    return Summary(int(files), problems, meta.get(PHASE), synced_at, PAUSED in meta)


def read_meta(path: Path, key: str) -> str | None:
    """Return one value of a memory that another process may be writing; None when there is none.

    Raises as `read_summary`.
    """
    with _read_only(path) as db:
        row = None if db is None else db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def set_paused(path: Path, *, paused: bool) -> None:
    """Remember that the user wants this device to rest, or not any more. An agent may be running.

    Raises `StateTooNewError`, `StateDamagedError`.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with damage_told(), closing(_connect(path, beside=True)) as db:
        if paused:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (PAUSED, str(clock.now())))
        else:
            db.execute("DELETE FROM meta WHERE key = ?", (PAUSED,))
