"""The change feed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from libs.contracts.api import SyncPage
from libs.contracts.cursor import Cursor
from libs.contracts.errors import GoneError
from libs.contracts.tree import NodeRow
from libs.mongo.views import Views
from services.metadata.domain.feed import page_up
from services.metadata.domain.model import to_micros
from services.metadata.store.namespaces import EpochStore
from services.metadata.store.reads import Head, ReadStore


class FeedService:
    """Pages of nodes by sequence number. Heads are read before rows and never passed."""

    def __init__(self, reads: ReadStore, epochs: EpochStore, views: Views) -> None:
        self._reads = reads
        self._epochs = epochs
        self._views = views

    async def page(
        self, user_id: str, namespace_ids: Sequence[str], cursor: Cursor | None, limit: int
    ) -> SyncPage:
        """Return what follows the cursor; without one, a full listing from the start.

        Raises `GoneError` "epoch_changed" or "cursor_expired", with the server's epoch.
        """
        epoch = await self._epoch(cursor)
        heads = {namespace_id: await self._reads.head(namespace_id) for namespace_id in namespace_ids}
        here = checked(cursor or Cursor(epoch), heads, epoch)
        return await self._read(user_id, here, heads, limit)

    async def since(
        self, user_id: str, namespace_ids: Sequence[str], moment: datetime, limit: int
    ) -> SyncPage:
        """Return every node, live or deleted, changed at or after a time; go on by the cursor."""
        epoch = await self._epochs.current()
        heads = {namespace_id: await self._reads.head(namespace_id) for namespace_id in namespace_ids}
        micros = to_micros(moment)
        seqs = {}
        for namespace_id, head in heads.items():
            if head.purged_seq and micros <= head.purged_us:
                raise GoneError("The time is before the oldest change that is kept", epoch=epoch)
            seqs[namespace_id] = await self._place_of(namespace_id, head.seq, micros)
        return await self._read(user_id, Cursor(epoch, seqs), heads, limit)

    async def _epoch(self, cursor: Cursor | None) -> int:
        epoch = await self._epochs.current()
        if cursor is not None and cursor.epoch != epoch:
            epoch = await self._epochs.current(fresh=True)
        return epoch

    async def _read(self, user_id: str, here: Cursor, heads: dict[str, Head], limit: int) -> SyncPage:
        rows: list[NodeRow] = []
        for namespace_id, head in heads.items():
            if len(rows) < limit:
                window = partial(self._reads.between, namespace_id)
                room = limit - len(rows)
                nodes, place = await page_up(window, here.seqs.get(namespace_id, 0), head.seq, room)
                rows += [node.row() for node in nodes]
                here = moved(here, namespace_id, place)
        return SyncPage(
            items=rows,
            cursor=here.encode(),
            has_more=any(here.seqs.get(name, 0) < head.seq for name, head in heads.items()),
            epoch=here.epoch,
            uploads_changed_at=await self._views.uploads_changed_at(user_id),
        )

    async def _place_of(self, namespace_id: str, head: int, micros: int) -> int:
        """Return the last sequence number before the first change at or after a time.

        Times rise with sequence numbers, so it is found by halving.
        """
        low, high = 0, head
        while low < high:
            middle = (low + high) // 2
            node = await self._reads.first_after(namespace_id, middle, high)
            if node is None or node.changed_us >= micros:
                high = middle
            else:
                low = node.seq
        return low


def checked(cursor: Cursor, heads: dict[str, Head], epoch: int) -> Cursor:
    """Return the cursor if it can be continued; in a namespace where nothing was read a listing begins."""
    if cursor.epoch != epoch:
        raise GoneError(code="epoch_changed", epoch=epoch)
    listing = {
        **cursor.listing,
        **{name: head.seq for name, head in heads.items() if not cursor.seqs.get(name)},
    }
    for name, head in heads.items():
        place = cursor.seqs.get(name, 0)
        if place > head.seq:
            raise GoneError(code="epoch_changed", epoch=epoch)
        if place < head.purged_seq and listing.get(name, -1) < head.purged_seq:
            raise GoneError(code="cursor_expired", epoch=epoch)
    seqs = {name: cursor.seqs.get(name, 0) for name in heads}
    return replace(cursor, seqs=seqs, listing={name: listing[name] for name in heads if name in listing})


def moved(cursor: Cursor, namespace_id: str, place: int) -> Cursor:
    """Return the cursor at a place; a listing is over once it has reached the head it began with."""
    listing = {name: head for name, head in cursor.listing.items() if name != namespace_id or head > place}
    return replace(cursor.at(namespace_id, place), listing=listing)
