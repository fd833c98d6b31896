"""Completing a session: bytes sealed, the commit announced, its answer waited for.

    open ──claim──▶ completing ──sealed──▶ committing ──answer──▶ committed | failed | open
      │                 └──parts missing, S3 away──▶ open     ▲
      └──sealed at once: all but multipart and delta──────────┘

Each arrow is one conditional write on (state, attempt), so of two processes that drive the same
session one wins and the other finds it done.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from libs.contracts.api import CompleteReply, UploadState
from libs.contracts.errors import (
    ConflictError,
    LockstepError,
    NotFoundError,
    UnavailableError,
    error_from_code,
)
from libs.contracts.tree import ItemResult
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger
from services.upload.domain.completion import Plan, Targets, missing_error, plan, same_request, with_targets
from services.upload.domain.modes import by_bytes
from services.upload.domain.session import PENDING, Device, Lease, Session
from services.upload.service import announce
from services.upload.service.background import Background, repeating
from services.upload.service.deps import Deps
from services.upload.service.multiparts import abort_all
from services.upload.service.sealing import Sealing
from services.upload.service.wakeups import Wakeups

log = get_logger("completing")

_POLL: Final = Backoff(0.04, 0.2)
_TRIES: Final = 5
_ANNOUNCED: Final = "announced"
"""Who has a committing session: nobody, but from the end of this lease on it is announced again."""
LONGEST_PAUSE: Final = timedelta(minutes=15)
"""Between two announcements of a commit that nobody answers."""


class Completing:
    """Use cases of `POST /uploads/{id}/complete` and its batch form."""

    def __init__(self, deps: Deps, sealing: Sealing, background: Background, wakeups: Wakeups) -> None:
        self._deps = deps
        self._sealing = sealing
        self._background = background
        self._wakeups = wakeups

    async def complete(self, session: Session, device: Device, targets: Targets) -> CompleteReply:
        """Commit entries of the session to their targets; safe to repeat.

        Answers state `committing` when that takes longer than `commit_wait`. A refused single
        session is raised as the error it was refused with; batches answer per entry.
        """
        deadline = _clock() + self._deps.settings.commit_wait
        for _ in range(_TRIES):
            if session.pending:
                joined = same_request(session, targets)
                session = await self._settled(session, deadline)
                if joined or session.pending:
                    return _reply(session, targets, joined=joined)
            todo = plan(session, targets)
            if not todo.asked:
                return _answered(session, targets, todo)
            _check_open(session)
            begun = await self._begin(session, device, todo.asked, deadline)
            if begun is not None:
                return _reply(await self._settled(begun, deadline), targets, joined=True)
            session = await self._get(session.id)
        raise UnavailableError("The session changes too fast", retry_after=1)

    async def _get(self, session_id: str) -> Session:
        session = await self._deps.sessions.get(session_id)
        if session is None:
            raise NotFoundError
        return session

    async def _begin(
        self, session: Session, device: Device, asked: Targets, deadline: float
    ) -> Session | None:
        """Bring a new attempt under way; None: another request was faster."""
        attempt = replace(with_targets(session, asked), device=device, updated_at=self._deps.now())
        if session.multipart or session.composed:
            return await self._claim_and_drive(session, attempt, deadline)
        sealed = await self._sealing.seal(attempt)
        return await self._announce(session, sealed)

    async def _claim_and_drive(self, session: Session, attempt: Session, deadline: float) -> Session | None:
        """Take the session for this process and drive it in the background.

        Joining thousands of parts can take minutes; what needs one question to S3 goes without.
        """
        claimed = replace(attempt, state=UploadState.COMPLETING, lease=self._lease(uuid4().hex))
        if not await self._deps.sessions.change(session, claimed):
            return None
        driving = self._background.start(self.drive(claimed))
        done, _ = await asyncio.wait({driving}, timeout=max(0.0, deadline - _clock()))
        if done:
            driving.result()
        return claimed

    async def _announce(self, before: Session, sealed: Session, **expect: Any) -> Session | None:
        """Any state → committing, with the wish to commit in the same transaction."""
        now, first = self._deps.now(), timedelta(seconds=self._deps.settings.redrive_seconds)
        lease = Lease(_ANNOUNCED, now + first)
        after = replace(sealed, state=UploadState.COMMITTING, lease=lease, updated_at=now)
        told = await self._deps.sessions.change(before, after, announce.completed(after), **expect)
        return after if told else None

    def _lease(self, owner: str) -> Lease:
        """Return a lease from now on. Each drive is an owner: one process may have let another lapse."""
        return Lease(owner, self._deps.now() + timedelta(seconds=self._deps.settings.lease_seconds))

    async def _settled(self, session: Session, deadline: float) -> Session:
        """Return the session once no completion is under way, or as it is at the deadline."""
        with self._wakeups.waiting(session.id) as waiter:
            polls = 0
            while waiter.told is None:
                state = await self._deps.sessions.state(session.id)
                if state not in PENDING:
                    return await self._get(session.id)
                left = deadline - _clock()
                if left <= 0:
                    return replace(session, state=state)
                await waiter.pause(min(_POLL.delay(polls), left))
                polls += 1
            return waiter.told

    # Driving --------------------------------------------------------------------------------

    async def take_over(self, session: Session) -> bool:
        """Drive a completion on whose lease has lapsed; False: another process does."""
        taken = replace(session, lease=self._lease(uuid4().hex))
        until = None if session.lease is None else session.lease.until
        if not await self._deps.sessions.change(session, taken, **{"lease.until": until}):
            return False
        self._background.start(self.drive(taken))
        return True

    async def drive(self, session: Session) -> None:
        """Completing → committing, or back to open when the bytes are not there.

        Raises `UnavailableError` when S3 does not answer; the session is open again then.
        """
        try:
            async with repeating(self._deps.settings.lease_seconds / 3, lambda: self._renew(session)):
                sealed = await self._sealing.seal(session)
        except LockstepError as error:
            await self._release(session, error)
            if not isinstance(error, ConflictError):
                raise
            return
        expect: dict[str, Any] = {}
        if session.composed and session.lease is not None:
            # Who has taken over may have put the object together from other parts: it is theirs to say.
            expect["lease.owner"] = session.lease.owner
        await self._announce(session, sealed, **expect)

    async def _renew(self, session: Session) -> None:
        if session.lease is not None:
            renewed = replace(session, lease=self._lease(session.lease.owner))
            await self._deps.sessions.change(session, renewed, **{"lease.owner": session.lease.owner})

    async def _release(self, session: Session, error: LockstepError) -> None:
        """Completing → open, unless another drive has taken over."""
        now = await self._get(session.id)
        if now.lease is None or session.lease is None or now.lease.owner != session.lease.owner:
            return
        refused = isinstance(error, ConflictError)
        after = replace(
            await self._by_bytes(now) if error.code == "delta_refused" else now,
            state=UploadState.OPEN,
            lease=None,
            updated_at=self._deps.now(),
            code=error.code if refused else None,
            detail=error.detail if refused else None,
            missing=tuple(error.extra.get("missing", ())),
        )
        if await self._deps.sessions.change(now, after, **{"lease.owner": now.lease.owner}):
            self._wakeups.tell(after)

    async def _by_bytes(self, session: Session) -> Session:
        """Return a session whose delta is refused as one that is sent whole.

        What the composition began at S3 and digests of parts that an earlier way had are forgotten.
        """
        with suppress(UnavailableError):  # the sweep finds it
            await abort_all(self._deps, session)
        await self._deps.parts.remove([session.id])
        return by_bytes(session, self._deps.sizes)

    async def announce_again(self, session: Session) -> bool:
        """Publish the wish to commit once more, under the same attempt, and later each time.

        While nobody takes them the broker keeps them all: those of days must not be thousands.
        """
        now, pause = self._deps.now(), timedelta(seconds=self._deps.settings.redrive_seconds)
        if session.lease is not None:
            pause = max(pause, min(2 * (session.lease.until - session.updated_at), LONGEST_PAUSE))
        after = replace(session, lease=Lease(_ANNOUNCED, now + pause), updated_at=now)
        again = announce.completed(session)
        return await self._deps.sessions.change(session, after, again, updated_at=session.updated_at)


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _check_open(session: Session) -> None:
    if session.state is UploadState.FAILED:
        raise ConflictError(session.detail or "", code="upload_failed")
    if session.state is not UploadState.OPEN:
        raise ConflictError(code="upload_not_open")


def _reply(session: Session, targets: Targets, *, joined: bool) -> CompleteReply:
    """Answer a request whose completion has ended, or is still under way."""
    if not session.pending:
        return _answered(session, targets, plan(session, targets))
    if not joined:
        raise ConflictError(code="commit_pending")
    return CompleteReply(upload_id=session.id, state=session.state, location=f"/v1/uploads/{session.id}")


def _answered(session: Session, targets: Targets, todo: Plan) -> CompleteReply:
    entries = {entry.index: entry for entry in session.entries}
    results = [todo.answered.get(index) or entries[index].result for index in sorted(targets)]
    known = [result for result in results if result is not None]
    if len(known) < len(results):
        raise _unanswered(session)
    if not session.batch:
        _raise_refused(known[0])
    return CompleteReply(upload_id=session.id, state=session.state, results=known)


def _unanswered(session: Session) -> LockstepError:
    """Return why the session is open again without results."""
    if session.code in {"bytes_missing", "parts_missing"}:
        return missing_error(session.code, list(session.missing))
    if session.code == "delta_refused":
        return ConflictError(code=session.code)
    if session.state is not UploadState.OPEN:
        return ConflictError(code="upload_not_open")
    return UnavailableError("The commit was put off", retry_after=2)


def _raise_refused(result: ItemResult) -> None:
    if result.code is not None:
        raise error_from_code(result.code, result.detail or "", **result.error_extra())
