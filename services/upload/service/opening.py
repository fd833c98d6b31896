"""Opening sessions, and joining those that are open."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from libs.contracts.api import Upload, UploadMode, UploadState
from libs.contracts.errors import ConflictError, QuotaError, RateLimitedError, UnavailableError
from libs.contracts.ids import new_id
from libs.contracts.keys import new_prefix
from services.upload.domain.modes import (
    Announced,
    Offer,
    StoredCopy,
    by_delta,
    entry_of,
    is_in_the_way,
    is_offered,
    mode_of,
    rewished,
    with_parts,
)
from services.upload.domain.session import Owner, Session, dedupe_key
from services.upload.service import announce
from services.upload.service.deps import Deps
from services.upload.service.multiparts import Multiparts
from services.upload.service.present import presign_puts, shown

_TRIES: Final = 5
"""Each further one means that the session found in between ended in between."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client says beside the bytes it announces."""

    throughput: int | None = None
    """Bytes a second."""
    send_anyway: bool = False
    offer: Offer | None = None


class Opening:
    """Use cases of `POST /uploads` and `POST /uploads/batch`."""

    def __init__(self, deps: Deps, multiparts: Multiparts) -> None:
        self._deps = deps
        self._multiparts = multiparts

    async def single(self, owner: Owner, namespace_id: str, file: Announced, wish: Wish) -> Upload:
        """Return the live session of these bytes, or open one.

        Raises `QuotaError` ("file_too_large", "quota_exceeded"), `RateLimitedError`
        "too_many_sessions", and, unless the bytes are to be sent anyway, `ConflictError`
        "verification_pending" while an object of the same content is being verified: sending a
        large file can take hours, reading it here takes minutes. Also `ConflictError`
        "delta_under_way" while another device sends a delta with which this one cannot help.
        """
        self._check_size(file.size, self._deps.settings.max_file_bytes)
        for _ in range(_TRIES):
            try:
                opened = await self._opened(owner, namespace_id, file, wish)
            except ConflictError as error:
                if error.code != "upload_changed":
                    raise
                opened = None
            if opened is not None:
                return opened
        raise UnavailableError("The session changes too fast", retry_after=1)

    async def _opened(self, owner: Owner, namespace_id: str, file: Announced, wish: Wish) -> Upload | None:
        """Join or open the session; None, or "upload_changed": somebody else has changed it meanwhile."""
        key = dedupe_key(owner.user_id, namespace_id, file.content_hash, file.size)
        session = await self._deps.sessions.live_of(key)
        if session is not None:
            return await self._join(session, owner, wish)
        # Asked in this order: what is verified by the second question was not yet by the first, or is found.
        verifying = not wish.send_anyway and await self._is_being_verified(namespace_id, file)
        session = self._as_wished(await self._draft(owner, namespace_id, [file]), wish)
        if session.multipart and verifying:
            raise ConflictError(code="verification_pending")
        await self._check_room(session)
        if not await self._deps.sessions.create(session, announce.started(session)):
            return None
        return await self._shown(await self._multiparts.ensure(session))

    async def batch(self, owner: Owner, namespace_id: str, files: Sequence[Announced]) -> Upload:
        """Open a session of many small files. Raises as `single` does."""
        for file in files:
            self._check_size(file.size, self._deps.settings.single_put_bytes)
        session = replace(await self._draft(owner, namespace_id, files), batch=True)
        await self._check_room(session)
        await self._deps.sessions.create(session, announce.started(session))
        return await self._shown(session)

    def _as_wished(self, session: Session, wish: Wish) -> Session:
        """Return a session with how its bytes travel decided."""
        if session.entries[0].mode is not UploadMode.STORED and wish.offer is not None:
            return by_delta(session, wish.offer, self._deps.sizes, wish.throughput)
        return with_parts(session, self._deps.sizes, wish.throughput)

    async def _is_being_verified(self, namespace_id: str, file: Announced) -> bool:
        return await self._deps.views.being_verified(namespace_id, file.content_hash, file.size)

    def _check_size(self, size: int, most: int) -> None:
        if size > most:
            raise QuotaError(f"Files here can have {most} bytes at most", code="file_too_large")

    async def _draft(self, owner: Owner, namespace_id: str, files: Sequence[Announced]) -> Session:
        stored = await self._stored(namespace_id, files)
        prefix, now = new_prefix(namespace_id), self._deps.now()
        entries = tuple(
            entry_of(
                i,
                file,
                stored.get(file.content_hash),
                prefix,
                (new_id(), mode_of(file.size, self._deps.sizes)),
            )
            for i, file in enumerate(files)
        )
        return Session(
            id=new_id(),
            user_id=owner.user_id,
            namespace_id=namespace_id,
            batch=False,
            state=UploadState.OPEN,
            attempt=0,
            entries=entries,
            size=sum(file.size for file in files),
            key_prefix=prefix,
            device=owner.device,
            devices=(owner.device.id,),
            created_at=now,
            updated_at=now,
            expires_at=self._deps.expiry(entries, now),
        )

    async def _stored(self, namespace_id: str, files: Sequence[Announced]) -> Mapping[str, StoredCopy]:
        hashes = list({file.content_hash for file in files})
        rows = await self._deps.views.stored(namespace_id, hashes)
        return {name: StoredCopy(row["_id"], row["key"], row["size"]) for name, row in rows.items()}

    async def _check_room(self, session: Session) -> None:
        settings = self._deps.settings
        if await self._deps.sessions.count_live(session.user_id) >= settings.max_open_sessions:
            raise RateLimitedError(code="too_many_sessions", retry_after=60)
        new_bytes = sum(entry.size for entry in session.entries if entry.mode is not UploadMode.STORED)
        if settings.quota_bytes is None or new_bytes == 0:
            return
        used = await self._deps.views.used_bytes(session.namespace_id)
        reserved = await self._deps.views.reserved_bytes(session.user_id)
        if used + reserved + new_bytes > settings.quota_bytes:
            raise QuotaError(code="quota_exceeded")

    async def _join(self, session: Session, owner: Owner, wish: Wish) -> Upload | None:
        """Hand the session to a device of the account, with what is left to do; None: it has changed."""
        if session.state is not UploadState.OPEN:
            return shown(session)
        is_made = await self._is_made(session)
        if not is_made:
            self._check_not_in_the_way(session, owner, wish)
        wished = session if is_made else rewished(session, wish.offer, self._deps.sizes, wish.throughput)
        if wished is not session:
            turned = await self._turned(session, wished, keeps_parts=is_offered(session, wish.offer))
            if turned is None:
                return None
            session = turned
        now = self._deps.now()
        expires_at = self._deps.expiry(session.entries, now)
        if not await self._deps.sessions.touch(session.id, owner.device, now, expires_at):
            return None
        joined = replace(session, device=owner.device, updated_at=now, expires_at=expires_at)
        if is_made:
            return shown(_without_parts(joined)).model_copy(update={"joined": True})
        return (await self._shown(joined, await self._sent(joined))).model_copy(update={"joined": True})

    def _check_not_in_the_way(self, session: Session, owner: Owner, wish: Wish) -> None:
        quiet = timedelta(seconds=self._deps.settings.delta_wait_seconds)
        if is_in_the_way(session, owner.device.id, wish.offer, self._deps.now() - quiet):
            raise ConflictError(code="delta_under_way")

    async def _turned(self, session: Session, wished: Session, *, keeps_parts: bool) -> Session | None:
        """Write how the bytes travel from now on; None: the session has changed meanwhile.

        What was begun another way is void, and so are digests of its parts.
        """
        if not keeps_parts:
            wished = replace(wished, attempt=session.attempt + 1)
        begun = {"s3_upload_id": session.s3_upload_id, "delta_upload_id": session.delta_upload_id}
        if not await self._deps.sessions.change(session, wished, **begun):
            return None
        if not keeps_parts:
            await self._multiparts.let_go(session, wished)
            await self._deps.parts.remove([session.id])
        return wished

    async def _is_made(self, session: Session) -> bool:
        """Whether the content was put together by a completion that was refused: nothing is to be sent."""
        entry = session.entries[0]
        if not (session.composed and entry.sealed):
            return False
        found = await self._deps.objects.head(entry.key)
        return found is not None and found.size == entry.size

    async def _sent(self, session: Session) -> frozenset[int]:
        """Return the entries whose one request has been made: S3 holds what it was bound to."""
        bound = {entry.index: entry.put_bound() for entry in session.entries if entry.needs_put()}
        found = {index: await self._deps.objects.head(key) for index, (key, _, _) in bound.items()}
        return frozenset(
            index for index, (_, size, _) in bound.items() if (at := found[index]) and at.size == size
        )

    async def _shown(self, session: Session, sent: Collection[int] = ()) -> Upload:
        if session.in_parts is not None:
            session, held = await self._multiparts.revived(session)
            return shown(session, parts=await self._multiparts.rows(session, held, reconcile=True))
        to_send = [entry for entry in session.entries if entry.needs_put() and entry.index not in sent]
        return shown(session, puts=await presign_puts(self._deps.objects, to_send))


def _without_parts(session: Session) -> Session:
    """Return a session of which nothing is to be sent as it is shown."""
    return replace(session, part_size=None, parts_total=0, parts_done=0)
