"""Arithmetic of paging through sequence numbers. Pure."""

from collections.abc import Awaitable, Callable

from services.metadata.domain.model import Node

Window = Callable[[int, int], Awaitable[list[Node]]]
"""Nodes with after < seq ≤ up_to, in order of seq."""


async def page_up(window: Window, after: int, head: int, limit: int) -> tuple[list[Node], int]:
    """Read up to `limit` nodes after `after`; return them and the place reached, never beyond `head`.

    Windows of sequence numbers double while they come back short: rows move forward when they
    change, so there may be wide gaps, and a limit is not pushed down by every server.
    """
    rows: list[Node] = []
    width = limit
    while after < head and len(rows) < limit:
        up_to = min(after + width, head)
        found = await window(after, up_to)
        room = limit - len(rows)
        rows += found[:room]
        after = up_to if len(found) <= room else rows[-1].seq
        width *= 2
    return rows, after


async def page_down(window: Window, before: int, limit: int) -> tuple[list[Node], int]:
    """Read up to `limit` nodes below `before`, last first; return them and the place reached."""
    rows: list[Node] = []
    width = limit
    while before > 1 and len(rows) < limit:
        after = max(0, before - 1 - width)
        found = (await window(after, before - 1))[::-1]
        room = limit - len(rows)
        rows += found[:room]
        before = after + 1 if len(found) <= room else rows[-1].seq
        width *= 2
    return rows, before
