"""One file of any size: stored already, one PUT, or in parts of which only the missing are sent."""

import asyncio
import time
from collections.abc import Container, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.errors import LocalError
from agent.transfer.channel import Channel
from agent.transfer.delta import Packed, packed
from agent.transfer.lanes import Lanes
from agent.transfer.retry import DamagedError, repeat, side_by_side
from agent.transfer.small import display_path
from agent.transfer.source import (
    LargeSource,
    Part,
    measure,
    part_body,
    proven_digests,
)
from agent.transfer.spool import Spool
from libs.contracts.api import (
    SignedRequest,
    Upload,
    UploadMode,
    UploadRequest,
    UploadState,
    UrlsReply,
    UrlsRequest,
)
from libs.contracts.errors import ConflictError
from libs.contracts.parts import part_count, part_span
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger

log = get_logger("transfer")

_RECORD_EVERY: Final = 4
_RECORD_SECONDS: Final = 2.0
"""On a slow line each part is told of, so that other devices see it come."""
_NOTE_EVERY: Final = 64
_VERIFYING: Final = Backoff(0.2, 5.0)
_FIRST_URLS: Final = 2
"""Parts in the first request for URLs: the first bytes travel before more parts are hashed."""
_FRESH_SECONDS: Final = 60.0
"""A group of URLs that took longer to be used up is followed by a smaller one, a faster by a larger one."""
_MOST_TURNS: Final = 2
"""Of one file, before the last: with a note that was wrong, and then with a session that was told of one; or
as often as another device may change how the bytes travel."""
_WAITED_FOR: Final = frozenset({"verification_pending", "delta_under_way"})
"""Refusals to open a session because the content is here, or will be, without this device."""
_UNDER_WAY = frozenset({UploadState.COMPLETING, UploadState.COMMITTING})
_WHOLE = _UNDER_WAY | {UploadState.COMMITTED}
"""States of a session whose bytes are all in S3."""


@dataclass(frozen=True, slots=True)
class LargeUpload:
    """A session whose bytes are in S3; complete it with `Api.complete_upload`."""

    upload_id: str
    part_size: int | None
    stored: bool
    """Whether no byte had to be sent."""
    delta: str | None = None
    """SHA-256 of the delta object that was sent, or needed not be, instead of the file."""


class _ForeignPartsError(LocalError):
    """The session holds, or was announced, other parts than this device has read or remembers."""

    def __init__(self, upload_id: str, source: LargeSource, claimed: Sequence[Part]) -> None:
        super().__init__("The file is not what this upload began with", code="changed")
        self.upload_id = upload_id
        self.source = source
        self.claimed = claimed


class _IsThereError(Exception):
    """Another device has sent the part while this one waited for its turn."""


