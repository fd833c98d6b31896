"""Carrying out what changes the memory and the disk, without the network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agent.actions import (
    Bind,
    Forget,
    KeepCopy,
    LocalMove,
    MakeFolder,
    MoveLocal,
    RemoveLocal,
    RotateLocal,
    SetLocal,
    SettlePlace,
    StateAction,
)
from agent.disk import DiskError
from agent.executor.work import Work, agreed, chunks
from agent.model import Kind, LocalEntry, LocalKind, RemoteNode

_GROUP: Final = 100
"""Results recorded in one transaction."""


async def remember(work: Work, actions: Sequence[StateAction]) -> None:
    """Carry out what only concerns the memory (and attributes of files)."""
    for group in chunks(actions, 1000):
        binds = [action for action in group if isinstance(action, Bind)]
        entries = {action.entry.path: await _with_attributes(work, action) for action in binds}
        _look_at_other_names(work, [b.entry for b in binds if entries[b.entry.path] is not b.entry])
        with work.state.transaction():
            for action in group:
                _remember(work, action, entries)


def _remember(work: Work, action: StateAction, entries: dict[str, LocalEntry]) -> None:
    match action:
        case Forget():
            work.state.drop_synced([action.node_id])
        case SettlePlace():
            known = work.state.synced[action.node.id]
            work.state.put_synced([replace(known, parent_id=action.node.parent_id, name=action.node.name)])
        case Bind():
            entry = entries[action.entry.path]
            work.state.put_local([entry])
            made = agreed(action.node, entry)
            if action.replaces is not None:
                work.state.rebind_folder(action.replaces, made)
            else:
                work.state.put_synced([made])
            work.done(action.entry.path)
    work.progressed = True


async def _with_attributes(work: Work, action: Bind) -> LocalEntry:
    """Give the file the server's attributes; what the disk refuses stays as it is."""
    node, entry = action.node, action.entry
    same = (entry.stat.mtime_ns, entry.stat.executable) == (node.mtime_ns, node.executable)
    if node.kind is not Kind.FILE or same:
        return entry
    try:
        return await work.on_disk(
            work.disk.set_attributes, entry.path, entry, mtime_ns=node.mtime_ns, executable=node.executable
        )
    except DiskError:
        work.dirty.add(entry.path)
        return entry


# Moves ----------------------------------------------------------------------------------------


async def move(work: Work, actions: Sequence[LocalMove]) -> None:
    """Carry out renames on disk, one after the other: each may change the paths of the next."""
    for action in actions:
        try:
            match action:
                case KeepCopy():
                    await _keep_copy(work, action)
                case MoveLocal():
                    await _move(work, action)
                case RotateLocal():
                    await _rotate(work, action)
        except DiskError as error:
            for path in _sources(action):
                work.disk_failed(path, error)


def _sources(action: LocalMove) -> list[str]:
    return [m.entry.path for m in action.moves] if isinstance(action, RotateLocal) else [action.entry.path]


def _now_at(work: Work, entry: LocalEntry) -> bool:
    """Whether the memory still has the entry at its path (an earlier rename may have moved it)."""
    known = work.state.local.get(entry.path)
    return known is not None and known.stat.ino == entry.stat.ino


async def _keep_copy(work: Work, action: KeepCopy) -> None:
    if not _now_at(work, action.entry):
        work.dirty.add(action.entry.path)
        return
    if action.node_id is not None:
        # First the memory: whether or not the rename then happens, the next plan ends the same.
        work.state.drop_synced([action.node_id])
    moved = await work.on_disk(work.disk.move, action.entry.path, action.to, expect=action.entry)
    with work.state.transaction():
        _moved(work, action.entry.path, moved)
    work.tally.conflicts += 1


async def _move(work: Work, action: MoveLocal) -> None:
    if not _now_at(work, action.entry):
        work.dirty.add(action.entry.path)
        return
    moved = await work.on_disk(work.disk.move, action.entry.path, action.to, expect=action.entry)
    with work.state.transaction():
        _moved(work, action.entry.path, moved)
        _settle(work, action.node)
    work.tally.moved += 1


