"""Walks through whole collections, a window of ids at a time.

Ids are 96 random bits, so equal windows hold about equally many. Windows and not "the next N": a
limit is not pushed down by every server.
"""

from dataclasses import dataclass
from typing import Final

from libs.contracts.ids import new_id
from libs.mongo.client import Database, Document, translated

_DIGITS: Final = len(new_id())
_SPACE: Final = 16**_DIGITS


@dataclass(frozen=True, slots=True)
class Window:
    """Ids from `low` on, below `high`; the last window has no `high`."""

    low: str
    high: str | None

    def on(self, field: str) -> Document:
        """Return the query for documents whose `field` is in the window."""
        return {field: {"$gte": self.low} | ({} if self.high is None else {"$lt": self.high})}


async def window_of(database: Database, collection: str, place: str | None, wanted: int) -> Window:
    """Return the window that begins at `place` (None: the first) and holds about `wanted` documents."""
    with translated():
        count = await database[collection].estimated_document_count()
    return cut_window(place, count, wanted)


def cut_window(place: str | None, count: int, wanted: int) -> Window:
    """Return a window for `wanted` of `count` documents whose ids are spread evenly."""
    low = place or "0" * _DIGITS
    high = int(low, 16) + max(1, _SPACE * wanted // max(count, wanted))
    return Window(low, None if high >= _SPACE else f"{high:0{_DIGITS}x}")
