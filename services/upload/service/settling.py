"""Closing sessions when metadata has answered, and letting go of revoked devices."""

from collections.abc import Sequence
from dataclasses import replace

from libs.contracts.api import UploadState
from libs.contracts.events import CommitRejected, DeviceRevoked, FileCommitted
from libs.contracts.ids import new_id
from libs.contracts.tree import ItemResult
from libs.runtime.logs import get_logger
from services.upload.domain.outcome import Refill, settled
from services.upload.domain.session import Session
from services.upload.service.deps import Deps
from services.upload.service.ending import Ending
from services.upload.service.wakeups import Wakeups

log = get_logger("settling")


class Settling:
    """Use cases of the events that this service consumes. All are idempotent by state."""

    def __init__(self, deps: Deps, ending: Ending, wakeups: Wakeups) -> None:
        self._deps = deps
        self._ending = ending
        self._wakeups = wakeups

    async def committed(self, event: FileCommitted) -> None:
        """Entries were committed, some perhaps refused."""
        if event.upload_id is not None:
            await self._settle(event.upload_id, event.attempt, event.results)

    async def rejected(self, event: CommitRejected) -> None:
        """No entry was committed."""
        await self._settle(event.upload_id, event.attempt, event.results)

    async def _settle(self, session_id: str, attempt: int, results: Sequence[ItemResult]) -> None:
        session = await self._deps.sessions.get(session_id)
        if session is None or session.state is not UploadState.COMMITTING or session.attempt != attempt:
            return
        after, now = settled(session, results, Refill(new_id, self._deps.sizes)), self._deps.now()
        after = replace(after, updated_at=now, expires_at=self._deps.expiry(after.entries, now))
        if await self._deps.sessions.change(session, after):
            log.info("session settled", upload_id=session_id, state=after.state, code=after.code)
            self._wakeups.tell(after)

    async def device_revoked(self, event: DeviceRevoked) -> None:
        """Drop the device from its user's sessions; abort those that no other device is in."""
        if event.user_id is None or event.device_id is None:
            return
        for session in await self._deps.sessions.live_of_user(event.user_id):
            if event.device_id in session.devices:
                await self._leave(session, event.device_id)

    async def _leave(self, session: Session, device_id: str) -> None:
        alone = session.devices == (device_id,)
        if alone and await self._ending.abort(session, devices=list(session.devices)):
            return
        await self._deps.sessions.drop_device(session.id, device_id)