def _moved(work: Work, source: str, entry: LocalEntry) -> None:
    """Record that what stood at `source` stands where `entry` says, with all that is in it."""
    work.state.move_local(source, entry.path)
    work.state.put_local([entry])
    if entry.kind is LocalKind.FILE and entry.content_hash is None:
        work.dirty.add(entry.path)
    work.done(source)


def _settle(work: Work, node: RemoteNode) -> None:
    known = work.state.synced.get(node.id)
    if known is not None:
        work.state.put_synced([replace(known, parent_id=node.parent_id, name=node.name)])


async def _rotate(work: Work, action: RotateLocal) -> None:
    """Exchange the first place with each of the others in turn: then each is where the next was."""
    if not all(_now_at(work, m.entry) for m in action.moves):
        work.dirty.update(_sources(action))
        return
    first = action.moves[0].entry.path
    for index in range(1, len(action.moves)):
        other = action.moves[index].entry.path
        here, there = work.state.local[first], work.state.local[other]
        now = await work.on_disk(work.disk.exchange, first, other, expect_one=here, expect_other=there)
        with work.state.transaction():
            work.state.swap_local(first, other)
            work.state.put_local(now)
            _settle(work, action.moves[index - 1].node)
            work.done(first, other)
    _settle(work, action.moves[-1].node)
    work.tally.moved += len(action.moves)


# Folders, attributes, removals ------------------------------------------------------------------


async def make_folders(work: Work, actions: Sequence[MakeFolder]) -> None:
    """Make the server's folders, parents first."""
    for group in chunks(actions, _GROUP):
        made: list[tuple[MakeFolder, LocalEntry]] = []
        for action in group:
            try:
                made.append((action, await work.on_disk(work.disk.make_folder, action.path)))
            except DiskError as error:
                work.disk_failed(action.path, error)
        with work.state.transaction():
            work.state.put_local([entry for _, entry in made])
            work.state.put_synced([agreed(action.node, entry) for action, entry in made])
            work.done(*(action.path for action, _ in made))


async def set_attributes(work: Work, actions: Sequence[SetLocal]) -> None:
    """Set the server's attributes on files whose content is as agreed."""
    for action in actions:
        node, entry = action.node, action.entry
        try:
            changed = await work.on_disk(
                work.disk.set_attributes,
                entry.path,
                entry,
                mtime_ns=node.mtime_ns,
                executable=work.merged_bit(node, entry),
            )
        except DiskError as error:
            work.disk_failed(entry.path, error)
            continue
        with work.state.transaction():
            work.state.put_local([changed])
            known = work.state.synced[node.id]
            stat = work.as_told(node, changed)
            attributes = replace(known, mtime_ns=node.mtime_ns, executable=node.executable, stat=stat)
            work.state.put_synced([attributes])
            work.done(entry.path)
    _look_at_other_names(work, [action.entry for action in actions])


def _look_at_other_names(work: Work, entries: Sequence[LocalEntry]) -> None:
    """A hard link's other names have the attributes now that were set through one of them."""
    inodes = {(entry.stat.dev, entry.stat.ino) for entry in entries}
    own = {entry.path for entry in entries}
    for path, known in work.state.local.items() if inodes else ():
        if (known.stat.dev, known.stat.ino) in inodes and path not in own:
            work.dirty.add(path)


async def remove(work: Work, actions: Sequence[RemoveLocal]) -> None:
    """Put what the server deleted into the trash, what is inside before its folder."""
    for group in chunks(actions, _GROUP):
        removed: list[RemoveLocal] = []
        for action in group:
            try:
                await work.on_disk(
                    work.disk.remove, action.entry.path, action.entry, keep_name=work.keep_name
                )
                removed.append(action)
            except DiskError as error:
                work.disk_failed(action.entry.path, error)
        with work.state.transaction():
            work.state.drop_local([action.entry.path for action in removed])
            work.state.drop_synced([action.synced.id for action in removed])
            work.done(*(action.entry.path for action in removed))
        work.tally.deleted += sum(action.synced.kind is not Kind.FOLDER for action in removed)
