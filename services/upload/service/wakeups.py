"""Waking requests that wait for a session, when this very process hears of its end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from services.upload.domain.session import Session


class Waiter:
    """One request that waits."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.told: Session | None = None
        """The session as it became, once this process has heard."""

    def tell(self, session: Session) -> None:
        """Hand over what the session has become."""
        self.told = session
        self._event.set()

    async def pause(self, seconds: float) -> None:
        """Return after `seconds`, or at once when told."""
        with suppress(TimeoutError):
            # Not `wait_for`: cancelled in the instant in which it is woken, that goes on (Python 3.11).
            async with asyncio.timeout(seconds):
                await self._event.wait()


class Wakeups:
    """Who waits for which session. What is missed here is found by polling the document."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Waiter]] = {}

    @contextmanager
    def waiting(self, session_id: str) -> Iterator[Waiter]:
        """Take part while the context lasts."""
        waiter = Waiter()
        self._waiting.setdefault(session_id, set()).add(waiter)
        try:
            yield waiter
        finally:
            others = self._waiting[session_id]
            others.discard(waiter)
            if not others:
                del self._waiting[session_id]

    def tell(self, session: Session) -> None:
        """Wake all who wait for the session; it is no longer pending."""
        for waiter in self._waiting.get(session.id, ()):
            waiter.tell(session)
