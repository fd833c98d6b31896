"""What a device remembers of the parts of its unfinished uploads."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import clock
from agent.state import State

ONE, OTHER = "a" * 64, "b" * 64
DIGESTS = {1: "1" * 64, 2: "2" * 64}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    with closing(State(path)) as opened:
        yield opened


def test_digests_are_known_to_the_next_run(path: Path, state: State) -> None:
    state.parts.note(ONE, "u1", 10, DIGESTS)
    state.parts.note(ONE, "u1", 10, {3: "3" * 64})
    state.close()

    with closing(State(path)) as later:
        assert later.parts.known(ONE, 10) == {**DIGESTS, 3: "3" * 64}
        assert later.parts.known(OTHER, 10) == {}


def test_parts_of_another_size_are_other_parts(state: State) -> None:
    state.parts.note(ONE, "u1", 10, DIGESTS)
    assert state.parts.known(ONE, 20) == {}

    state.parts.note(ONE, "u2", 20, {7: "7" * 64})

    assert state.parts.known(ONE, 20) == {7: "7" * 64}
    assert state.parts.known(ONE, 10) == {}


def test_what_is_forgotten_is_gone_and_nothing_else(state: State) -> None:
    state.parts.note(ONE, "u1", 10, DIGESTS)
    state.parts.note(OTHER, "u2", 10, DIGESTS)

    state.parts.forget(ONE)

    assert state.parts.known(ONE, 10) == {}
    assert state.parts.known(OTHER, 10) == DIGESTS


def test_old_notes_are_dropped(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    state.parts.note(ONE, "u1", 10, DIGESTS)
    noted = clock.now()
    monkeypatch.setattr(clock, "now", lambda: noted + 3600)
    state.parts.note(OTHER, "u2", 10, DIGESTS)

    state.parts.forget_older(1800)

    assert state.parts.known(ONE, 10) == {}
    assert state.parts.known(OTHER, 10) == DIGESTS


def test_a_memory_of_the_first_schema_is_carried_on(path: Path, state: State) -> None:
    state.put("key", "value")
    state.close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP TABLE uploads; DROP TABLE upload_parts; DROP TABLE former;"
            " ALTER TABLE remote DROP COLUMN base; PRAGMA user_version = 1;"
        )

    with closing(State(path)) as later:
        later.parts.note(ONE, "u1", 10, DIGESTS)
        assert (later.get("key"), later.parts.known(ONE, 10)) == ("value", DIGESTS)
