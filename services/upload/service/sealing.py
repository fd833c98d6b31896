"""Making sure, at S3, that the bytes of a completion are there. Only what S3 holds is believed."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from libs.contracts.api import UploadMode
from libs.contracts.errors import ConflictError, UnavailableError
from libs.contracts.limits import MAX_BATCH
from services.upload.domain.completion import missing_error
from services.upload.domain.session import Entry, Session
from services.upload.service.composing import Composing
from services.upload.service.deps import Deps
from services.upload.service.multiparts import Held, Multiparts
from services.upload.store.parts import PartNote

Notes = Mapping[int, PartNote]


class Sealing:
    """The work of the state `completing`. Repeating it is harmless."""

    def __init__(self, deps: Deps, multiparts: Multiparts, composing: Composing) -> None:
        self._deps = deps
        self._multiparts = multiparts
        self._composing = composing

    async def seal(self, session: Session) -> Session:
        """Return the session with the entries asked for sealed.

        Raises `ConflictError` "bytes_missing" or "parts_missing" with `missing`, "delta_refused",
        and `UnavailableError` when S3 does not answer.
        """
        open_entries = [entry for entry in session.asked() if _is_to_be_seen(entry)]
        if not open_entries:
            return session
        if session.composed:
            return await self._composing.compose(await self._with_delta(session))
        if session.multipart:
            return await self._seal_parts(session)
        return await self._seal_puts(session, open_entries)

    async def _seal_puts(self, session: Session, entries: Sequence[Entry]) -> Session:
        sizes = await self._sizes(session, entries)
        missing = [entry.index for entry in entries if sizes.get(entry.key) != entry.size]
        if missing:
            raise missing_error("bytes_missing", missing)
        verified = self._deps.trust.puts
        return session.with_entries(replace(entry, sealed=True, verified=verified) for entry in entries)

    async def _sizes(self, session: Session, entries: Sequence[Entry]) -> dict[str, int]:
        """Ask S3 for the sizes: one question for one object, one listing for many."""
        if len(entries) == 1:
            found = await self._deps.objects.head(entries[0].key)
            return {} if found is None else {found.key: found.size}
        return {item.key: item.size async for item in self._deps.objects.walk(f"{session.key_prefix}-")}

    async def _seal_parts(self, session: Session) -> Session:
        revived, held = await self._multiparts.revived(session)
        if not held.joined:
            await self._join(revived, held)
        sealed = session.with_entries([replace(session.entries[0], sealed=True, verified=False)])
        return replace(sealed, digests_enforced=self._deps.trust.parts)

    async def _with_delta(self, session: Session) -> Session:
        """Return the session with its delta object joined, unless the content is put together already."""
        entry = session.entries[0]
        if session.in_parts is None:
            return session
        made = await self._deps.objects.head(entry.key)
        if made is not None and made.size == entry.size:
            return session
        revived, held = await self._multiparts.revived(session)
        if not held.joined:
            await self._join(revived, held)
        return revived

    async def _join(self, session: Session, held: Held) -> None:
        notes = await self._deps.parts.of(session)
        await self._require_all(session, held, notes)
        try:
            joined = await self._multiparts.join(session, held, notes)
        except ConflictError:
            joined = await self._join_refused(session, notes)
        if not joined:
            raise UnavailableError("S3 has lost the parts", retry_after=1)

    async def _join_refused(self, session: Session, notes: Notes) -> bool:
        """Look again: a part may have gone, or have changed, since it was listed.

        Many an S3 compares the parts' SHA-256 only now, and does not say which differs
        (SeaweedFS: BadDigest). Refused twice, none can be trusted, and all are asked for again.
        """
        held = await self._multiparts.held(session)
        if held is None or held.joined:
            return held is not None
        await self._require_all(session, held, notes)
        with suppress(ConflictError):
            return await self._multiparts.join(session, held, notes)
        await self._multiparts.begin_anew(session)
        raise missing_error("parts_missing", list(range(1, session.parts_total + 1)))

    async def _require_all(self, session: Session, held: Held, notes: Notes) -> None:
        missing = held.missing(session, notes)
        if not missing:
            return
        said = [number for number in missing if number in notes and notes[number].done]
        await self._deps.parts.lost(session, said[:MAX_BATCH])
        raise missing_error("parts_missing", missing)


def _is_to_be_seen(entry: Entry) -> bool:
    """Whether S3 is to be asked: of bytes that came by this session at each completion.

    After a refusal days may pass, and bytes seen then may be gone now. Those of stored copies are
    the business of whoever owns the object.
    """
    return not entry.sealed or entry.mode is not UploadMode.STORED
