"""Sending content and committing it: small files in batches, a large one by itself.

What is committed is what the scan hashed: a file that is not as the scan saw it, before or after
its bytes were read, is looked at again instead.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from agent.actions import Upload
from agent.disk import DiskError
from agent.errors import LocalError
from agent.executor.difference import FEW
from agent.executor.tree import TreeChanges
from agent.executor.work import Work, agreed, row_of, within_64_bits
from agent.model import LocalEntry, RemoteNode, SyncedNode
from agent.parts import PartMemory
from agent.transfer import DeltaBase, LargeSource, SmallOutcome, SmallSource, SmallUpload, split_batches
from agent.transfer.retry import together
from libs.contracts.api import CompleteItem, UploadState
from libs.contracts.api import Upload as OpenUpload
from libs.contracts.errors import (
    ConflictError,
    InvalidRequestError,
    LockstepError,
    NotFoundError,
    QuotaError,
    RateLimitedError,
    UnavailableError,
)
from libs.contracts.limits import SINGLE_PUT_BYTES
from libs.contracts.tree import CommitTarget, ItemResult, NodeRow

_BATCHES: Final = 2
"""Batches at once: while one is committed the next one's bytes travel."""
_LOOK_AGAIN: Final = frozenset({"changed"})
_SEND_AGAIN: Final = frozenset(
    {"bytes_missing", "object_gone", "upload_not_open", "upload_failed", "parts_missing"}
)
_BATCHES_OPEN: Final = "batches_open"
"""Set in the memory while batches are under way: found at the next one, these were left by a crash."""
_REFUSALS: Final = (
    LocalError, ConflictError, NotFoundError, QuotaError, RateLimitedError, InvalidRequestError,
)  # fmt: skip
"""What concerns one file: the others go on."""
_LATER: Final = frozenset({"quota_exceeded", "file_too_large", "too_many_sessions", "rate_limited"})
"""Refusals that no newer look at the tree changes."""
_CANNOT_REVIVE: Final = frozenset({"name_taken", "parent_deleted", "node_deleted", "not_found"})


def is_large(action: Upload) -> bool:
    """Whether a file travels by itself."""
    return action.entry.stat.size > SINGLE_PUT_BYTES


def read_all(fd: int, limit: int) -> bytes:
    """Return a file's bytes from its start, at most one more than `limit`. Blocks."""
    pieces: list[bytes] = []
    position = 0
    while position <= limit and (piece := os.pread(fd, limit + 1 - position, position)):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class _Notes:
    """The parts of one content in the agent's memory."""

    memory: PartMemory
    content_hash: str

    def known(self, part_size: int) -> Mapping[int, str]:
        """See `PartNotes`."""
        return self.memory.known(self.content_hash, part_size)

    def note(self, upload_id: str, part_size: int, digests: Mapping[int, str]) -> None:
        """See `PartNotes`."""
        self.memory.note(self.content_hash, upload_id, part_size, digests)

    def forget(self) -> None:
        """See `PartNotes`."""
        self.memory.forget(self.content_hash)


