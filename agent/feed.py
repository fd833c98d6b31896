"""The remote tree as the agent knows it: reading the feed, applying pushes, starting over.

A push is a nudge: its rows are applied when it continues exactly where the cursor stands, it is
dropped when it is old, and otherwise the feed is read.
"""

from dataclasses import replace
from typing import Final

from agent.model import RemoteNode, SyncedNode
from agent.remote import Api
from agent.state import State
from libs.contracts.api import PushChanges, PushHeads, SyncPage
from libs.contracts.cursor import Cursor
from libs.contracts.errors import GoneError
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
            self._state.put_remote(map(RemoteNode.of, page.items))
            self._state.put(CURSOR, page.cursor)

    async def _list_all(self, *, restored: bool = False) -> None:
        """Read everything, and only then let it take the place of what was known.

        Without `restored`, a node that was synced and is absent now was deleted.
        """
        rows: dict[str, RemoteNode] = {}
        cursor: str | None = None
        while True:
            page = await self._api.sync(cursor)
            for row in page.items:
                rows[row.id] = RemoteNode.of(row)
            cursor = page.cursor
            if not page.has_more:
                break
        known = self.cursor
        restored = restored or (known is not None and Cursor.decode(known).epoch != page.epoch)
        with self._state.transaction():
            if restored:
                self._rebase(rows, page.epoch)
            self._state.keep_remote(set())
            self._state.put_remote(rows.values())
            self._state.put(CURSOR, cursor)

    def _rebase(self, rows: dict[str, RemoteNode], epoch: int) -> None:
        """The server was restored from a backup: being absent there means nothing.

        Local content goes on top of a version of the old epoch, and becomes a conflicted copy
        beside one made in the new epoch.
        """
        synced = list(self._state.synced.values())
        seen = self.seq
        kept = [node for old in synced if (node := rebased(old, rows.get(old.id), epoch, seen)) is not None]
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
            self._state.put_remote(map(RemoteNode.of, push.rows))
            self._state.put(CURSOR, place.at(self._namespace_id, push.to_seq).encode())
        return True

    def is_behind(self, heads: PushHeads) -> bool:
        """Whether the server has given out more than is known here."""
        return heads.epoch != self._place().epoch or heads.heads.get(self._namespace_id, 0) != self.seq


def rebased(old: SyncedNode, row: RemoteNode | None, epoch: int, seen: int) -> SyncedNode | None:
    """Return what is still agreed on after the server came back from a backup; None: nothing. Pure.

    `seen` is the sequence number up to which this device knew the server: a row beyond it is news
    from before the backup, to be fetched as ever.
    """
    if row is None or row.deleted or row.kind is not old.kind:
        return None
    if row.version_id == old.version_id and row.content_hash == old.content_hash:
        return replace(old, parent_id=row.parent_id, name=row.name)
    if row.epoch >= epoch:
        return None
    if row.seq > seen:
        return old
    return replace(
        old,
        parent_id=row.parent_id,
        name=row.name,
        version_id=row.version_id,
        content_hash=row.content_hash,
        size=row.size,
        symlink_target=row.symlink_target,
    )
