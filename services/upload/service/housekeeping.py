"""What the janitor asks for: expiry, driving on what is stuck, who owns what in S3."""

from datetime import timedelta
from typing import Final

from libs.contracts.api import UploadState
from libs.contracts.internal import Checked, Collected, Finding, Known, KnownUploads
from libs.contracts.keys import prefix_of
from services.upload.domain.session import Session
from services.upload.service.completing import LONGEST_PAUSE, Completing
from services.upload.service.deps import Deps
from services.upload.service.ending import Ending

_BATCH: Final = 100
_ENDED: Final = (UploadState.COMMITTED, UploadState.ABORTED, UploadState.EXPIRED, UploadState.FAILED)


class Housekeeping:
    """Use cases of `/internal/uploads/…`; each does a batch, the caller repeats while it helps."""

    def __init__(self, deps: Deps, completing: Completing, ending: Ending) -> None:
        self._deps = deps
        self._completing = completing
        self._ending = ending

    async def expire(self) -> Collected:
        """End open sessions whose time is over, and forget those that ended long ago."""
        expiring = await self._deps.sessions.in_state(
            UploadState.OPEN, "expires_at", self._deps.now(), _BATCH
        )
        done = [await self._ending.expire(session) for session in expiring]
        return Collected(done=sum(done) + await self._purge())

    async def _purge(self) -> int:
        before = self._deps.now() - timedelta(seconds=self._deps.settings.keep_seconds)
        ended = [
            s.id
            for state in _ENDED
            for s in await self._deps.sessions.in_state(state, "updated_at", before, _BATCH)
        ]
        if ended:
            await self._deps.parts.remove(ended)
            await self._deps.sessions.remove(ended)
        return len(ended)

    async def redrive(self) -> Collected:
        """Announce old commits again and take over completions whose process is gone."""
        now = self._deps.now()
        waiting = await self._deps.sessions.in_state(UploadState.COMMITTING, "lease.until", now, _BATCH)
        waiting += [session for session in await self._long_committing() if session.lease is None]
        again = [await self._completing.announce_again(session) for session in waiting]
        lapsed = await self._deps.sessions.in_state(UploadState.COMPLETING, "lease.until", now, _BATCH)
        taken = [await self._completing.take_over(session) for session in lapsed]
        return Collected(done=sum(again) + sum(taken))

    async def _long_committing(self) -> list[Session]:
        """Return what an older release may have left: it did not note when to announce again."""
        pause = max(LONGEST_PAUSE, timedelta(seconds=self._deps.settings.redrive_seconds))
        before = self._deps.now() - 2 * pause
        return await self._deps.sessions.in_state(UploadState.COMMITTING, "updated_at", before, _BATCH)

    async def check_parts(self, place: str | None, *, repair: bool) -> Checked:
        """Find rows of parts whose session is gone; a repair removes them: nothing can need them."""
        seen, orphans, following = await self._deps.parts.orphans(place)
        if repair and orphans:
            await self._deps.parts.remove(orphans)
        findings = [
            Finding(kind="parts_without_session", id=upload_id, repaired=repair) for upload_id in orphans
        ]
        return Checked(seen=seen, findings=findings, next=following)

    async def known(self, asked: KnownUploads) -> Known:
        """Say which keys and multipart uploads belong to a live session.

        Ask metadata after this and not before: what a session ceases to own in between, a
        commit has made an object.
        """
        prefixes = {prefix_of(key) for key in asked.keys}
        owners = await self._deps.sessions.owners("key_prefix", prefixes)
        running = await self._deps.sessions.owners("s3_upload_id", asked.s3_upload_ids)
        running |= await self._deps.sessions.owners("delta_upload_id", asked.s3_upload_ids)
        return Known(
            keys=[key for key in asked.keys if prefix_of(key) in owners],
            s3_upload_ids=[one for one in asked.s3_upload_ids if one in running],
        )
