"""Ending sessions without a commit: the state first, then what S3 holds.

A crash in between leaves unowned bytes, which the janitor's sweep finds.
"""

from dataclasses import replace
from typing import Any, Final

from libs.contracts.api import UploadMode, UploadState
from libs.contracts.errors import ConflictError, UnavailableError
from libs.runtime.logs import get_logger
from services.upload.domain.session import Entry, Session
from services.upload.service import announce
from services.upload.service.deps import Deps
from services.upload.service.multiparts import abort_all

log = get_logger("ending")

_TRIES: Final = 5


class Ending:
    """Abort and expiry."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def give_up(self, session: Session) -> None:
        """Abort on request; what has ended stays as it is. Raises `ConflictError` "commit_pending"."""
        for _ in range(_TRIES):
            if session.pending:
                raise ConflictError(code="commit_pending")
            if not session.live or await self.abort(session):
                return
            session = await self._deps.sessions.get(session.id) or replace(session, state=UploadState.ABORTED)
        raise UnavailableError("The session changes too fast", retry_after=1)

    async def abort(self, session: Session, **expect: Any) -> bool:
        """Open → aborted; False: it is not as given any more."""
        after = replace(session, state=UploadState.ABORTED, updated_at=self._deps.now())
        return await self._end(session, after, announce.aborted(session), expect)

    async def expire(self, session: Session) -> bool:
        """Open → expired, unless somebody has touched it since it was read."""
        after = replace(session, state=UploadState.EXPIRED, updated_at=self._deps.now())
        return await self._end(session, after, announce.expired(session), {"expires_at": session.expires_at})

    async def _end(self, session: Session, after: Session, event: Any, expect: dict[str, Any]) -> bool:
        if session.state is not UploadState.OPEN:
            return False
        if not await self._deps.sessions.change(session, after, event, **expect):
            return False
        await self._clean(session)
        return True

    async def _clean(self, session: Session) -> None:
        """Delete what the session put into S3 and nothing refers to."""
        try:
            await abort_all(self._deps, session)
            await self._deps.objects.delete(await self._leftovers(session))
        except UnavailableError:
            log.warning("bytes of an ended session stay for the sweep", upload_id=session.id)

    async def _leftovers(self, session: Session) -> list[str]:
        own = [
            entry for entry in session.entries if entry.mode is not UploadMode.STORED and not entry.committed
        ]
        if len(own) <= 1:
            return [key for entry in own for key in (entry.key, *_delta_keys(entry))]
        held = {item.key async for item in self._deps.objects.walk(f"{session.key_prefix}-")}
        return [entry.key for entry in own if entry.key in held]


def _delta_keys(entry: Entry) -> list[str]:
    return [] if entry.delta is None else [entry.delta.key]
