"""What a running agent notes of itself: at once when it turns to something else, else now and then."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from agent import board
from agent.actions import Action, Forget, Upload
from agent.board import Board
from agent.engine import Engine
from agent.guard import Halt
from agent.model import FileStat, LocalEntry, LocalKind, Trouble
from agent.progress import FileProgress, Progress
from agent.state import PHASE, SYNCED_AT, State

STAT = FileStat(1, 2, 3, 4, 5, 0o644)


@dataclass
class _Executor:
    in_flight: frozenset[str] = frozenset()


@dataclass
class _Engine:
    """What the board asks an engine."""

    planned: tuple[Action, ...] = ()
    troubles: dict[str, Trouble] = field(default_factory=dict)
    warnings: dict[str, Trouble] = field(default_factory=dict)
    executor: _Executor = field(default_factory=_Executor)


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(board, "time", clock)
    return clock


class _Noted(State):
    """A memory that counts the notes."""

    notes = 0

    def put(self, key: str, value: str) -> None:
        self.notes += key == PHASE
        super().put(key, value)

    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.get(PHASE) or "{}")
        return said


def test_the_same_is_not_noted_again_and_again(clock: _Clock) -> None:
    state, engine = _Noted(Path("none"), copy=True), _Engine()
    made = Board(state, cast("Engine", engine), lambda: Progress("syncing"))
    for _ in range(5):
        made.tell("in_step")
    assert (state.notes, state.get(SYNCED_AT) is not None) == (1, True)
    made.tell("halted", Halt("disk_full", "No room"))
    assert (state.said()["halted"], state.said()["halt_code"]) == ("No room", "disk_full")
    made.stopped()
    assert (state.said()["phase"], state.said()["halted"]) == ("stopped", "No room")
    made.tell("in_step")
    assert (state.notes, state.said()["halted"]) == (4, None)
    clock.now += 61
    made.tell("in_step")
    assert state.notes == 5, "so that it shows that somebody is there"


def test_progress_is_noted_once_a_second(clock: _Clock) -> None:
    state, moved = _Noted(Path("none"), copy=True), [0]
    engine = _Engine(planned=(Forget("n"),))
    made = Board(state, cast("Engine", engine), lambda: Progress("syncing", bytes_done=moved[0]))
    made.tell("working")
    for _ in range(1000):
        moved[0] += 1
        made.tick()
        made.tell("working")
    assert state.notes == 1
    clock.now += 1
    made.tick()
    assert (state.notes, state.said()["progress"]["bytes_done"]) == (2, 1000)


def test_a_rate_that_only_fades_is_not_noted(clock: _Clock) -> None:
    state, engine = _Noted(Path("none"), copy=True), _Engine()
    fading = [Progress("syncing", 1, 2, 10, 20, rate, 10 / rate, rate) for rate in (5.0, 4.0, 3.0)]
    made = Board(state, cast("Engine", engine), lambda: fading.pop(0))
    for _ in range(3):
        made.tell("working")
    assert (state.notes, state.said()["rate_up"], state.said()["progress"]["eta_seconds"]) == (1, 5, 2)


def test_large_files_are_noted_once_a_second_with_their_rates(clock: _Clock) -> None:
    state, moved = _Noted(Path("none"), copy=True), [0]

    def now() -> Progress:
        return Progress("syncing", transfers=(FileProgress("big", "uploading", moved[0], 100, 1.5, 2.25),))

    made = Board(state, cast("Engine", _Engine(planned=(Forget("n"),))), now)
    made.tell("working")
    for _ in range(50):
        moved[0] += 1
        made.tick()
    assert state.notes == 1
    clock.now += 1
    made.tick()
    assert state.notes == 2
    assert state.said()["transfers"] == [
        {
            "path": "big",
            "code": "uploading",
            "bytes_done": 50,
            "bytes_total": 100,
            "rate": 2,
            "eta_seconds": 2,
            "resumed_bytes": 0,
        }
    ]


def test_what_waits_is_counted_and_the_first_of_it_named(clock: _Clock) -> None:
    entries = [LocalEntry(f"{n:03}", LocalKind.FILE, STAT) for n in range(150)]
    entries.append(LocalEntry("caf\udce9", LocalKind.FILE, STAT))
    actions: tuple[Action, ...] = (Forget("id"), *(Upload(entry) for entry in entries))
    engine = _Engine(
        actions, {"x": Trouble("locked", "why")}, executor=_Executor(frozenset({"big", "caf\udce9"}))
    )
    state = _Noted(Path("none"), copy=True)
    Board(state, cast("Engine", engine), lambda: Progress("syncing")).tell("working")
    said = state.said()
    assert (said["to_do"], len(said["waiting"]), said["waiting"][0]) == (152, 100, ["000", "upload"])
    assert said["in_flight"] == ["big", "caf\ufffd"]
    assert said["troubles"] == [["x", "locked", "why"]]


def test_the_last_word_of_a_round_is_noted_though_the_phase_stays(tmp_path: Path, clock: _Clock) -> None:
    """A path that stays out of step keeps the phase at "working"; what was to be done must not stay too."""
    engine = _Engine(planned=(Forget("n"),))
    state = State(tmp_path / "state.db")
    told = Board(state, cast("Engine", engine), lambda: Progress("syncing"))
    told.tell("working")
    engine.planned = ()
    told.tell("working")
    assert json.loads(state.get(PHASE) or "{}")["to_do"] == 0
    state.close()
