"""The agent's memory keeps all of a transaction or nothing, and is not thrown away lightly."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from agent import former
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble, VersionRef
from agent.parts import SCHEMA as PARTS_SCHEMA
from agent.state import (
    PAUSED,
    SCHEMA_VERSION,
    State,
    StateDamagedError,
    StateTooNewError,
    StateUnwritableError,
    read_meta,
    read_summary,
    set_paused,
)

STAT = FileStat(1, 2, 3, 4, 5, 0o644, 6)


def entry(path: str) -> LocalEntry:
    return LocalEntry(path, LocalKind.FILE, STAT, "a" * 64, hashed_at=7.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_what_was_kept_is_there_after_opening_again(path: Path) -> None:
    strange = LocalEntry(os.fsdecode(b"bad-\xff"), LocalKind.FILE, STAT, trouble=Trouble("code", "why"))
    node = RemoteNode(
        "n", "root", "é", Kind.SYMLINK, 3, symlink_target="to", executable=True,
        base=VersionRef("m", "v", "b" * 64),
    )  # fmt: skip
    agreed = SyncedNode("n", "root", "é", Kind.SYMLINK, symlink_target="to", stat=STAT)
    state = State(path)
    with state.transaction():
        state.put_local([strange, entry("a")])
        state.put_remote([node])
        state.put_synced([agreed])
        state.put("key", "value")
    state.put_problem("a", Trouble("code", "why"), lambda attempts: 60.0 * (attempts + 1))
    before = state.problems["a"]
    state.close()
    again = State(path)
    assert again.local == {strange.path: strange, "a": entry("a")}
    assert (again.remote, again.synced) == ({"n": node}, {"n": agreed})
    assert (again.get("key"), again.problems["a"]) == ("value", before)
    again.close()


def test_a_transaction_that_fails_changes_neither_file_nor_mirror(path: Path) -> None:
    state = State(path)
    state.put_local([entry("kept")])

    def fail() -> None:
        with state.transaction():
            state.drop_local(["kept"])
            state.put_local([entry("new")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert set(state.local) == {"kept"}
    state.put_local([entry("later")])
    state.close()
    assert set(State(path).local) == {"kept", "later"}


def test_a_row_older_than_the_known_one_changes_nothing(path: Path) -> None:
    state = State(path)
    state.put_remote([RemoteNode("n", "root", "new", Kind.FILE, 5)])
    state.put_remote([RemoteNode("n", "root", "old", Kind.FILE, 4)])
    assert state.remote["n"].name == "new"
    state.close()


def test_a_renamed_folder_takes_what_is_in_it_and_no_neighbour(path: Path) -> None:
    state = State(path)
    state.put_local([entry("a"), entry("a/x"), entry("ab")])
    state.move_local("a", "b")
    assert set(state.local) == {"b", "b/x", "ab"}
    state.swap_local("b", "ab")
    assert set(state.local) == {"ab", "ab/x", "b"}
    state.close()


def test_a_folder_made_anew_keeps_its_children(path: Path) -> None:
    state = State(path)
    state.put_synced([SyncedNode("f", "root", "f", Kind.FOLDER), SyncedNode("c", "f", "c", Kind.FILE)])
    state.rebind_folder("f", SyncedNode("g", "root", "f", Kind.FOLDER))
    assert {node.id: node.parent_id for node in state.synced.values()} == {"g": "root", "c": "g"}
    state.close()


def test_a_damaged_file_is_told_from_one_that_cannot_be_opened_now(path: Path) -> None:
    path.write_bytes(b"this is no database at all, whatever its name says" * 100)
    with pytest.raises(StateDamagedError):
        State(path)
    with pytest.raises(StateUnwritableError):
        State(path.parent / "missing" / "state.db")


SECOND_SCHEMA = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE remote (
    id TEXT PRIMARY KEY, parent_id TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    seq INTEGER NOT NULL, deleted INTEGER NOT NULL, version_id TEXT, size INTEGER NOT NULL,
    content_hash TEXT, mtime_ns INTEGER NOT NULL, executable INTEGER NOT NULL,
    symlink_target TEXT, epoch INTEGER NOT NULL, device TEXT
) STRICT;
CREATE TABLE local (
    path BLOB PRIMARY KEY, kind TEXT NOT NULL, stat TEXT NOT NULL, content_hash TEXT,
    symlink_target BLOB, trouble TEXT, hashed_at REAL NOT NULL
) STRICT;
CREATE TABLE synced (
    id TEXT PRIMARY KEY, parent_id TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    version_id TEXT, content_hash TEXT, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    executable INTEGER NOT NULL, symlink_target TEXT, stat TEXT, epoch INTEGER NOT NULL
) STRICT;
CREATE TABLE problems (
    path BLOB PRIMARY KEY, code TEXT NOT NULL, detail TEXT NOT NULL, attempts INTEGER NOT NULL,
    retry_at REAL
) STRICT;
"""
    + PARTS_SCHEMA
    + """
INSERT INTO remote VALUES ('n', 'root', 'f', 'file', 3, 0, 'v', 9, NULL, 4, 0, NULL, 1, 'laptop');
INSERT INTO meta VALUES ('root_id', 'root');
PRAGMA user_version = 2;
"""
)
"""A memory as agents wrote it before versions had bases."""


