"""What a sync would do, with nothing done: on a copy of the memory, with a disk that is only read.

It takes no lock, and writes neither into the folder, nor to the server, nor into `state.db`.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent.actions import Action, Download, Plan
from agent.board import printable
from agent.disk import Disk, DiskError
from agent.disk.temps import TMP
from agent.errors import ExitCode, LocalError
from agent.feed import Feed
from agent.guard import (
    Deletions,
    Halt,
    deletions_of,
    emptied_halt,
    fitting,
    mass_deletion_halt,
    root_halt,
)
from agent.model import RemoteNode, SyncedNode
from agent.observer import Observer
from agent.planning import Planning, synced_files, waiting
from agent.rehearsal import Rehearsal, Round
from agent.remote import Api
from agent.settings import Settings
from agent.state import PAUSED, State, StateDamagedError, memory_errors
from agent.status import PathProblem, human_size
from agent.wording import QUIET, TEXTS, Paths, Step, steps_of
from libs.contracts.paths import STATE_FOLDER

_SHOWN: Final = 200
"""Steps that people are shown; scripts get all."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a sync would do. `halts` are the guards that would stop it."""

    folder: str
    steps: tuple[Step, ...] = ()
    problems: tuple[PathProblem, ...] = ()
    halts: tuple[Halt, ...] = ()
    paused: bool = False
    whole: bool = True
    """Whether the steps lead to a state of rest; else they are only the beginning."""
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """3 when a guard would halt, 5 when something is to be done or is wrong, else 0."""
        if self.halts:
            return ExitCode.HALTED
        return ExitCode.PROBLEMS if self._loud() or self.problems else ExitCode.DONE

    def _loud(self) -> list[Step]:
        return [step for step in self.steps if step.kind not in QUIET]

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it."""
        return {
            "in_step": self.exit_code is ExitCode.DONE,
            "folder": self.folder,
            "actions": [step.as_json() for step in self.steps],
            "totals": self.totals,
            "problems": [problem.as_json() for problem in self.problems],
            "guards": [{"code": halt.code, "detail": halt.detail} for halt in self.halts],
            "halted": self.halts[0].detail if self.halts else None,
            "paused": self.paused,
            "whole": self.whole,
        }

    def as_text(self) -> str:
        """Return it as a person reads it."""
        steps = self._loud()
        lines = [f"  {printable(step.as_text())}" for step in steps[:_SHOWN]]
        if len(steps) > _SHOWN:
            lines.append(f"  and {len(steps) - _SHOWN:,} more")
        lines += [f"  {p.path}: {p.detail} ({p.code})" for p in self.problems]
        lines += [f"Would halt: {halt.detail} ({halt.code})" for halt in self.halts]
        if not self.whole:
            lines.append("These are the next steps only: more would follow.")
        if self.paused:
            lines.append("This device is paused: nothing is done until `lockstep resume`.")
        return "\n".join([self._headline(steps), *lines])

    def _headline(self, steps: list[Step]) -> str:
        if not steps:
            return "Not in step." if self.problems or self.halts else "In step: nothing to do."
        up, down = (human_size(self.totals[f"{way}_bytes"]) for way in ("upload", "download"))
        return f"{len(steps):,} to do, at most {up} to send and {down} to fetch:"


async def preview(settings: Settings, api: Api, folder: Path) -> Preview:
    """Look at folder and server, and return what a sync would do.

    Raises `LocalError` ("state_too_new", "folder_unusable"), `UnavailableError`,
    `UnauthenticatedError`.
    """
    state = copied_memory(settings, api.credentials.namespace_id)
    try:
        return await _Look(settings, api, folder, state).preview()
    finally:
        state.close()


class _Look:
    """One look at both sides."""

    def __init__(self, settings: Settings, api: Api, folder: Path, state: State) -> None:
        self._folder = folder
        self._state = state
        self._root_id = api.credentials.namespace_id
        self._feed = Feed(state, api, self._root_id)
        self._disk = Disk(folder)
        self._disk.folds_names = folds_names(folder)
        self._observer = Observer(state, self._disk, settings)
        self._planning = Planning(
            state, self._observer, self._disk, self._root_id, api.credentials.device_name
        )

    async def preview(self) -> Preview:
        halt = self._root_halt()
        if halt is not None:
            return self._found((), (halt,))
        await self._feed.pull()
        if self._folder.is_dir():
            await self._scan()
        halt = emptied_halt(len(self._state.local), synced_files(self._state), allowed=False)
        if halt is not None:
            return self._found((), (halt,))
        # `sync` begins by trying again whatever failed before.
        self._state.drop_problems(list(self._state.problems))
        return self._rehearse()

    def _root_halt(self) -> Halt | None:
        """Return what a sync would halt for; a folder that was never synced may even be missing."""
        found, expected = self._disk.root_state(), self._state.get("root_id")
        if expected is not None:
            return root_halt(found.kind.value, marker=found.marker, expected=expected)
        if found.kind.value in {"not_a_folder", "unreadable"}:
            raise LocalError(f"{self._folder} is not a folder that can be read", code="folder_unusable")
        return None

    async def _scan(self) -> None:
        with _disk_errors():
            while (scan := self._observer.begin()) is not None:
                self._observer.record(await asyncio.to_thread(scan))

    def _rehearse(self) -> Preview:
        paths = node_paths(self._state, self._root_id)
        guards, room = _Guards(self._state), _Room(self._disk, self._folder)
        steps: list[Step] = []
        halts: list[Halt] = []
        last: Round | None = None
        plan = lambda: room.fitting(self._planning.plan(waiting(self._state)))  # noqa: E731 - read in one line
        for last in Rehearsal(self._state, plan).rounds():
            halts += guards.ask(last.plan.actions)
            room.take(last.done)
            steps += steps_of(last.done, Paths(paths))
        whole = last is None or not last.plan.actions
        troubles = {} if last is None else last.plan.troubles
        problems = tuple(PathProblem(printable(p), t.code, t.detail) for p, t in sorted(troubles.items()))
        return self._found(tuple(steps), tuple(halts), problems, whole=whole)

    def _found(
        self,
        steps: tuple[Step, ...],
        halts: tuple[Halt, ...],
        problems: tuple[PathProblem, ...] = (),
        *,
        whole: bool = True,
    ) -> Preview:
        paused = self._state.get(PAUSED) is not None
        once = tuple({halt.code: halt for halt in halts}.values())
        return Preview(str(self._folder), steps, problems, once, paused, whole, totals_of(steps))


class _Guards:
    """Asks the guards of each plan what the engine would ask; what was deleted so far counts."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._deleted = Deletions()

    def ask(self, actions: tuple[Action, ...]) -> list[Halt]:
        """Return why the engine would not carry out a plan."""
        planned = deletions_of(actions)
        halt = mass_deletion_halt(
            planned, recent=self._deleted, files=synced_files(self._state), allowed=False
        )
        self._deleted += planned
        return [] if halt is None else [halt]