class LargeUploads:
    """Sends files one by one; parts of all files share the same lanes."""

    def __init__(self, channel: Channel, lanes: Lanes) -> None:
        self._channel = channel
        self._lanes = lanes
        self._spool = Spool(channel.settings.folder, channel.settings.spool_bytes)

    async def upload(self, source: LargeSource) -> LargeUpload:
        """See `Transfer.upload_large`."""
        for _ in range(_MOST_TURNS):
            try:
                return await self._send(source)
            except _ForeignPartsError as error:
                log.warning("an upload had other parts", path=source.path, upload_id=error.upload_id)
            except ConflictError as error:
                if error.code != "upload_changed":
                    raise
                log.info("another device has changed what travels of an upload", path=source.path)
        return await self._send(source)

    async def forget_delta(self, source: LargeSource, delta: str | None) -> None:
        """Drop what is kept of a content's delta object: it is of no more use, or was wrong."""
        await asyncio.to_thread(self._spool.remove, source.content_hash)
        if delta is not None:
            source.notes_of(delta).forget()

    def keep_deltas(self, wanted: Container[str]) -> None:
        """Drop what is kept of delta objects for contents that are not wanted any more. Blocks."""
        self._spool.tidy(wanted)

    async def _settle(self, error: _ForeignPartsError) -> None:
        """Abort a session that can never be completed, because it has parts of another content.

        They were read, here or on another device, while the file changed. A session whose parts are
        right is left alone, since another device may be at work on it: then the notes were wrong, or
        the disk has once given other bytes. Raises "changed" unless the file itself is, to the last
        byte, what was announced: only that proves what its parts are.
        """
        source = error.source
        source.notes.forget()
        proven = await asyncio.to_thread(proven_digests, source, error.claimed)
        if proven is None or not await asyncio.to_thread(source.unchanged):
            raise LocalError(error.detail, code="changed") from error
        if proven == [part.digest for part in error.claimed]:
            await self._channel.api.abort_upload(error.upload_id)

    async def _send(self, source: LargeSource) -> LargeUpload:
        async with packed(source, self._spool) as delta:
            session = await self._open(source, delta)
            try:
                await self._send_bytes(session, source, delta)
            except _ForeignPartsError as error:
                await self._settle(error)
                raise
            if not await asyncio.to_thread(source.unchanged):
                raise LocalError(code="changed")
        self._channel.tally.file_done()
        mode = session.entries[0].mode
        by_delta = None if delta is None or mode is not UploadMode.DELTA else delta.offer.sha256
        return LargeUpload(session.id, session.part_size, mode is UploadMode.STORED, by_delta)

    async def _send_bytes(self, session: Upload, source: LargeSource, delta: Packed | None) -> None:
        entry = session.entries[0]
        if entry.mode is UploadMode.DELTA and delta is not None:
            await self._send_delta(session, source, delta)
        elif entry.mode is UploadMode.PUT and entry.put is not None:
            await self._send_whole(session.id, entry.put, source)
        elif entry.mode is UploadMode.MULTIPART:
            await self._send_parts(session, source)
        else:
            self._channel.tally.settled(source.size)

    async def _send_delta(self, session: Upload, source: LargeSource, delta: Packed) -> None:
        """Send a delta object as any file; what the server has already of the content counts as done."""
        entry, saved = session.entries[0], source.size - delta.size
        notes = source.notes_of(delta.offer.sha256)
        whole = LargeSource(
            source.path, delta.size, delta.offer.sha256, delta.file.fileno(), source.unchanged, notes
        )
        self._channel.tally.settled(saved)
        try:
            if entry.put is not None:
                await self._send_whole(session.id, entry.put, whole)
            elif session.part_size is not None:
                await self._send_parts(session, whole, delta=delta.offer.sha256)
            else:
                self._channel.tally.settled(delta.size)
        except (_ForeignPartsError, ConflictError):
            self._channel.tally.lost(saved)
            raise

    async def _send_parts(self, session: Upload, source: LargeSource, delta: str | None = None) -> None:
        """Send what is missing, unless another device that works on the session ends it first."""
        size = session.part_size or source.size
        self._channel.tally.resumes(
            sum(part_span(source.size, size, part.number)[1] for part in session.parts)
        )
        run = _PartsRun(self._channel, self._lanes, session, source, delta)
        try:
            await run.send()
        except ConflictError as error:
            self._channel.tally.lost(run.settled)
            if error.code != "upload_not_open":
                raise
            now = await self._channel.api.get_upload(session.id)
            if now.state not in _WHOLE:
                raise
            self._channel.tally.settled(source.size)
        except _ForeignPartsError:
            self._channel.tally.lost(run.settled)
            raise

    async def _open(self, source: LargeSource, delta: Packed | None) -> Upload:
        """Open or join a session; one that is being committed elsewhere is waited for."""
        request = UploadRequest(
            content_hash=source.content_hash,
            size=source.size,
            path=display_path(source.path),
            throughput=source.throughput,
            delta=None if delta is None else delta.offer,
        )
        session = await self._created(request)
        if session.state in _UNDER_WAY:
            await self._channel.api.settled(session.id)
            session = await self._created(request)
        return session

    async def _created(self, request: UploadRequest) -> Upload:
        """Open or join a session; while the server reads an object with the same content, wait.

        Once it is verified nothing has to be sent. When that takes too long the bytes are sent. So it is
        while another device sends the content as a difference, for as long as the server hears of it.
        """
        deadline = time.monotonic() + self._channel.settings.verification_wait_seconds
        created = await self._created_if_verified(request)
        if created is None:
            with self._channel.tally.waiting():
                created = await self._awaited(request, deadline)
        return created

    async def _awaited(self, request: UploadRequest, deadline: float) -> Upload:
        attempt = 0
        while True:
            await asyncio.sleep(_VERIFYING.delay(attempt))
            attempt += 1
            if time.monotonic() > deadline:
                request = request.model_copy(update={"send_anyway": True})
            created = await self._created_if_verified(request)
            if created is not None:
                return created

    async def _created_if_verified(self, request: UploadRequest) -> Upload | None:
        try:
            return await self._channel.api.create_upload(request)
        except ConflictError as error:
            if error.code not in _WAITED_FOR:
                raise
            return None

    async def _send_whole(self, upload_id: str, signed: SignedRequest, source: LargeSource) -> None:
        part = await asyncio.to_thread(measure, source, 1, 0, source.size)
        if part.digest != source.content_hash:
            raise LocalError(code="changed")

        async def renew() -> None:
            nonlocal signed
            signed = (await self._channel.api.upload_urls(upload_id, UrlsRequest(entries=[0]))).items[0]

        await repeat(self._channel.patience, lambda: _put(self._channel, signed, source, part), renew)
        self._channel.tally.sent(source.size)