@pytest.mark.parametrize("copy", [False, True])
def test_a_memory_of_the_second_schema_is_taken_on_with_all_that_it_holds(path: Path, *, copy: bool) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(SECOND_SCHEMA)
    db.close()
    state = State(path, copy=copy)
    node = RemoteNode("n", "root", "f", Kind.FILE, 3, False, "v", 9, mtime_ns=4, epoch=1, device="laptop")
    assert state.remote == {"n": node}
    assert (state.get("root_id"), state.former.known) == ("root", {})
    based = replace(node, seq=4, base=VersionRef("n", "v", "a" * 64))
    state.put_remote([based])
    assert state.remote == {"n": based}
    state.close()
    again = State(path)
    assert again.remote == {"n": node if copy else based}
    again.close()


def test_two_that_bring_a_memory_up_to_date_at_once_do_it_once(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(SECOND_SCHEMA)
    db.close()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: State(path).close(), range(4)))
    state = State(path)
    assert set(state.remote) == {"n"}
    state.close()


def test_a_pause_leaves_the_tables_of_an_older_agent_that_may_be_running(path: Path) -> None:
    """It writes all columns that it knows, and could write nothing any more beside another one."""
    with sqlite3.connect(path) as older:
        older.executescript(SECOND_SCHEMA)
        set_paused(path, paused=True)
        older.execute(
            "INSERT INTO remote VALUES ('m', 'root', 'g', 'file', 4, 0, 'w', 9, NULL, 4, 0, NULL, 1, 'it')"
        )
    older.close()
    state = State(path)
    assert (set(state.remote), state.get(PAUSED) is not None) == ({"n", "m"}, True)
    state.close()


def large(number: int, node_id: str = "n") -> SyncedNode:
    return SyncedNode(
        node_id, "root", "f", Kind.FILE, version_id=f"v{number}", content_hash=f"{number:064}", size=10**6
    )


def ref(number: int, node_id: str = "n") -> VersionRef:
    return VersionRef(node_id, f"v{number}", f"{number:064}")


def test_versions_that_are_agreed_on_no_more_are_remembered_the_latest_last(path: Path) -> None:
    state = State(path)
    state.put_synced([large(1), large(5, "m")])
    state.put_synced([replace(large(1), name="renamed")])
    assert state.former.known == {}, "it is agreed on still"
    state.put_synced([large(2)])
    state.put_synced([large(1)])
    state.drop_synced(["n", "m"])
    found = [ref(2), ref(1), ref(5, "m")]
    assert list(state.former.known.values()) == found
    assert state.former.by_node() == {"n": ref(1), "m": ref(5, "m")}
    state.close()
    again = State(path)
    assert list(again.former.known.values()) == found
    again.close()


