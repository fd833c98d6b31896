"""What a sync would do, from its first plan to its last: every action done in the memory alone.

A plan holds only what can be done at once, so one plan is not the whole. Here each plan is carried
out on a copy of the memory, as if everything in it succeeded, and the next one is made, until there
is nothing left to do. Nothing here touches disk or network. What others do meanwhile, and what the
disk or the server would refuse, is not in it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import singledispatchmethod
from itertools import count
from typing import Final

from agent import actions as act
from agent.actions import Action, Plan
from agent.executor.work import agreed, within_64_bits
from agent.model import FileStat, Kind, LocalEntry, LocalKind, RemoteNode
from agent.state import State
from libs.contracts.paths import name_key

_MOST_PLANS: Final = 200


class _NotDoneError(Exception):
    """Disk or server would refuse it, as things stand by then; the next plan finds another way."""


@dataclass(frozen=True, slots=True)
class Round:
    """One plan, and those of its actions that can be carried out one after the other."""

    plan: Plan
    done: tuple[Action, ...]


class Rehearsal:
    """Carries out plans in `state`, which is to be a copy."""

    def __init__(self, state: State, plan: Callable[[], Plan]) -> None:
        self._state = state
        self._plan = plan
        self._numbers = count(1)
        self._seq = max((node.seq for node in state.remote.values()), default=0)
        self._made: dict[str, str] = {}
        """Key of a folder that the plan under way creates → its id."""
        self._changed: set[str] = set()
        """Nodes that the plan under way has changed on the server."""
        self._turned = False
        """Whether something that was not done changed what is known all the same."""
        self._taken = {_slot(node): node.id for node in state.remote.values() if not node.deleted}

    def rounds(self) -> Iterator[Round]:
        """Yield each plan with what of it was done; the last one has no actions.

        One of which nothing can be done ends it too: it would come again and again.
        """
        for _ in range(_MOST_PLANS):
            found = self._plan()
            self._turned = False
            done = self._carry_out(found)
            yield Round(found, done)
            if not (done or self._turned):
                return

    def _carry_out(self, found: Plan) -> tuple[Action, ...]:
        self._made.clear()
        self._changed.clear()
        done: list[Action] = []
        with self._state.transaction():
            for action in found.actions:
                with suppress(_NotDoneError):
                    self._do(action)
                    done.append(action)
        return tuple(done)

    # Memory -------------------------------------------------------------------------------

    @singledispatchmethod
    def _do(self, action: Action) -> None:
        raise TypeError(action)

    @_do.register
    def _(self, action: act.Forget) -> None:
        self._state.drop_synced([action.node_id])

    @_do.register
    def _(self, action: act.SettlePlace) -> None:
        self._settle(action.node)

    @_do.register
    def _(self, action: act.Bind) -> None:
        node, entry = action.node, action.entry
        if node.kind is Kind.FILE:
            entry = replace(entry, stat=_dressed(entry.stat, node))
        self._state.put_local([entry])
        self._agree(node, entry, replaces=action.replaces)

    def _agree(self, node: RemoteNode, entry: LocalEntry, *, replaces: str | None = None) -> None:
        if replaces is not None:
            self._state.rebind_folder(replaces, agreed(node, entry))
        else:
            self._state.put_synced([agreed(node, entry)])

    def _settle(self, node: RemoteNode) -> None:
        known = self._state.synced.get(node.id)
        if known is not None:
            self._state.put_synced([replace(known, parent_id=node.parent_id, name=node.name)])

    # The disk -----------------------------------------------------------------------------

    @_do.register
    def _(self, action: act.KeepCopy) -> None:
        self._expect(action.entry)
        if action.node_id is not None:
            self._state.drop_synced([action.node_id])
        self._rename(action.entry.path, action.to)

    @_do.register
    def _(self, action: act.MoveLocal) -> None:
        self._expect(action.entry)
        self._rename(action.entry.path, action.to)
        self._settle(action.node)

    @_do.register
    def _(self, action: act.RotateLocal) -> None:
        first, *others = action.moves
        for move in action.moves:
            self._expect(move.entry)
        for other in others:
            self._state.swap_local(first.entry.path, other.entry.path)
        for move, taken in zip(action.moves, [*others, first], strict=True):
            if move.to != taken.entry.path:  # another spelling of the name
                self._rename(taken.entry.path, move.to)
            self._settle(move.node)

    def _expect(self, entry: LocalEntry) -> None:
        """An earlier rename of the plan may have moved it."""
        known = self._state.local.get(entry.path)
        if known is None or known.stat.ino != entry.stat.ino:
            raise _NotDoneError

    def _rename(self, source: str, target: str) -> None:
        parent = target.rpartition("/")[0]
        if target in self._state.local or (parent and parent not in self._state.local):
            raise _NotDoneError
        self._state.move_local(source, target)

    @_do.register
    def _(self, action: act.MakeFolder) -> None:
        self._appear(action.node, action.path)

    @_do.register
    def _(self, action: act.Download) -> None:
        self._appear(action.node, action.path)

    def _appear(self, node: RemoteNode, path: str) -> None:
        entry = LocalEntry(
            path, LocalKind(node.kind.value), self._stat(node), node.content_hash, node.symlink_target
        )
        self._state.put_local([entry])
        self._agree(node, entry)

    def _stat(self, node: RemoteNode) -> FileStat:
        """Return the stat of something new; no disk has its inode."""
        fresh = FileStat(-1, next(self._numbers), node.size, 0, 0, 0)
        return _dressed(fresh, node)

    @_do.register
    def _(self, action: act.SetLocal) -> None:
        entry = replace(action.entry, stat=_dressed(action.entry.stat, action.node))
        self._state.put_local([entry])
        self._agree(action.node, entry)

    @_do.register
    def _(self, action: act.RemoveLocal) -> None:
        self._state.drop_local([action.entry.path])
        self._state.drop_synced([action.synced.id])

    # The server ---------------------------------------------------------------------------

    def _tell(self, node: RemoteNode) -> RemoteNode:
        """Let the server have a node as it is to be, unless its name is taken there."""
        known = self._state.remote.get(node.id)
        if not node.deleted and self._taken.get(_slot(node), node.id) != node.id:
            raise _NotDoneError
        if known is not None and self._taken.get(_slot(known)) == node.id:
            del self._taken[_slot(known)]
        if not node.deleted:
            self._taken[_slot(node)] = node.id
        self._seq += 1
        row = replace(node, seq=self._seq)
        self._changed.add(row.id)
        self._state.put_remote([row])
        return row

    def _new(self, parent_key: str, name: str, entry: LocalEntry) -> RemoteNode:
        """Let the server have a new node of an entry's kind and content."""
        number = next(self._numbers)
        return self._tell(
            RemoteNode(
                id=f"planned-{number}",
                parent_id=self._id(parent_key),
                name=name,
                kind=Kind(entry.kind.value),
                seq=0,
                version_id=f"planned-{number}" if entry.kind is LocalKind.FILE else None,
                size=entry.stat.size if entry.kind is LocalKind.FILE else 0,
                content_hash=entry.content_hash,
                mtime_ns=within_64_bits(entry.stat.mtime_ns),
                executable=entry.stat.executable and entry.kind is LocalKind.FILE,
                symlink_target=entry.symlink_target,
            )
        )

    def _id(self, key: str) -> str:
        if key.startswith("+") and key not in self._made:
            raise _NotDoneError
        return self._made.get(key, key)

    @_do.register
    def _(self, action: act.CreateFolder) -> None:
        row = self._new(action.parent_key, action.name, action.entry)
        self._made[action.key] = row.id
        self._agree(row, action.entry, replaces=action.replaces)

    @_do.register
    def _(self, action: act.CreateSymlink) -> None:
        self._agree(self._new(action.parent_key, action.name, action.entry), action.entry)

    @_do.register
    def _(self, action: act.Upload) -> None:
        entry = action.entry
        if action.node is None:
            self._agree(self._new(action.parent_key, action.name, entry), entry)
            return
        known, node = self._state.synced.get(action.node.id), self._state.remote[action.node.id]
        if action.undelete and not self._can_come_back(node):
            # What is on disk is looked at as something new.
            self._state.drop_synced([node.id])
            self._turned = True
            raise _NotDoneError
        row = self._tell(
            replace(
                node,
                deleted=False,
                version_id=f"planned-{next(self._numbers)}",
                size=entry.stat.size,
                content_hash=entry.content_hash,
                mtime_ns=within_64_bits(entry.stat.mtime_ns),
                executable=entry.stat.executable,
            )
        )
        self._state.put_synced([agreed(row, entry, known)])

    def _can_come_back(self, node: RemoteNode) -> bool:
        lives = not any(self._state.remote[above].deleted for above in self._above(node.id))
        return lives and _slot(node) not in self._taken

    def _above(self, node_id: str) -> list[str]:
        """Return the folders above a node, as far as the server told of them."""
        found: list[str] = []
        node = self._state.remote[node_id]
        while (above := self._state.remote.get(node.parent_id)) is not None and above.id not in found:
            found.append(above.id)
            node = above
        return found

    @_do.register
    def _(self, action: act.SetRemote) -> None:
        entry, node = action.entry, self._state.remote[action.node.id]
        if node.kind is Kind.SYMLINK:
            row = self._tell(replace(node, symlink_target=entry.symlink_target))
        else:
            row = self._tell(
                replace(
                    node,
                    mtime_ns=within_64_bits(entry.stat.mtime_ns),
                    executable=entry.stat.executable,
                )
            )
        self._state.put_synced([agreed(row, entry, self._state.synced.get(row.id))])

    @_do.register
    def _(self, action: act.MoveRemote) -> None:
        self._move(action)

    @_do.register
    def _(self, action: act.RotateRemote) -> None:
        for move in action.moves:
            self._taken.pop(_slot(self._state.remote[move.node.id]), None)
        for move in action.moves:
            self._move(move)

    def _move(self, move: act.MoveRemote) -> None:
        parent_id = self._id(move.parent_key)
        row = self._tell(replace(self._state.remote[move.node.id], parent_id=parent_id, name=move.name))
        self._settle(row)

    @_do.register
    def _(self, action: act.DeleteRemote) -> None:
        here = self._state.local.get(action.path)
        if here is not None and action.instead is None:
            raise _NotDoneError
        if any(action.node.id in self._above(changed) for changed in self._changed):
            raise _NotDoneError
        self._tell(replace(self._state.remote[action.node.id], deleted=True))
        self._state.drop_synced([action.node.id])


def _slot(node: RemoteNode) -> tuple[str, str]:
    return node.parent_id, name_key(node.name)


def _dressed(stat: FileStat, node: RemoteNode) -> FileStat:
    """Return a stat with the server's time and executable bit."""
    mode = stat.mode | 0o100 if node.executable else stat.mode & ~0o100
    return replace(stat, mtime_ns=node.mtime_ns, mode=mode)
