"""Carrying out changes of the server's tree: folders, links, moves, attributes, deletions.

They go in batches of operations, each with its own precondition and result. A result is the
server's own row, so it is kept as an observation at once; the feed will say the same again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.actions import (
    CreateFolder,
    CreateSymlink,
    DeleteRemote,
    MoveRemote,
    RemoteChange,
    RotateRemote,
    SetRemote,
)
from agent.damaged import spare
from agent.disk import DiskError
from agent.executor.work import Work, agreed, chunks, row_of, within_64_bits
from agent.model import Kind, LocalEntry, RemoteNode
from agent.parking import parked_name
from libs.contracts.errors import InvalidRequestError, LockstepError, RateLimitedError
from libs.contracts.ids import new_id
from libs.contracts.limits import MAX_BATCH
from libs.contracts.tree import (
    CreateFolder as CreateFolderOp,
)
from libs.contracts.tree import (
    CreateSymlink as CreateSymlinkOp,
)
from libs.contracts.tree import Delete, Move, NodeRow, SetAttributes, TreeOp


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation, and what its success means."""

    op: TreeOp
    path: str
    record: Callable[[NodeRow], None]


class TreeChanges:
    """One round of changes; keys of folders made in it are known to what follows."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._made: dict[str, str] = {}
        """Key of a folder that this round creates → its id."""
        self._failed: set[str] = set()

    def parent_id(self, key: str) -> str | None:
        """Return the id of a parent by its key; None when making it failed."""
        if key in self._failed:
            return None
        return self._made.get(key, key if not key.startswith("+") else None)

    async def apply(self, actions: Sequence[RemoteChange]) -> None:
        """Carry out all but deletions: folders by depth first, then the rest."""
        folders = [a for a in actions if isinstance(a, CreateFolder)]
        for group in chunks(folders, MAX_BATCH):
            steps = [step for a in group if (step := self._folder(a)) is not None]
            await self._send(steps)
        rest = [a for a in actions if not isinstance(a, (CreateFolder, RotateRemote))]
        for other in chunks(rest, MAX_BATCH):
            await self._send([step for a in other if (step := self._step(a)) is not None])
        for action in actions:
            if isinstance(action, RotateRemote):
                await self._send(self._rotation(action))

    async def _send(self, steps: Sequence[_Step]) -> None:
        if not steps:
            return
        try:
            results = await self._work.api.tree_batch([step.op for step in steps])
        except InvalidRequestError as error:
            await self._find_refused(steps, error)
            return
        except RateLimitedError as error:  # waited out in vain: the rest of the round goes on
            for step in steps:
                self._set_aside(step, error)
            return
        with self._work.state.transaction():
            for step, result in zip(steps, results, strict=True):
                if result.ok:
                    row = row_of(result)
                    spare(self._work.state, [row])
                    self._work.state.put_remote([RemoteNode.of(row)])
                    step.record(row)
                    self._work.done(step.path)
                else:
                    self._forget_made(step)
                    self._work.refused(step.path, result)

    async def _find_refused(self, steps: Sequence[_Step], error: InvalidRequestError) -> None:
        """One operation that the server cannot read must not hold up the others of its batch."""
        if len(steps) == 1:
            self._set_aside(steps[0], error)
            return
        for step in steps:
            await self._send([step])

    def _set_aside(self, step: _Step, error: LockstepError) -> None:
        self._forget_made(step)
        self._work.problem(step.path, error.code, error.detail)

    def _forget_made(self, step: _Step) -> None:
        if isinstance(step.op, CreateFolderOp):
            self._failed.update(key for key, made in self._made.items() if made == step.op.id)

    # One step each --------------------------------------------------------------------------

    def _folder(self, action: CreateFolder) -> _Step | None:
        parent_id = self.parent_id(action.parent_key)
        if parent_id is None:
            return None
        op = CreateFolderOp(id=new_id(), parent_id=parent_id, name=action.name)
        self._made[action.key] = str(op.id)

        def record(row: NodeRow) -> None:
            made = agreed(RemoteNode.of(row), action.entry)
            if action.replaces is not None:
                self._work.state.rebind_folder(action.replaces, made)
            else:
                self._work.state.put_synced([made])

        return _Step(op, action.entry.path, record)

    def _step(self, action: RemoteChange) -> _Step | None:
        match action:
            case CreateSymlink():
                return self._symlink(action)
            case MoveRemote():
                return self._move(action)
            case SetRemote():
                return self._set(action)
            case _:
                raise TypeError(action)

    def _symlink(self, action: CreateSymlink) -> _Step | None:
        parent_id = self.parent_id(action.parent_key)
        if parent_id is None:
            return None
        op = CreateSymlinkOp(
            id=new_id(),
            parent_id=parent_id,
            name=action.name,
            target=action.entry.symlink_target or "",
            mtime_ns=within_64_bits(action.entry.stat.mtime_ns),
        )
        return _Step(op, action.entry.path, lambda row: self._agree(row, action.entry))

    def _agree(self, row: NodeRow, entry: LocalEntry) -> None:
        known = self._work.state.synced.get(row.id)
        self._work.state.put_synced([agreed(RemoteNode.of(row), entry, known)])

    def _move(self, action: MoveRemote) -> _Step | None:
        parent_id = self.parent_id(action.parent_key)
        if parent_id is None:
            return None
        return self._move_step(action, parent_id, action.name, action.node.parent_id, action.node.name)

    def _move_step(
        self, action: MoveRemote, parent_id: str, name: str, from_parent: str, from_name: str
    ) -> _Step:
        op = Move(
            node_id=action.node.id,
            expect_parent_id=from_parent,
            expect_name=from_name,
            parent_id=parent_id,
            name=name,
        )

        def record(row: NodeRow) -> None:
            known = self._work.state.synced.get(row.id)
            if known is not None:
                self._work.state.put_synced([replace(known, parent_id=row.parent_id, name=row.name)])
            self._work.tally.moved += 1

        return _Step(op, action.entry.path if action.entry else action.node.name, record)

    def _rotation(self, action: RotateRemote) -> list[_Step]:
        """Park the first under a free name, let the others take their places, then the first its own.

        All in one batch, which the server carries out in one transaction.
        """
        first, *others = action.moves
        parked = parked_name(new_id())
        steps = [self._move_step(first, first.node.parent_id, parked, first.node.parent_id, first.node.name)]
        steps += [
            self._move_step(move, move.parent_key, move.name, move.node.parent_id, move.node.name)
            for move in reversed(others)
        ]
        steps.append(self._move_step(first, first.parent_key, first.name, first.node.parent_id, parked))
        return steps

    def _set(self, action: SetRemote) -> _Step:
        node, entry = action.node, action.entry
        if node.kind is Kind.SYMLINK:
            op = SetAttributes(node_id=node.id, seen_seq=node.seq, symlink_target=entry.symlink_target)
        else:
            op = SetAttributes(
                node_id=node.id,
                version_id=node.version_id,
                mtime_ns=within_64_bits(entry.stat.mtime_ns),
                executable=self._work.executable(node, entry),
            )
        return _Step(op, entry.path, lambda row: self._agree(row, entry))

    # Deletions ------------------------------------------------------------------------------

    async def delete(self, actions: Sequence[DeleteRemote], *, seen_seq: int) -> None:
        """Tell the server what was deleted here, having looked once more that it is gone."""
        gone: list[DeleteRemote] = []
        for action in actions:
            try:
                if await self._work.on_disk(self._is_gone, action.path):
                    gone.append(action)
                else:
                    self._work.look_again(action.path, "reappeared", "Something is there again")
            except DiskError as error:
                self._work.disk_failed(action.path, error)
        for group in chunks(gone, MAX_BATCH):
            await self._send([self._deletion(action, seen_seq) for action in group])

    def _is_gone(self, path: str) -> bool:
        """Whether nothing is there, or only what the plan knew to be something else."""
        found, known = self._work.disk.stands(path), self._work.state.local.get(path)
        if found is None or known is None:
            return found is None
        return (found.kind, found.stat.dev, found.stat.ino) == (known.kind, known.stat.dev, known.stat.ino)

    def _deletion(self, action: DeleteRemote, seen_seq: int) -> _Step:
        node = action.node
        if node.kind is Kind.FILE:
            op = Delete(node_id=node.id, version_id=node.version_id)
        else:
            op = Delete(node_id=node.id, seen_seq=seen_seq)

        def record(row: NodeRow) -> None:
            self._work.state.drop_synced([row.id])
            self._work.tally.deleted += action.files

        return _Step(op, action.path, record)