class _Room:
    """The room on the disk, less what would have been fetched so far."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._free = _free_bytes(folder)
        self._arrived = _arrived(disk, folder)

    def fitting(self, found: Plan) -> Plan:
        """Return what of a plan fits; all, where nobody can say."""
        if self._free is None:
            return found
        return fitting(found, free_bytes=self._free, arrived=self._bytes_here)

    def take(self, done: tuple[Action, ...]) -> None:
        """Count what a plan fetches."""
        if self._free is not None:
            fetched = (action for action in done if isinstance(action, Download))
            self._free -= sum(max(0, action.node.size - self._bytes_here(action)) for action in fetched)

    def _bytes_here(self, action: Download) -> int:
        return self._arrived.get(f"{action.node.id}.{action.node.version_id}", 0)


def _arrived(disk: Disk, folder: Path) -> dict[str, int]:
    """Return the bytes of downloads that were begun; only where the agent's folder is there already."""
    if not (folder / STATE_FOLDER / TMP).is_dir():
        return {}
    with suppress(DiskError):
        return {temp.name: temp.held for temp in disk.leftover_temps()}
    return {}


def _free_bytes(folder: Path) -> int | None:
    """Return the room where the folder is, or is to be made."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            found = os.statvfs(place)
            return found.f_bavail * found.f_frsize
    return None


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except DiskError as error:
        raise LocalError(f"The folder cannot be read: {error.detail}", code="folder_unusable") from error


# What `why` needs too -------------------------------------------------------------------------


def copied_memory(settings: Settings, namespace_id: str) -> State:
    """Return a copy of this account's memory; an empty one where a sync would begin a new one.

    Raises `LocalError` "state_too_new".
    """
    with memory_errors(), suppress(StateDamagedError):
        state = State(settings.state_path, copy=True)
        if state.get("namespace_id") in {None, namespace_id}:
            return state
        state.close()
    return State(settings.state_path.with_name("no state"), copy=True)


def folds_names(folder: Path) -> bool:
    """Say whether a disk takes other spellings of a name for the same, without trying it out."""
    own = folder / STATE_FOLDER
    name = own if own.exists() else folder
    other = name.with_name(name.name.swapcase())
    return other != name and other.exists() and name.samefile(other)


def node_paths(state: State, root_id: str) -> dict[str, str]:
    """Return node id → path: on the server, or else where both sides last agreed on."""
    paths = paths_in(state.synced, root_id)
    return {**paths, **paths_in(state.remote, root_id)}


def paths_in(nodes: dict[str, SyncedNode] | dict[str, RemoteNode], root_id: str) -> dict[str, str]:
    """Return node id → path of one tree, as far as it hangs on the root; the root's is empty."""
    paths = {root_id: ""}
    children: dict[str, list[tuple[str, str]]] = {}
    for node in nodes.values():
        children.setdefault(node.parent_id, []).append((node.id, node.name))
    level = [root_id]
    while level:
        below = []
        for parent in level:
            for node_id, name in children.get(parent, ()):
                paths[node_id] = f"{paths[parent]}/{name}" if paths[parent] else name
                below.append(node_id)
        level = below
    return paths


def totals_of(steps: tuple[Step, ...]) -> dict[str, int]:
    """Return how many steps of each kind there are, the bytes either way, and files deleted."""
    totals = {kind: sum(step.kind == kind for step in steps) for kind in TEXTS if kind not in QUIET}
    for kind in ("upload", "download"):
        totals[f"{kind}_bytes"] = sum(step.bytes for step in steps if step.kind == kind)
    totals["deleted_files"] = sum(step.files for step in steps)
    return totals
