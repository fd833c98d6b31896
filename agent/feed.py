"""The remote tree as the agent knows it: reading the feed, applying pushes, starting over.

A push is a nudge: its rows are applied when it continues exactly where the cursor stands, it is
dropped when it is old, and otherwise the feed is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from agent.damaged import spare
from agent.model import RemoteNode, SyncedNode
from agent.remote import Api
from agent.state import State
from libs.contracts.api import PushChanges, PushHeads, SyncPage
from libs.contracts.cursor import Cursor
from libs.contracts.errors import GoneError
from libs.contracts.tree import NodeRow
from libs.runtime.logs import get_logger

log = get_logger("feed")

CURSOR: Final = "cursor"


class Feed:
    """The feed of one namespace, kept in `state`."""

    def __init__(self, state: State, api: Api, namespace_id: str) -> None:
        self._state = state
        self._api = api
        self._namespace_id = namespace_id

    @property
    def cursor(self) -> str | None:
        """The opaque cursor; None before the first complete listing."""
        return self._state.get(CURSOR)

    @property
    def seq(self) -> int:
        """The sequence number up to which the remote tree is complete."""
        return self._place().seqs.get(self._namespace_id, 0)

    def _place(self) -> Cursor:
        text = self.cursor
        return Cursor(0) if text is None else Cursor.decode(text)

    async def pull(self) -> bool:
        """Read the feed to its end; return whether anything came.

        A cursor that cannot be continued leads to a full listing.
        """
        before = self.cursor
        if before is None:
            await self._list_all()
            return True
        try:
            while (page := await self._api.sync(self.cursor)).has_more:
                self._take(page)
            self._take(page)
        except GoneError as error:
            log.info("the feed starts over", code=error.code)
            await self._list_all(restored=error.code == "epoch_changed")
        return self.cursor != before

    def _take(self, page: SyncPage) -> None:
        with self._state.transaction():
            spare(self._state, page.items)
            self._state.put_remote(map(RemoteNode.of, page.items))
            self._state.put(CURSOR, page.cursor)

    async def _list_all(self, *, restored: bool = False) -> None:
        """Read everything, and only then let it take the place of what was known.

        Without `restored`, a node that was synced and is absent now was deleted.
        """
        rows: dict[str, RemoteNode] = {}
        stepped_back: dict[str, NodeRow] = {}
        cursor: str | None = None
        while True:
            page = await self._api.sync(cursor)
            for row in page.items:
                rows[row.id] = RemoteNode.of(row)
                if row.damaged:
                    stepped_back[row.id] = row
            cursor = page.cursor
            if not page.has_more:
                break
        known = self.cursor
        restored = restored or (known is not None and Cursor.decode(known).epoch != page.epoch)
        with self._state.transaction():
            if restored:
                self._rebase(rows, page.epoch)
            spare(self._state, stepped_back.values())
            newer = [] if restored else self._beyond(Cursor.decode(cursor))
            self._state.keep_remote(set())
            self._state.put_remote([*rows.values(), *newer])
            self._state.put(CURSOR, cursor)

    def _beyond(self, read: Cursor) -> list[RemoteNode]:
        """Return what is known by results of our own that came after the listing was read."""
        seq = read.seqs.get(self._namespace_id, 0)
        return [node for node in self._state.remote.values() if node.seq > seq]

    def _rebase(self, rows: dict[str, RemoteNode], epoch: int) -> None:
        """The server was restored from a backup: being absent there means nothing.

        Local content goes on top of a version of the old epoch, and becomes a conflicted copy
        beside one made in the new epoch.
        """
        synced = list(self._state.synced.values())
        known = self._state.remote
        restore = Restore(epoch, self.seq, intact_until(known, rows))
        found = (rebased(old, known.get(old.id), rows.get(old.id), restore) for old in synced)
        kept = [node for node in found if node is not None]
        self._state.drop_synced([node.id for node in synced])
        self._state.put_synced(kept)
        log.warning("the server was restored from a backup", synced=len(synced), kept=len(kept))

    # Pushes -------------------------------------------------------------------------------

    def apply(self, push: PushChanges) -> bool:
        """Apply pushed rows; return False when the feed has to be read instead."""
        place = self._place()
        if self.cursor is None or push.epoch != place.epoch or push.namespace_id != self._namespace_id:
            return False
        if push.to_seq <= self.seq:
            return True
        if push.from_seq != self.seq:
            return False
        with self._state.transaction():
            spare(self._state, push.rows)
            self._state.put_remote(map(RemoteNode.of, push.rows))
            self._state.put(CURSOR, place.at(self._namespace_id, push.to_seq).encode())
        return True

    def is_behind(self, heads: PushHeads) -> bool:
        """Whether the server has given out more than is known here."""
        return heads.epoch != self._place().epoch or heads.heads.get(self._namespace_id, 0) != self.seq


@dataclass(frozen=True, slots=True)
class Restore:
    """A server that came back from a backup: its epoch, and what it holds of what this device knew."""

    epoch: int
    seen: int
    """The sequence number up to which this device knew the server."""
    intact: int
    """The one up to which the backup certainly holds what this device knew: see `intact_until`."""


def intact_until(known: Mapping[str, RemoteNode], rows: Mapping[str, RemoteNode]) -> int:
    """Return a sequence number up to which the backup holds all that this device knew. Pure.

    A row that is there just as it was known says that all before it is there too. One that is
    there in an older state says that nothing from it on is: sequence numbers are given out anew,
    so a change that was made again may look as if it had never been lost.
    """
    lost = [n.seq for n in known.values() if (row := rows.get(n.id)) is not None and row.seq < n.seq]
    first_lost = min(lost, default=None)
    there = (n.seq for n in known.values() if rows.get(n.id) == n)
    return max((seq for seq in there if first_lost is None or seq < first_lost), default=0)


def rebased(
    old: SyncedNode, known: RemoteNode | None, row: RemoteNode | None, restore: Restore
) -> SyncedNode | None:
    """Return what is still agreed on after the server came back from a backup; None: nothing. Pure.

    `known` is the row as this device knew it, `row` as the server has it now. A node of which
    nothing was rolled back goes on as ever: what differs is news. With other nodes the content here
    goes on top of an older one, or becomes a copy where it is not certain that the other is older:
    a node that was changed since has a new sequence number, whatever its content.
    """
    if row is None or row.kind is not old.kind:
        return None
    if known is not None and (known == row or known.seq <= restore.intact):
        return old
    if not row.deleted and _holds_the_same(row, old):
        return replace(old, parent_id=row.parent_id, name=row.name)
    return _base(old, known, row, restore)


def _base(old: SyncedNode, known: RemoteNode | None, row: RemoteNode, restore: Restore) -> SyncedNode | None:
    """Return on top of what the content here goes; `old` when it is to be replaced, None when neither."""
    if row.deleted or row.epoch >= restore.epoch or known is None:
        return None
    if not _holds_the_same(known, old):
        # What was known had not been fetched yet.
        return old if _holds_the_same(row, known) else None
    if row.seq > restore.seen:
        return None
    return replace(
        old,
        parent_id=row.parent_id,
        name=row.name,
        version_id=row.version_id,
        content_hash=row.content_hash,
        size=row.size,
        symlink_target=row.symlink_target,
    )


def _holds_the_same(row: RemoteNode, other: RemoteNode | SyncedNode) -> bool:
    return (row.version_id, row.content_hash, row.symlink_target) == (
        other.version_id, other.content_hash, other.symlink_target,
    )  # fmt: skip
