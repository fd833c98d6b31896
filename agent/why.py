"""Finding out why a path is in step or not: from what the memory holds of it, and the next plans.

It works on a copy of the memory while an agent runs, asks no server, and looks at the disk only at
the one path and at the ignore rules.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.board import phase_now, printable
from agent.credentials import DeviceCredentials
from agent.disk import Disk, DiskError
from agent.errors import LocalError
from agent.explanation import Explanation, Sides, reasoned
from agent.identity import identify
from agent.ignore import Match
from agent.lock import is_locked
from agent.model import LocalEntry, LocalKind, Trouble
from agent.observer import Observer
from agent.planning import Planning, waiting
from agent.preview import copied_memory, folds_names, node_paths, paths_in
from agent.rehearsal import Rehearsal
from agent.settings import Settings
from agent.state import PAUSED, PHASE, State
from agent.verdict import find_rule, is_folder_here, located, synced_folder
from agent.wording import QUIET, Paths, Step, steps_of
from libs.contracts.paths import name_key


def explain(settings: Settings, credentials: DeviceCredentials, text: str) -> Explanation:
    """Say why a path is in step or not. Blocks.

    Raises `LocalError` ("no_folder", "outside_folder", "unknown_path", "state_too_new").
    """
    folder = synced_folder(settings)
    path = located(folder, text)
    state = copied_memory(settings, credentials.namespace_id)
    try:
        found = _Search(settings, credentials, folder, state, path).explain()
    finally:
        state.close()
    if found is None:
        raise _unknown(folder, text, path)
    return found


def _unknown(folder: Path, text: str, path: str) -> LocalError:
    if text.startswith("/") and Path(text).exists():
        return LocalError(f"{printable(text)} is not in {folder}", code="outside_folder")
    return LocalError(
        f"Neither the server nor {folder} has anything at {printable(path)}", code="unknown_path"
    )


@dataclass(slots=True)
class _Search:
    """One look at the memory."""

    settings: Settings
    credentials: DeviceCredentials
    folder: Path
    state: State
    path: str
    disk: Disk = field(init=False)
    observer: Observer = field(init=False)
    remote_paths: dict[str, str] = field(init=False)
    synced_paths: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        root_id = self.credentials.namespace_id
        self.disk = Disk(self.folder)
        self.disk.folds_names = folds_names(self.folder)
        self.observer = Observer(self.state, self.disk, self.settings)
        self.observer.read_rules()
        self.remote_paths = paths_in(self.state.remote, root_id)
        self.synced_paths = paths_in(self.state.synced, root_id)
        self.path = self._spelling()

    def explain(self) -> Explanation | None:
        """Return what there is to say; None when no side has anything at the path."""
        sides, found_here = self._sides(), self._look()
        is_folder = self._is_folder(sides)
        match = find_rule(self.observer.rules, self.path, is_folder=is_folder)
        problem = self.state.problems.get(self.path)
        if not (self.path == "" or sides.known() or found_here or match or problem):
            return None
        steps, below, troubles = self._rehearse(sides)
        said = json.loads(self.state.get(PHASE) or "{}")
        running, paused = is_locked(self.settings.lock_path), self.state.get(PAUSED) is not None
        known = Explanation(
            self.path,
            "in_step",
            "It was deleted on both sides" if sides.gone else "Both sides agree, as last seen",
            sides,
            steps=steps,
            below=below + self._problems_below(troubles),
            problem=problem,
            trouble=troubles.get(self.path) or self._trouble_above() or self._no_room(said, steps),
            match=match,
            transferring=running and printable(self.path) in said.get("in_flight", ()),
            running=running,
            phase=phase_now(said, paused=paused) if running else "stopped",
            paused=paused,
            halted=said.get("halted"),
        )
        return reasoned(known, said.get("halt_code"), changed=self._changed(sides, found_here, match))

    # What is where ------------------------------------------------------------------------

    def _sides(self) -> Sides:
        local = self.state.local.get(self.path)
        key = None if local is None else self._key(local)
        remote_id = self._at(self.remote_paths, live=True) or key
        synced_id = self._at(self.synced_paths) or key
        if remote_id is None or remote_id not in self.state.remote:
            remote_id = synced_id if synced_id in self.state.remote else self._at(self.remote_paths)
        remote = self.state.remote.get(remote_id or "")
        synced = self.state.synced.get(synced_id or (remote_id or ""))
        return Sides(
            remote,
            local,
            synced,
            None if remote is None else self.remote_paths.get(remote.id),
            None if synced is None else self.synced_paths.get(synced.id),
            gone=remote is not None and not self._lives(remote.id),
        )

    def _spelling(self) -> str:
        """Return the path as it is spelt here, or else on the server: Unicode has several forms."""
        if self.path.isascii() or self.path in self.state.local:
            return self.path
        wanted = _form(self.path)
        known = (*self.state.local, *self.remote_paths.values())
        return next((path for path in known if _form(path) == wanted), self.path)

    def _key(self, local: LocalEntry) -> str | None:
        """Return the node that an entry is bound to; one that is where it was needs no search."""
        own = self.state.synced.get(self._at(self.synced_paths) or "")
        if own is not None and own.stat is not None and own.stat.ino == local.stat.ino:
            return own.id
        tree = identify(self.state.local, self.state.synced, self.credentials.namespace_id)
        return next((n.key for n in tree.nodes.values() if n.entry is local and not n.is_new), None)

    def _at(self, paths: dict[str, str], *, live: bool = False) -> str | None:
        """Return the node at the path: one that lives, or the one that was told of last."""
        wanted = _form(self.path)
        found = [key for key, path in paths.items() if path and _form(path) == wanted]
        if live:
            found = [key for key in found if self._lives(key)]
        rows = self.state.remote
        return max(found, key=lambda key: rows[key].seq if key in rows else 0, default=None)

    def _lives(self, node_id: str) -> bool:
        """Whether neither a node nor a folder above it is deleted on the server."""
        seen: set[str] = set()
        while (node := self.state.remote.get(node_id)) is not None and node_id not in seen:
            if node.deleted:
                return False
            seen.add(node_id)
            node_id = node.parent_id
        return True

    def _look(self) -> LocalEntry | None:
        """Return what stands at the path now; None too when that cannot be found out."""
        with suppress(DiskError):
            return self.disk.look(self.path) if self.path else None
        return None

    def _is_folder(self, sides: Sides) -> bool:
        if sides.local is not None:
            return sides.local.kind is LocalKind.FOLDER
        node = sides.synced or sides.remote
        return is_folder_here(self.disk, self.path) or (node is not None and node.kind.value == "folder")

    def _changed(self, sides: Sides, found: LocalEntry | None, match: Match | None) -> bool:
        """Whether the disk shows something else than what was last seen there."""
        known = sides.local
        if match is not None or not self.path or not self.folder.is_dir():
            return False
        if known is None or found is None:
            return known is not found
        if known.kind is not found.kind:
            return True
        return known.kind is not LocalKind.FOLDER and not (
            known.stat.same_content_signs(found.stat) and known.stat.executable == found.stat.executable
        )

    # What would be done -------------------------------------------------------------------

    def _rehearse(self, sides: Sides) -> tuple[tuple[Step, ...], int, dict[str, Trouble]]:
        """Return the steps about the path, how many are about what is below, and what is left alone."""
        planning = Planning(
            self.state, self.observer, self.disk, self.credentials.namespace_id, self.credentials.device_name
        )
        paths = Paths(node_paths(self.state, self.credentials.namespace_id))
        own: list[Step] = []
        keys = sides.keys()
        below: set[str] = set()
        troubles: dict[str, Trouble] = {}
        suspended = waiting(self.state)
        for each in Rehearsal(self.state, lambda: planning.plan(suspended)).rounds():
            troubles.update(each.plan.troubles)
            for step in steps_of(each.plan.actions, paths):
                if self.path in {step.path, step.target} or step.node_id in keys:
                    own.append(step)
                elif step.kind not in QUIET and self._is_below(step.path):
                    below.add(step.path)
        return tuple(dict.fromkeys(own)), len(below), troubles

    def _is_below(self, path: str) -> bool:
        return path != self.path and (self.path == "" or path.startswith(self.path + "/"))

    def _problems_below(self, troubles: Iterable[str]) -> int:
        return sum(self._is_below(path) for path in {*troubles, *self.state.problems})

    def _no_room(self, said: dict[str, Any], steps: tuple[Step, ...]) -> Trouble | None:
        """Return what the agent said of a download that does not fit on the disk: only it has looked."""
        for path, code, detail in said.get("troubles", ()) if steps else ():
            if code == "disk_full" and path == printable(self.path):
                return Trouble(code, detail)
        return None

    def _trouble_above(self) -> Trouble | None:
        """Return what keeps a folder above from being looked into."""
        parent = self.path.rpartition("/")[0]
        while parent:
            entry = self.state.local.get(parent)
            if entry is not None and entry.trouble is not None:
                return replace(entry.trouble, detail=f"In {printable(parent)}: {entry.trouble.detail}")
            parent = parent.rpartition("/")[0]
        return None


def _form(path: str) -> str:
    return "/".join(map(name_key, path.split("/")))