class _PartsRun:
    """Sends the missing parts of one session, each by a task of its own once a lane is free.

    Little is prepared ahead: what one device has prepared is what another, that works on the same
    session from the other end, may send too when they meet.
    """

    def __init__(
        self, channel: Channel, lanes: Lanes, session: Upload, source: LargeSource, delta: str | None = None
    ) -> None:
        self._api = channel.api
        self._delta = delta
        self._channel = channel
        self._lanes = lanes
        self._upload_id = session.id
        self._part_size = session.part_size or max(source.size, 1)
        self._held = {part.number: part.digest for part in session.parts}
        self._source = source
        self._known = source.notes.known(self._part_size)
        self._joined = session.joined
        self._recorded_at = time.monotonic()
        self._unrecorded: dict[int, str] = {}
        self._unnoted: dict[int, str] = {}
        self.settled = 0
        """Bytes of parts that were counted as being where they are to be."""

    async def send(self) -> None:
        """Send what S3 does not hold yet. Raises `LocalError` "changed"."""
        try:
            async with side_by_side() as tasks:
                await self._send_missing(tasks)
            await self._record()
        finally:
            self._keep_notes()

    async def _send_missing(self, tasks: asyncio.TaskGroup) -> None:
        """Hash missing parts and get URLs for them, a group at a time, just before they are sent."""
        numbers = list(range(1, part_count(self._source.size, self._part_size) + 1))
        if self._joined and not self._known:
            numbers.reverse()  # another device began at the start: meet it
        most = self._channel.settings.url_batch
        count, group = min(_FIRST_URLS, most), list[Part]()
        for number in numbers:
            part = await self._missing(number)
            if part is not None:
                group.append(part)
            if len(group) == count:
                count, group = await self._hand_out(tasks, group, most), []
        await self._hand_out(tasks, group, most)

    async def _hand_out(self, tasks: asyncio.TaskGroup, parts: list[Part], most: int) -> int:
        """Have parts sent; return how many to prepare next, so that no URL waits until it is stale."""
        if not parts:
            return most
        begun = time.monotonic()
        reply = await self._signed(parts)
        for part in parts:
            if part.number in reply.done:
                self._is_there(part)
            else:
                await self._in_a_lane(tasks, self._send(part, reply.items[part.number]))
        fresh = time.monotonic() - begun < _FRESH_SECONDS
        return min(2 * len(parts), most) if fresh else max(1, len(parts) // 2)

    async def _missing(self, number: int) -> Part | None:
        """Return the part when S3 lacks it. Raises "changed" when S3 holds another content for it."""
        held, known = self._held.get(number), self._known.get(number)
        offset, length = part_span(self._source.size, self._part_size, number)
        if known is None:
            part = await asyncio.to_thread(measure, self._source, number, offset, length)
        else:
            part = Part(number, offset, length, known, noted=True)
        if held is None:
            return part
        if held != part.digest:
            raise _ForeignPartsError(self._upload_id, self._source, [part])
        if known is None:
            self._note(part)
        self._there(length)
        return None

    def _is_there(self, part: Part) -> None:
        """Another device has sent the part since this one joined."""
        self._note(part)
        self._there(part.length)

    def _there(self, count: int) -> None:
        self._channel.tally.settled(count)
        self.settled += count

    def _note(self, part: Part) -> None:
        """Remember a part that S3 holds without having been told by this run; many in one write."""
        self._unnoted[part.number] = part.digest
        if len(self._unnoted) >= _NOTE_EVERY:
            self._keep_notes()

    def _keep_notes(self) -> None:
        digests, self._unnoted = self._unnoted, {}
        if digests:
            self._source.notes.note(self._upload_id, self._part_size, digests)

    async def _signed(self, parts: list[Part]) -> UrlsReply:
        request = UrlsRequest(parts={part.number: part.digest for part in parts}, delta=self._delta)
        try:
            return await self._api.upload_urls(self._upload_id, request)
        except ConflictError as error:
            if error.code == "part_digest_fixed":
                raise _ForeignPartsError(self._upload_id, self._source, parts) from error
            raise

    async def _in_a_lane(self, tasks: asyncio.TaskGroup, job: Coroutine[Any, Any, None]) -> None:
        """Start a task once a lane is free; it is given back even when the task never ran."""
        try:
            await self._lanes.enter()
        except asyncio.CancelledError:
            job.close()
            raise
        try:
            task = tasks.create_task(job)
        except RuntimeError:  # the group is being stopped by another part's error
            self._lanes.leave()
            job.close()
            raise
        task.add_done_callback(lambda _: self._lanes.leave())

    async def _send(self, part: Part, signed: SignedRequest) -> None:
        try:
            await self._send_part(part, signed)
        except _IsThereError:
            self._is_there(part)
            return
        self._lanes.moved(part.length)
        self._channel.tally.sent(part.length)
        self.settled += part.length
        self._unrecorded[part.number] = part.digest
        due = time.monotonic() - self._recorded_at >= _RECORD_SECONDS
        if due or len(self._unrecorded) >= _RECORD_EVERY:
            await self._record()

    async def _send_part(self, part: Part, signed: SignedRequest) -> None:
        async def renew() -> None:
            nonlocal signed
            reply = await self._signed([part])
            if part.number in reply.done:
                raise _IsThereError
            signed = reply.items[part.number]

        async def once() -> None:
            try:
                await _put(self._channel, signed, self._source, part)
            except DamagedError:
                await self._check_note(part)
                raise

        await repeat(self._channel.patience, once, renew, self._lanes.struggled)

    async def _check_note(self, part: Part) -> None:
        """Read a part that S3 refused, when its digest is but a note: the note may be what is wrong."""
        if part.noted:
            again = await asyncio.to_thread(measure, self._source, part.number, part.offset, part.length)
            if again.digest != part.digest:
                raise _ForeignPartsError(self._upload_id, self._source, [again])

    async def _record(self) -> None:
        """Tell the server, and this device's memory, of parts that are in S3."""
        self._recorded_at = time.monotonic()
        parts, self._unrecorded = self._unrecorded, {}
        if parts:
            self._unnoted.update(parts)
            self._keep_notes()
            await self._api.record_parts(self._upload_id, parts, self._delta)


async def _put(channel: Channel, signed: SignedRequest, source: LargeSource, part: Part) -> None:
    """Send a part once. Raises "changed" when the store refuses the bytes of a file that is another now."""
    try:
        await channel.wire.put(signed, part_body(source, part))
    except DamagedError as error:
        if not await asyncio.to_thread(source.unchanged):
            raise LocalError(code="changed") from error
        raise
