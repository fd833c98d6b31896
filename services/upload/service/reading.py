"""Showing sessions."""

from dataclasses import dataclass
from datetime import timedelta

from libs.contracts.api import Upload, Uploads, UploadState
from libs.contracts.errors import NotFoundError
from services.upload.domain import paging
from services.upload.domain.session import Owner, Session
from services.upload.service.deps import Deps
from services.upload.service.multiparts import Held, Multiparts
from services.upload.service.present import shown


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list is asked for."""

    live: bool
    content_hash: str | None
    cursor: str | None
    limit: int


class Reading:
    """Use cases of `GET /uploads` and `GET /uploads/{id}`."""

    def __init__(self, deps: Deps, multiparts: Multiparts) -> None:
        self._deps = deps
        self._multiparts = multiparts

    async def mine(self, owner: Owner, session_id: str) -> Session:
        """Return a session of the caller's account or raise `NotFoundError`."""
        session = await self._deps.sessions.get(session_id)
        if session is None or session.user_id != owner.user_id:
            raise NotFoundError
        return session

    async def show(self, session: Session) -> Upload:
        """Return the session, an open one that travels in parts with those that S3 holds.

        Of a pending one none are asked for: nothing can be sent, and who waits for its end asks often.
        """
        if session.state is not UploadState.OPEN or session.in_parts is None:
            return shown(session)
        held = await self._multiparts.held(session) or Held({})
        return shown(session, parts=await self._multiparts.rows(session, held))

    async def page(self, owner: Owner, listing: Listing) -> Uploads:
        """Return a page of the account's sessions, newest first."""
        settings = self._deps.settings
        kept = timedelta(seconds=settings.session_seconds + settings.keep_seconds)
        sessions = await self._deps.sessions.page(
            owner.user_id,
            live=listing.live,
            content_hash=listing.content_hash,
            after=None if listing.cursor is None else paging.decode(listing.cursor),
            limit=listing.limit,
            horizon=self._deps.now() - 4 * kept,
        )
        full = len(sessions) == listing.limit
        cursor = paging.encode((sessions[-1].created_at, sessions[-1].id)) if full else None
        return Uploads(items=[shown(session) for session in sessions], next_cursor=cursor)
