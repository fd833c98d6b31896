"""The agent's memory keeps all of a transaction or nothing, and is not thrown away lightly."""

import os
import sqlite3
from pathlib import Path

import pytest

from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble
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
    node = RemoteNode("n", "root", "é", Kind.SYMLINK, 3, symlink_target="to", executable=True)
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
