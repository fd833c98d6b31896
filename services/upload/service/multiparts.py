"""The S3 side of what travels in parts: begun after the session's document, begun anew when lost."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from libs.contracts.api import PartRow, UploadState
from libs.contracts.errors import ConflictError, NotFoundError, UnavailableError
from libs.contracts.parts import part_span
from libs.runtime.logs import get_logger
from libs.storage.port import PartToJoin, StoredPart
from services.upload.domain.session import Session
from services.upload.service.deps import Deps
from services.upload.store.parts import PartNote

log = get_logger("multiparts")


@dataclass(frozen=True, slots=True)
class Held:
    """What S3 holds of a session: its parts of the right size, or the whole joined already."""

    parts: dict[int, StoredPart]
    joined: bool = False

    def missing(self, session: Session, notes: Mapping[int, PartNote]) -> list[int]:
        """Return the numbers of parts that are not there, or not those whose digest was fixed."""
        numbers = range(1, session.parts_total + 1)
        return [
            number
            for number in numbers
            if number not in notes
            or (part := self.parts.get(number)) is None
            or not self.is_right(part, notes)
        ]

    def is_right(self, part: StoredPart, notes: Mapping[int, PartNote]) -> bool:
        """Say whether a part has the digest that was fixed for it, as far as S3 lists one."""
        note = notes.get(part.number)
        return note is None or part.sha256 in {None, note.digest}


class Multiparts:
    """Multipart uploads of sessions."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def ensure(self, session: Session) -> Session:
        """Return the session with a multipart upload at S3. Raises `ConflictError` when it has ended."""
        travelling = session.in_parts
        if travelling is None or travelling.upload_id is not None:
            return session
        begun = await self._deps.objects.create_multipart(travelling.key)
        after = session.with_upload(begun)
        if await self._deps.sessions.change(session, after, **{session.upload_field: None}):
            return after
        await self._deps.objects.abort_multipart(travelling.key, begun)
        return await self._winner(session)

    async def _winner(self, session: Session) -> Session:
        """Return what another request made of the session in the same instant.

        Raises `ConflictError` "upload_not_open", or "upload_changed": something else travels now.
        """
        now = await self._deps.sessions.get(session.id)
        if now is None or not now.live:
            raise ConflictError(code="upload_not_open")
        if now.attempt != session.attempt:
            raise ConflictError(code="upload_changed" if now.state is UploadState.OPEN else "upload_not_open")
        if now.in_parts is None or now.in_parts.upload_id is None:
            raise ConflictError(code="upload_not_open")
        return now

    async def let_go(self, session: Session, after: Session) -> None:
        """Remove what S3 holds of a session's way before it was changed; else the sweep finds it."""
        old, new = session.entries[0].delta, after.entries[0].delta
        with suppress(UnavailableError):
            await abort_all(self._deps, session)
            if old is not None and (new is None or new.key != old.key):
                await self._deps.objects.delete([old.key])

    async def held(self, session: Session) -> Held | None:
        """Return what S3 holds; None: neither the multipart upload nor the whole object."""
        travelling = session.in_parts
        if travelling is None or travelling.upload_id is None:
            return None
        parts = await self._deps.objects.list_parts(travelling.key, travelling.upload_id)
        if parts is not None:
            return Held({part.number: part for part in parts if _fits(session, travelling.size, part)})
        found = await self._deps.objects.head(travelling.key)
        return Held({}, joined=True) if found is not None and found.size == travelling.size else None

    async def revived(self, session: Session) -> tuple[Session, Held]:
        """Return session and what S3 holds; a multipart upload that S3 has lost is begun anew."""
        held = await self.held(session)
        if held is not None:
            return session, held
        if session.in_parts is not None and session.in_parts.upload_id is not None:
            session = await self._forget(session)
        return await self.ensure(session), Held({})

    async def begin_anew(self, session: Session) -> None:
        """Give up what S3 holds: some part of it is not what it should be, and none is named."""
        travelling = session.in_parts
        if travelling is not None and travelling.upload_id is not None:
            await self._forget(session)
            await self._deps.objects.abort_multipart(travelling.key, travelling.upload_id)

    async def _forget(self, session: Session) -> Session:
        log.warning("the parts of an upload are lost or refused", upload_id=session.id)
        after, field = replace(session.with_upload(None), parts_done=0), session.upload_field
        if not await self._deps.sessions.change(session, after, **{field: getattr(session, field)}):
            return await self._winner(session)
        await self._deps.parts.reset(session)
        return after

    async def join(self, session: Session, held: Held, notes: Mapping[int, PartNote]) -> bool:
        """Join the parts; False when S3 has lost them."""
        travelling = session.in_parts
        if travelling is None or travelling.upload_id is None:
            return False
        parts = [
            PartToJoin(n, held.parts[n].etag, notes[n].digest) for n in range(1, session.parts_total + 1)
        ]
        try:
            await self._deps.objects.complete_multipart(travelling.key, travelling.upload_id, parts)
        except NotFoundError:
            return False
        return True

    async def rows(self, session: Session, held: Held, *, reconcile: bool = False) -> list[PartRow]:
        """Return the parts as the API shows them; `reconcile`: note those as done that S3 holds."""
        notes = await self._deps.parts.of(session)
        if held.joined:
            return _all_rows(session, notes)
        rows = [_row(part, notes) for _, part in sorted(held.parts.items()) if held.is_right(part, notes)]
        if reconcile:
            await self._deps.parts.reconcile(session, {row.number for row in rows}, notes)
        return rows


async def abort_all(deps: Deps, session: Session) -> None:
    """Abort what a session has begun at S3, of the content and of a delta object. `UnavailableError`."""
    entry = session.entries[0]
    if session.s3_upload_id is not None:
        await deps.objects.abort_multipart(entry.key, session.s3_upload_id)
    if session.delta_upload_id is not None and entry.delta is not None:
        await deps.objects.abort_multipart(entry.delta.key, session.delta_upload_id)


def _fits(session: Session, size: int, part: StoredPart) -> bool:
    if session.part_size is None or not 1 <= part.number <= session.parts_total:
        return False
    return part.size == part_span(size, session.part_size, part.number)[1]


def _row(part: StoredPart, notes: Mapping[int, PartNote]) -> PartRow:
    note = notes.get(part.number)
    return PartRow(number=part.number, size=part.size, digest=None if note is None else note.digest)


def _all_rows(session: Session, notes: Mapping[int, PartNote]) -> list[PartRow]:
    numbers: Sequence[int] = range(1, session.parts_total + 1)
    return [PartRow(number=n, size=notes[n].size, digest=notes[n].digest) for n in numbers if n in notes]
