"""What clients ask for while they send: URLs, and the noting of parts that are sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libs.contracts.api import SignedRequest, Upload, UploadState, UrlsReply
from libs.contracts.errors import ConflictError, InvalidRequestError
from libs.contracts.parts import part_span
from services.upload.domain.completion import missing_error
from services.upload.domain.session import Device, Entry, Session
from services.upload.service.deps import Deps
from services.upload.service.multiparts import Multiparts
from services.upload.service.present import presign_puts, request_of, shown
from services.upload.store.parts import PartNote

Digests = Mapping[int, str]
"""Part number → SHA-256 of the part, in hex."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts as a client names them."""

    digests: Digests
    delta: str | None = None
    """SHA-256 of the delta object that they are parts of; None: of the content."""


class Transfers:
    """Use cases of `POST /uploads/{id}/urls` and `/parts`."""

    def __init__(self, deps: Deps, multiparts: Multiparts) -> None:
        self._deps = deps
        self._multiparts = multiparts

    async def part_urls(self, session: Session, device: Device, asked: Parts) -> UrlsReply:
        """Presign parts, each bound to its length and digest, and name those that are done already.

        Raises `ConflictError` "part_digest_fixed" when another digest was given before, and
        "upload_changed" when they are parts of something that does not travel any more.
        """
        digests = asked.digests
        _check_open(session)
        _check_parts(session, asked)
        known = await self._deps.parts.of(session, list(digests))
        notes = await self._deps.parts.fix_digests(session, digests, known)
        try:
            session = await self._multiparts.ensure(session)
            await self._touch(session, device)
        except ConflictError as error:
            if error.code == "upload_changed":
                fixed = {number: digest for number, digest in digests.items() if number not in known}
                await self._deps.parts.take_back(session, fixed)
            raise
        _check_digests(notes, digests)
        items = {note.number: await self._part_url(session, note) for note in notes.values()}
        return UrlsReply(items=items, done=sorted(note.number for note in notes.values() if note.done))

    async def _part_url(self, session: Session, note: PartNote) -> SignedRequest:
        travelling = session.in_parts
        if travelling is None or travelling.upload_id is None:
            raise ConflictError(code="upload_changed")
        signed = await self._deps.objects.presign_part(
            travelling.key, travelling.upload_id, note.number, size=note.size, sha256=note.digest
        )
        return request_of(signed)

    async def entry_urls(self, session: Session, device: Device, indexes: Sequence[int]) -> UrlsReply:
        """Presign the PUTs of entries again."""
        _check_open(session)
        entries = [_entry_to_put(session, index) for index in dict.fromkeys(indexes)]
        await self._touch(session, device)
        return UrlsReply(items=await presign_puts(self._deps.objects, entries))

    async def record(self, session: Session, device: Device, asked: Parts) -> Upload:
        """Note parts as sent: a hint for people and other devices. What counts is what S3 lists.

        Raises `ConflictError` "parts_missing" for parts that no URL was asked for, and as `part_urls`.
        """
        digests = asked.digests
        _check_open(session)
        _check_parts(session, asked)
        notes = await self._deps.parts.of(session, list(digests))
        unknown = sorted(set(digests) - set(notes))
        if unknown:
            raise missing_error("parts_missing", unknown)
        _check_digests(notes, digests)
        after = await self._deps.parts.record(session, list(digests), device, self._deps.now())
        return shown(after)

    async def _touch(self, session: Session, device: Device) -> None:
        """Keep the session alive. Raises `ConflictError`: URLs of one that has ended lead nowhere.

        "upload_changed": since it was read, another device has changed what travels.
        """
        now = self._deps.now()
        expires_at = self._deps.expiry(session.entries, now)
        if not await self._deps.sessions.touch(session.id, device, now, expires_at, attempt=session.attempt):
            is_open = await self._deps.sessions.state(session.id) is UploadState.OPEN
            raise ConflictError(code="upload_changed" if is_open else "upload_not_open")


def _check_open(session: Session) -> None:
    if session.state is not UploadState.OPEN:
        raise ConflictError(code="upload_not_open")


def _check_parts(session: Session, asked: Parts) -> None:
    """Raise unless what travels in parts is what was asked for, and has parts of these numbers.

    A device that was not told of another way yet would fix digests of parts that are not those.
    """
    travelling = session.in_parts
    if travelling is None and asked.delta is None and not session.composed:
        raise InvalidRequestError("The bytes of this session do not travel in parts")
    if travelling is None or travelling.delta != asked.delta:
        raise ConflictError(code="upload_changed")
    for number in asked.digests:
        try:
            part_span(travelling.size, session.part_size or 1, number)
        except ValueError as error:
            raise InvalidRequestError(f"Parts have numbers from 1 to {session.parts_total}") from error


def _check_digests(notes: Mapping[int, PartNote], digests: Digests) -> None:
    differing = sorted(number for number, digest in digests.items() if notes[number].digest != digest)
    if differing:
        raise ConflictError(code="part_digest_fixed", parts=differing[:100])


def _entry_to_put(session: Session, index: int) -> Entry:
    entry = next((entry for entry in session.entries if entry.index == index), None)
    if entry is None or not entry.needs_put():
        raise InvalidRequestError(f"Entry {index} has nothing to send in one request")
    return entry
