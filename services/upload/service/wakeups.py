"""Waking requests that wait for a session, when this very process hears of its end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Wakeups:
    """Who waits for which session. A missed wake-up costs one poll: the document is the truth."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def waiting(self, session_id: str) -> Iterator[asyncio.Event]:
        """Take part while the context lasts; the event is set at each change."""
        event = asyncio.Event()
        self._waiting.setdefault(session_id, set()).add(event)
        try:
            yield event
        finally:
            others = self._waiting[session_id]
            others.discard(event)
            if not others:
                del self._waiting[session_id]

    def wake(self, session_id: str) -> None:
        """Wake all who wait for the session."""
        for event in self._waiting.get(session_id, ()):
            event.set()


async def woken(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set or the time is over; the event is cleared."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    event.clear()
