"""What the agent says of itself, kept in `state.db`, and what `status` makes of it."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from agent import clock
from agent.actions import Action
from agent.credentials import CredentialStore
from agent.engine import Engine
from agent.guard import Halt
from agent.lock import is_locked
from agent.planner import paths_of
from agent.progress import FileProgress, Progress
from agent.rates import WINDOW
from agent.settings import Settings, read_choices
from agent.state import PHASE, SYNCED_AT, Problem, State, Summary, memory_errors, read_summary
from agent.status import AgentStatus, PathProblem
from agent.wording import Paths, steps_of

_EVERY: Final = 1.0
"""Seconds between two notes of the progress; a change of phase is noted at once."""
_SAME_FOR: Final = 60.0
"""Seconds after which a note that would say the same is made all the same."""
_NAMED: Final = 100
"""How many of the paths that wait are named; all are counted."""


class Board:
    """Notes of a running agent, made in `state`."""

    def __init__(self, state: State, engine: Engine, progress: Callable[[], Progress]) -> None:
        self._state = state
        self._engine = engine
        self._progress = progress
        self._last: dict[str, Any] = {}
        self._at = 0.0
        self._phase = "working"
        self._halt: Halt | None = None

    def tell(self, phase: str, halt: Halt | None = None) -> None:
        """Note what the agent does from now on, and what the last plan left alone.

        A round's last word is always noted: where a path stays out of step for good the phase stays
        "working", and what was to be done before must not stay with it.
        """
        turned = phase != self._phase or halt != self._halt or not self._last
        self._phase, self._halt = phase, halt
        at_rest = not self._engine.planned
        if turned or at_rest or phase != "working" or self._is_due():
            self._note()

    def stopped(self) -> None:
        """Note that the agent ends; what a guard halted for holds until the next run."""
        self.tell("stopped", self._halt)

    def tick(self) -> None:
        """Something moved: note the progress when the last note is old enough."""
        if self._is_due():
            self._note()

    def _is_due(self) -> bool:
        return time.monotonic() - self._at >= _EVERY

    def _note(self) -> None:
        said = self._said()
        lasting = _without_rates(said)
        if lasting == self._last and time.monotonic() - self._at < _SAME_FOR:
            return
        self._last, self._at = lasting, time.monotonic()
        now = clock.now()
        with self._state.transaction():
            self._state.put(PHASE, json.dumps({**said, "at": now}))
            if self._phase == "in_step":
                self._state.put(SYNCED_AT, str(now))

    def _said(self) -> dict[str, Any]:
        engine, halt, progress = self._engine, self._halt, self._progress()
        return {
            "phase": self._phase,
            "halted": None if halt is None else halt.detail,
            "halt_code": None if halt is None else halt.code,
            "to_do": len(engine.planned),
            "waiting": list(_waiting(engine.planned)),
            "in_flight": sorted(map(printable, engine.executor.in_flight)),
            "transfers": [file.as_json() for file in progress.transfers],
            "progress": progress.as_json(),
            "rate_up": round(progress.rate_up),
            "rate_down": round(progress.rate_down),
            "warnings": [[warning.code, warning.detail] for warning in engine.warnings.values()],
            "troubles": [[printable(p), t.code, t.detail] for p, t in sorted(engine.troubles.items())],
        }


def _without_rates(said: dict[str, Any]) -> dict[str, Any]:
    """Return a note without what passes with time alone: for that no other note is made."""
    fleeting = {"rate_up", "rate_down", "transfers", "progress"}
    kept = {key: value for key, value in said.items() if key not in fleeting}
    bytes_done = [file["bytes_done"] for file in said["transfers"]]
    progress = {key: value for key, value in said["progress"].items() if key not in {"rate", "eta_seconds"}}
    return {**kept, "moved": bytes_done, "progress": progress}


def _waiting(actions: Iterable[Action]) -> Iterable[list[str]]:
    """Return path and name of what is to be done, of the first few."""
    for action in islice((action for action in actions if paths_of(action)), _NAMED):
        step = steps_of([action], Paths({}))[0]
        yield [printable(min(paths_of(action))), step.kind]


def printable(path: str) -> str:
    """Return a path as text that any output can hold."""
    return os.fsencode(path).decode(errors="replace")


# Problems -------------------------------------------------------------------------------------


def problems_of(state: State, engine: Engine) -> tuple[PathProblem, ...]:
    """Return every path that is not in step, with its reason."""
    found = {
        path: PathProblem(printable(path), trouble.code, trouble.detail)
        for path, trouble in engine.troubles.items()
    }
    for problem in state.problems.values():
        found[problem.path] = path_problem(problem)
    return tuple(found[path] for path in sorted(found))


def path_problem(problem: Problem) -> PathProblem:
    """Return a problem as reports show it."""
    return PathProblem(printable(problem.path), problem.code, problem.detail, problem.retry_at)


# Status ---------------------------------------------------------------------------------------


def read_status(settings: Settings) -> AgentStatus:
    """Return what this device knows, without asking the server and while an agent may run.

    Raises `LocalError` ("state_too_new", "state_damaged").
    """
    credentials = CredentialStore(settings).load()
    folder = read_choices(settings).folder
    if credentials is None:
        return AgentStatus(folder=folder)
    linked = AgentStatus(
        server=credentials.server,
        device=credentials.device_name,
        device_id=credentials.device_id,
        folder=folder,
        running=is_locked(settings.lock_path),
    )
    with memory_errors():
        summary = read_summary(settings.state_path)
    return linked if summary is None else _with_summary(linked, summary)


def _with_summary(linked: AgentStatus, summary: Summary) -> AgentStatus:
    said = json.loads(summary.phase or "{}")
    problems = {path: PathProblem(path, code, detail) for path, code, detail in said.get("troubles", [])}
    problems.update({printable(p.path): path_problem(p) for p in summary.problems})
    return replace(
        linked,
        files=summary.files,
        pending=int(said.get("to_do", 0)),
        waiting=tuple((path, kind) for path, kind in said.get("waiting", []) if path not in problems),
        problems=tuple(problems[path] for path in sorted(problems)),
        synced=summary.synced_at is not None,
        phase=phase_now(said, paused=summary.paused),
        halted=said.get("halted"),
        halt_code=said.get("halt_code"),
        paused=summary.paused,
        **(_moving(said) if linked.running else {}),
    )


def _moving(said: dict[str, Any]) -> dict[str, Any]:
    """Return what holds only while the agent runs. Rates that were noted long ago are over.

    While bytes move a note is made every second: an old one means that none have moved since.
    """
    still = {"rate": 0, "eta_seconds": None} if clock.now() - said.get("at", 0.0) > WINDOW else {}
    progress = said.get("progress")
    return {
        "transfers": tuple(FileProgress(**{**file, **still}) for file in said.get("transfers", ())),
        "warnings": tuple((code, detail) for code, detail in said.get("warnings", ())),
        "progress": progress and {**progress, **still},
        "rate_up": 0 if still else said.get("rate_up", 0),
        "rate_down": 0 if still else said.get("rate_down", 0),
    }


def phase_now(said: dict[str, Any], *, paused: bool) -> str:
    """Return what a running agent does: what it said, unless the user has paused or resumed since."""
    if paused:
        return "paused"
    phase = str(said.get("phase", "working"))
    return "working" if phase == "paused" else phase
