"""Actions in words: a stable name, where, and how many bytes. Pure.

Names are part of the command line's contract: they are added, never changed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_never

from agent.actions import (
    Action,
    Bind,
    CreateFolder,
    CreateSymlink,
    DeleteRemote,
    Download,
    Forget,
    KeepCopy,
    MakeFolder,
    MoveLocal,
    MoveRemote,
    RemoveLocal,
    RotateLocal,
    RotateRemote,
    SetLocal,
    SetRemote,
    SettlePlace,
    Upload,
)
from agent.model import Kind, LocalEntry

TEXTS = {
    "upload": "send",
    "download": "fetch",
    "create_folder": "make the folder on the server",
    "create_symlink": "make the link on the server",
    "make_folder": "make the folder here",
    "move_local": "move here, as on the server",
    "move_remote": "move on the server, as here",
    "keep_copy": "keep this edit as a conflicted copy",
    "make_way": "move aside for a moment",
    "set_local": "set time and mode here, as on the server",
    "set_remote": "set time, mode or target on the server, as here",
    "delete_remote": "delete on the server, as here",
    "remove_local": "put into the agent's trash, as deleted on the server",
    "remember": "remember that both sides are the same",
    "forget": "forget: it is gone on both sides, or looked at anew",
}
"""Every name, and what it means."""

QUIET = frozenset({"remember", "forget"})
"""What only concerns the agent's memory: neither disk nor server change."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action at one path. `bytes` is the file's size: at most so many travel."""

    kind: str
    path: str
    target: str | None = None
    bytes: int = 0
    files: int = 0
    """How many files it deletes, folders expanded."""
    node_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it."""
        return {"kind": self.kind, "path": self.path, "target": self.target, "bytes": self.bytes}

    def as_text(self) -> str:
        """Return it as a person reads it."""
        where = self.path if self.target is None else f"{self.path} -> {self.target}"
        return f"{where}: {TEXTS[self.kind]}"


class Paths:
    """Names nodes and keys as paths; `known` is node id → path, as far as there is one."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    def of(self, key: str, otherwise: str = "") -> str:
        """Return the path of a node or of an entry that no node is bound to (`+path`)."""
        return key[1:] if key.startswith("+") else self._known.get(key, otherwise)

    def child(self, parent_key: str, name: str) -> str:
        """Return the path of a name in a folder."""
        parent = self.of(parent_key)
        return f"{parent}/{name}" if parent else name


def steps_of(actions: Iterable[Action], paths: Paths) -> list[Step]:
    """Return actions in words; an exchange is one step for each of its moves."""
    return [step for action in actions for step in _steps(action, paths)]


def _steps(action: Action, paths: Paths) -> list[Step]:
    match action:
        case RotateLocal():
            return [_local_move(move) for move in action.moves]
        case RotateRemote():
            return [_remote_move(move, paths) for move in action.moves]
        case Bind() | Forget() | SettlePlace():
            return [_memory(action, paths)]
        case KeepCopy() | MoveLocal() | MakeFolder() | Download() | SetLocal() | RemoveLocal():
            return [_here(action)]
        case _:
            return [_there(action, paths)]


def _memory(action: Bind | Forget | SettlePlace, paths: Paths) -> Step:
    match action:
        case Forget():
            return Step("forget", paths.of(action.node_id, action.node_id), node_id=action.node_id)
        case SettlePlace():
            return Step("remember", paths.of(action.node.id, action.node.name), node_id=action.node.id)
        case Bind():
            kind = "set_local" if sets_attributes(action) else "remember"
            return Step(kind, action.entry.path, node_id=action.node.id)
        case _:
            assert_never(action)


def sets_attributes(action: Bind) -> bool:
    """Whether a binding also sets the server's attributes on the file."""
    node, entry = action.node, action.entry
    same = (entry.stat.mtime_ns, entry.stat.executable) == (node.mtime_ns, node.executable)
    return node.kind is Kind.FILE and not same


def _here(action: KeepCopy | MoveLocal | MakeFolder | Download | SetLocal | RemoveLocal) -> Step:
    match action:
        case KeepCopy():
            kind = "make_way" if action.parked else "keep_copy"
            return Step(kind, action.entry.path, action.to, node_id=action.node_id)
        case MoveLocal():
            return _local_move(action)
        case MakeFolder():
            return Step("make_folder", action.path, node_id=action.node.id)
        case Download():
            return Step("download", action.path, bytes=_size(action), node_id=action.node.id)
        case SetLocal():
            return Step("set_local", action.entry.path, node_id=action.node.id)
        case RemoveLocal():
            files = int(action.synced.kind is not Kind.FOLDER)
            return Step("remove_local", action.entry.path, files=files, node_id=action.synced.id)
        case _:
            assert_never(action)


def _size(action: Download) -> int:
    return action.node.size if action.node.kind is Kind.FILE else 0


def _there(
    action: CreateFolder | CreateSymlink | MoveRemote | SetRemote | Upload | DeleteRemote, paths: Paths
) -> Step:
    match action:
        case CreateFolder():
            return _new("create_folder", action, paths)
        case CreateSymlink():
            return _new("create_symlink", action, paths)
        case MoveRemote():
            return _remote_move(action, paths)
        case SetRemote():
            return Step("set_remote", action.entry.path, node_id=action.node.id)
        case Upload():
            return _upload(action, paths)
        case DeleteRemote():
            return Step("delete_remote", action.path, files=action.files, node_id=action.node.id)
        case _:
            assert_never(action)


def _new(kind: str, action: CreateFolder | CreateSymlink, paths: Paths) -> Step:
    return Step(kind, action.entry.path, _elsewhere(action.entry, action.parent_key, action.name, paths))


def _upload(action: Upload, paths: Paths) -> Step:
    path, size = action.entry.path, action.entry.stat.size
    if action.node is not None:
        return Step("upload", path, bytes=size, node_id=action.node.id)
    return Step("upload", path, _elsewhere(action.entry, action.parent_key, action.name, paths), size)


def _elsewhere(entry: LocalEntry, parent_key: str, name: str, paths: Paths) -> str | None:
    """Return the path on the server where that is not the local one."""
    target = paths.child(parent_key, name)
    return None if target == entry.path else target


def _local_move(move: MoveLocal) -> Step:
    return Step("move_local", move.entry.path, move.to, node_id=move.node.id)


def _remote_move(move: MoveRemote, paths: Paths) -> Step:
    source = paths.of(move.node.id, move.node.name)
    return Step("move_remote", source, paths.child(move.parent_key, move.name), node_id=move.node.id)