def test_of_small_files_links_and_what_was_never_read_nothing_is_remembered(path: Path) -> None:
    state = State(path)
    others = (
        replace(large(1), size=1000),
        replace(large(1), kind=Kind.SYMLINK),
        replace(large(1), version_id=None),
        replace(large(1), content_hash=None),
    )
    for node in others:
        state.put_synced([node])
        state.drop_synced(["n"])
    assert state.former.known == {}
    state.close()


def test_so_many_former_versions_are_remembered_and_the_oldest_go(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(former, "MOST", 3)
    state = State(path)
    for number in range(6):
        state.put_synced([large(number)])
    kept = [ref(number) for number in (2, 3, 4)]
    assert list(state.former.known.values()) == kept
    state.close()
    again = State(path)
    assert list(again.former.known.values()) == kept
    again.close()


def test_a_former_version_of_a_transaction_that_fails_is_none(path: Path) -> None:
    state = State(path)
    state.put_synced([large(1)])

    def fail() -> None:
        with state.transaction():
            state.drop_synced(["n"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (state.former.known, set(state.synced)) == ({}, {"n"})
    state.close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    State(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StateTooNewError):
        State(path)


def test_a_copy_is_of_one_moment_and_leads_nowhere(path: Path) -> None:
    state = State(path)
    state.put_local([entry("a")])
    copy = State(path, copy=True)
    with copy.transaction():
        copy.put_local([entry("only in the copy")])
        copy.put("key", "value")
    state.put_local([entry("later")])
    assert set(copy.local) == {"a", "only in the copy"}
    assert (set(state.local), state.get("key")) == ({"a", "later"}, None)


def test_a_copy_of_nothing_is_empty_and_makes_nothing(path: Path) -> None:
    copy = State(path, copy=True)
    assert (copy.local, copy.get("key")) == ({}, None)
    assert not path.exists()


def test_a_pause_reaches_an_open_memory_and_makes_one_where_there_is_none(path: Path) -> None:
    set_paused(path, paused=True)
    state = State(path)
    since = state.get(PAUSED)
    assert since is not None
    set_paused(path, paused=True)
    assert state.get(PAUSED) == since, "paused since the first time"
    set_paused(path, paused=False)
    assert state.get(PAUSED) is None


def test_a_memory_that_is_about_to_be_made_is_none_yet(path: Path) -> None:
    """Another process has opened the file and not made its tables."""
    sqlite3.connect(path).close()
    path.touch()
    assert read_summary(path) is None
    assert read_meta(path, "key") is None
    assert State(path, copy=True).local == {}


def filled(path: Path) -> None:
    state = State(path)
    state.put_local([entry(f"folder/file{number:04}") for number in range(300)])
    state.put_remote([RemoteNode(f"n{n}", "root", f"name{n}", Kind.FILE, n) for n in range(300)])
    state.close()


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8, 0.95])
def test_damage_in_any_part_is_told_when_opening_or_when_it_is_met(path: Path, place: float) -> None:
    """Never as rows that were not written, and never as an error that nobody knows."""
    filled(path)
    content = bytearray(path.read_bytes())
    at = int(len(content) * place) // 4096 * 4096
    content[at : at + 2048] = b"\xa5" * 2048
    path.write_bytes(content)
    with pytest.raises(StateDamagedError):
        State(path)


def test_a_row_that_no_agent_wrote_is_damage(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE local SET stat = '[1, 2' WHERE kind = 'file'")
    db.close()
    with pytest.raises(StateDamagedError):
        State(path)


def test_text_that_is_no_text_is_damage(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE remote SET name = CAST(x'a5a5' AS TEXT) WHERE id = 'n7'")
    db.close()
    with pytest.raises(StateDamagedError):
        State(path)


def test_damage_where_reading_the_rows_does_not_lead_is_told_when_opening(path: Path) -> None:
    """An index: only the next write would meet it."""
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'remote'"
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xa5" * size
    path.write_bytes(content)
    with pytest.raises(StateDamagedError):
        State(path)