class Uploads:
    """Uploads of one round; `tree` knows the folders that the round has made."""

    def __init__(self, work: Work, tree: TreeChanges) -> None:
        self._work = work
        self._tree = tree

    # Small files ----------------------------------------------------------------------------

    async def send_small(self, actions: Sequence[Upload]) -> None:
        """Send and commit small files, up to 500 in one session."""
        by_path = {action.entry.path: action for action in actions if self._target(action) is not None}
        if not by_path:
            return
        sources = [self._small_source(action) for action in by_path.values()]
        slots = asyncio.Semaphore(_BATCHES)

        async def send(batch: Sequence[SmallSource]) -> None:
            async with slots:
                await self._send_batch([by_path[source.path] for source in batch], batch)

        await self._abandon_leftovers()
        await together(*(send(batch) for batch in split_batches(sources)))
        self._work.state.put(_BATCHES_OPEN, "")

    async def _abandon_leftovers(self) -> None:
        """Let go of batches that a crash, or a server that went away, kept from being given up.

        Nobody continues a batch: it would count among the account's sessions, and its bytes as
        reserved, for days. One whose commit is under way is left to it.
        """
        work = self._work
        if work.state.get(_BATCHES_OPEN):
            left = [upload async for upload in work.api.uploads() if self._is_left(upload)]
            for upload in left:
                await self._give_up(upload.id)
        else:
            work.state.put(_BATCHES_OPEN, "yes")

    def _is_left(self, upload: OpenUpload) -> bool:
        own = upload.device == self._work.device
        return own and upload.batch and upload.state is UploadState.OPEN

    def _small_source(self, action: Upload) -> SmallSource:
        entry = action.entry
        return SmallSource(entry.path, entry.stat.size, entry.content_hash or "", self._reader(entry))

    def _reader(self, entry: LocalEntry) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                with self._work.disk.open_for_read(entry.path) as opened:
                    return read_all(opened.fd, SINGLE_PUT_BYTES)
            except DiskError as error:
                raise FileNotFoundError(error.detail) from error

        return read

    async def _send_batch(self, actions: Sequence[Upload], sources: Sequence[SmallSource]) -> None:
        try:
            upload = await self._work.transfer.upload_small(sources)
        except (QuotaError, RateLimitedError, InvalidRequestError, NotFoundError) as error:
            for action in actions:
                self._work.problem(action.entry.path, error.code, error.detail)
            return
        try:
            items = await self._sent_items(actions, upload)
        except UnavailableError:
            await self._give_up(upload.upload_id)
            raise
        try:
            whole = bool(items) and await self._commit_batch(actions, upload.upload_id, items)
        except (ConflictError, NotFoundError, RateLimitedError) as error:  # no other batch's concern
            whole = False
            for item in items:
                self._work.problem(actions[item.index].entry.path, error.code, error.detail)
        if not whole:
            await self._give_up(upload.upload_id)

    async def _sent_items(self, actions: Sequence[Upload], upload: SmallUpload) -> list[CompleteItem]:
        """Return what can be committed. Raises `UnavailableError` when the store does not answer."""
        items = []
        for action, outcome in zip(actions, upload.items, strict=True):
            if not outcome.ready:
                self._not_sent(action, outcome)
            elif await self._is_as_sent(action.entry):
                items.append(self._item(action, outcome.index))
        return items

    async def _is_as_sent(self, entry: LocalEntry) -> bool:
        """Whether a file is still as it was sent; noted when it is not, or nobody can say."""
        try:
            if await self._work.on_disk(self._unchanged, entry):
                return True
        except DiskError as error:
            self._work.disk_failed(entry.path, error)
        else:
            self._work.look_again(entry.path, "changed", "The file changed while it was sent")
        return False

    async def _commit_batch(
        self, actions: Sequence[Upload], upload_id: str, items: Sequence[CompleteItem]
    ) -> bool:
        """Commit what was sent; say whether that was the whole batch, and none of it was refused."""
        results = await self._work.api.complete_upload_batch(upload_id, items)
        with self._work.state.transaction():
            for result in results:
                self._settle(actions[result.index], result)
        return len(items) == len(actions) and all(result.ok for result in results)

    async def _give_up(self, upload_id: str) -> None:
        """Let go of what a batch holds uncommitted: the next try opens another one.

        Otherwise it would count among the account's sessions, and its bytes as reserved, for days.
        One whose commit is under way is not given up.
        """
        with suppress(LockstepError):
            await self._work.api.abort_upload(upload_id)

    def _item(self, action: Upload, index: int) -> CompleteItem:
        target = self._target(action)
        if target is None:
            raise LocalError(code="changed")
        return CompleteItem(index=index, **target.model_dump())

    def _not_sent(self, action: Upload, outcome: SmallOutcome) -> None:
        code = outcome.code or "changed"
        if code in _LOOK_AGAIN:
            self._work.look_again(action.entry.path, code, outcome.detail)
        elif code == "unavailable":
            raise UnavailableError(outcome.detail)
        else:
            self._work.problem(action.entry.path, code, outcome.detail)

    # Large files ----------------------------------------------------------------------------

    async def send_large(self, action: Upload) -> None:
        """Send and commit one large file; what S3 holds already is not sent."""
        target, entry = self._target(action), action.entry
        if target is None:
            return
        try:
            with self._work.disk.open_for_read(entry.path) as (fd, stat):
                if not stat.same_content_signs(entry.stat):
                    raise LocalError(code="changed")
                source = replace(self._large_source(entry, fd), delta=await self._difference(action))
                row = await self._work.transfer.commit_large(source, target)
        except DiskError as error:
            self._work.disk_failed(entry.path, error)
        except _REFUSALS as error:
            self._large_failed(action, error)
        else:
            with self._work.state.transaction():
                self._work.state.parts.forget(entry.content_hash or "")
                self._settle(action, ItemResult(index=0, row=row))

    async def forget_others(self, actions: Sequence[Upload], under_way: AbstractSet[str]) -> None:
        """Drop what was written down to send contents that will not be sent any more.

        Another device has sent them, or the files are others now. Not planned for the moment, but to be
        sent, is what is `under_way`, and what was set aside after a failure.
        """
        state = self._work.state
        set_aside = (state.local.get(path) for path in state.problems)
        entries = [*(action.entry for action in actions), *(entry for entry in set_aside if entry)]
        await self._work.transfer.keep_deltas({entry.content_hash or "" for entry in entries} | under_way)

    async def _difference(self, action: Upload) -> DeltaBase | None:
        found = self._work.differences
        return None if found is None else await asyncio.to_thread(found.base_of, action)

    def alone(self, actions: Sequence[Upload]) -> set[str]:
        """Return the paths of those that travel by themselves: large ones, and few with a difference."""
        large = {action.entry.path for action in actions if is_large(action)}
        found = self._work.differences if len(large) < len(actions) else None
        if found is None:
            return large
        edited = [action.entry.path for action in actions if found.may_save(action)]
        return large | set(edited) if len(edited) <= FEW else large

    def _large_source(self, entry: LocalEntry, fd: int) -> LargeSource:
        content_hash = entry.content_hash or ""
        return LargeSource(
            entry.path,
            entry.stat.size,
            content_hash,
            fd,
            lambda: self._unchanged(entry),
            notes=_Notes(self._work.state.parts, content_hash),
            throughput=self._work.throughput(),
            notes_of=partial(_Notes, self._work.state.parts),
        )

    def _large_failed(self, action: Upload, error: LockstepError) -> None:
        if error.code in _LOOK_AGAIN:
            self._work.look_again(action.entry.path, error.code, error.detail)
        elif isinstance(error, LocalError):
            self._work.problem(action.entry.path, error.code, error.detail)
        else:
            self._settle(action, ItemResult(index=0, code=error.code, detail=error.detail))

    # Both -----------------------------------------------------------------------------------

    def _unchanged(self, entry: LocalEntry) -> bool:
        """Whether the file is as the scan saw it. Blocks."""
        stat = self._work.disk.lstat(entry.path)
        return stat is not None and stat.same_content_signs(entry.stat)

    def _target(self, action: Upload) -> CommitTarget | None:
        """Return where the content goes; None when the folder for it could not be made."""
        stat = action.entry.stat
        if action.node is not None:
            return CommitTarget(
                node_id=action.node.id,
                base_version_id=action.node.version_id,
                undelete=action.undelete,
                mtime_ns=within_64_bits(stat.mtime_ns),
                executable=self._work.executable(action.node, action.entry),
            )
        parent_id = self._tree.parent_id(action.parent_key)
        if parent_id is None:
            return None
        return CommitTarget(
            parent_id=parent_id,
            name=action.name,
            mtime_ns=within_64_bits(stat.mtime_ns),
            executable=self._work.executable(None, action.entry),
        )

    def _settle(self, action: Upload, result: ItemResult) -> None:
        """Record what became of a commit."""
        work, entry = self._work, action.entry
        if result.ok:
            self._committed(action, row_of(result))
            return
        if action.undelete and action.node is not None and result.code in _CANNOT_REVIVE:
            # It cannot come back as what it was: what is on disk is looked at as something new.
            work.state.drop_synced([action.node.id])
            work.feed_stale = work.progressed = True
        elif result.code in _SEND_AGAIN or result.code == "commit_pending":
            work.problem(entry.path, result.code or "", result.detail or "")
            work.feed_stale = True
        elif result.code in _LATER:
            work.problem(entry.path, result.code or "", result.detail or "")
        else:
            work.refused(entry.path, result)

    def _place_sent(self, action: Upload, node: RemoteNode) -> SyncedNode:
        """Return the place that is agreed on: the known one, or for a new file the one asked for."""
        known = self._work.state.synced.get(node.id)
        parent_id = None if action.node is not None else self._tree.parent_id(action.parent_key)
        if known is not None or parent_id is None:
            return known or SyncedNode(node.id, node.parent_id, node.name, node.kind)
        return SyncedNode(node.id, parent_id, action.name, node.kind)

    def _committed(self, action: Upload, row: NodeRow) -> None:
        """The server has exactly the bytes that were read.

        The row may by now tell of a later change by another device, or be the commit of another
        device that sent the same bytes; what is agreed on is what this entry has, so the row counts
        only where it has that content and time. Otherwise the next plan compares the two.
        """
        work, entry = self._work, action.entry
        node = RemoteNode.of(row)
        with work.state.transaction():
            work.state.put_remote([node])
            told = within_64_bits(entry.stat.mtime_ns)
            if node.content_hash == entry.content_hash and node.mtime_ns == told:
                shown = replace(node, executable=work.on_this_disk(node, entry))
                work.state.put_synced([agreed(shown, entry, self._place_sent(action, node))])
            else:
                work.feed_stale = True
            work.done(entry.path)
        work.tally.uploaded_files += 1
