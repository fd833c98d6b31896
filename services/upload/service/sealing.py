"""Making sure, at S3, that the bytes of a completion are there. Only what S3 holds is believed."""

from collections.abc import Sequence
from dataclasses import replace

from libs.contracts.errors import UnavailableError
from libs.contracts.limits import MAX_BATCH
from services.upload.domain.completion import missing_error
from services.upload.domain.session import Entry, Session
from services.upload.service.deps import Deps
from services.upload.service.multiparts import Multiparts


class Sealing:
    """The work of the state `completing`. Repeating it is harmless."""

    def __init__(self, deps: Deps, multiparts: Multiparts) -> None:
        self._deps = deps
        self._multiparts = multiparts

    async def seal(self, session: Session) -> Session:
        """Return the session with the entries asked for sealed.

        Raises `ConflictError` "bytes_missing" or "parts_missing" with `missing`, and
        `UnavailableError` when S3 does not answer.
        """
        open_entries = [entry for entry in session.asked() if not entry.sealed]
        if not open_entries:
            return session
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
            notes = await self._deps.parts.of(session)
            missing = held.missing(session, notes)
            if missing:
                said = [number for number in missing if number in notes and notes[number].done]
                await self._deps.parts.lost(session, said[:MAX_BATCH])
                raise missing_error("parts_missing", missing)
            if not await self._multiparts.join(revived, held, notes):
                raise UnavailableError("S3 has lost the parts", retry_after=1)
        sealed = session.with_entries([replace(session.entries[0], sealed=True, verified=False)])
        return replace(sealed, digests_enforced=self._deps.trust.parts)
