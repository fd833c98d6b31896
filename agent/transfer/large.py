"""One file of any size: stored already, one PUT, or in parts of which only the missing are sent."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from agent.errors import LocalError
from agent.transfer.channel import Channel
from agent.transfer.retry import DamagedError, repeat, together
from agent.transfer.small import display_path
from agent.transfer.wire import PIECE, Body
from libs.contracts.api import SignedRequest, Upload, UploadMode, UploadRequest, UploadState, UrlsRequest
from libs.contracts.errors import ConflictError
from libs.contracts.limits import MIB
from libs.contracts.parts import part_count, part_span

_RECORD_EVERY = 4
_UNDER_WAY = frozenset({UploadState.COMPLETING, UploadState.COMMITTING})


def _unchanged() -> bool:
    return True


def _nothing(_number: int, _digest: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class LargeSource:
    """A file to send, read through `fd` by position (so the offset is not used).

    `unchanged` is asked after the last byte was sent: whether the file still is what was
    announced. `known` holds digests of parts (SHA-256, hex) kept from an earlier try with the
    same content and part size; `on_part` is told of each part that is in S3.
    """

    path: str
    size: int
    content_hash: str
    fd: int
    unchanged: Callable[[], bool] = _unchanged
    known: Mapping[int, str] = field(default_factory=dict)
    on_part: Callable[[int, str], None] = _nothing


@dataclass(frozen=True, slots=True)
class LargeUpload:
    """A session whose bytes are in S3; complete it with `Api.complete_upload`."""

    upload_id: str
    part_size: int | None
    stored: bool
    """Whether no byte had to be sent."""


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    offset: int
    length: int
    digest: str


class _ForeignPartsError(LocalError):
    """The session holds, or was announced, a part that is not the file's."""

    def __init__(self, upload_id: str) -> None:
        super().__init__("The file is not what this upload began with", code="changed")
        self.upload_id = upload_id


class LargeUploads:
    """Sends files one by one; parts of all files share the same slots."""

    def __init__(self, channel: Channel, slots: asyncio.Semaphore) -> None:
        self._channel = channel
        self._slots = slots

    async def upload(self, source: LargeSource) -> LargeUpload:
        """See `Transfer.upload_large`."""
        try:
            return await self._send(source)
        except _ForeignPartsError as error:
            await self._drop(error, source)
            return await self._send(source)

    async def _drop(self, error: _ForeignPartsError, source: LargeSource) -> None:
        """Abort a session that can never be completed, because it has parts of another content.

        They were read, here or on another device, while the file changed. Raises "changed" unless
        the file itself is, to the last byte, what was announced.
        """
        whole = await asyncio.to_thread(_measure, source, 1, 0, source.size)
        if whole.digest != source.content_hash or not await asyncio.to_thread(source.unchanged):
            raise error
        await self._channel.api.abort_upload(error.upload_id)

    async def _send(self, source: LargeSource) -> LargeUpload:
        session = await self._open(source)
        entry = session.entries[0]
        if entry.mode is UploadMode.PUT and entry.put is not None:
            await self._send_whole(session.id, entry.put, source)
        elif entry.mode is UploadMode.MULTIPART:
            await _PartsRun(self._channel, self._slots, session, source).send()
        else:
            self._channel.tally.settled(source.size)
        if not await asyncio.to_thread(source.unchanged):
            raise LocalError(code="changed")
        self._channel.tally.file_done()
        return LargeUpload(session.id, session.part_size, entry.mode is UploadMode.STORED)

    async def _open(self, source: LargeSource) -> Upload:
        """Open or join a session; one that is being committed elsewhere is waited for."""
        request = UploadRequest(
            content_hash=source.content_hash, size=source.size, path=display_path(source.path)
        )
        session = await self._channel.api.create_upload(request)
        if session.state in _UNDER_WAY:
            await self._channel.api.settled(session.id)
            session = await self._channel.api.create_upload(request)
        return session

    async def _send_whole(self, upload_id: str, signed: SignedRequest, source: LargeSource) -> None:
        part = await asyncio.to_thread(_measure, source, 1, 0, source.size)
        if part.digest != source.content_hash:
            raise LocalError(code="changed")

        async def renew() -> None:
            nonlocal signed
            signed = (await self._channel.api.upload_urls(upload_id, UrlsRequest(entries=[0]))).items[0]

        await repeat(self._channel.patience, lambda: _put(self._channel, signed, source, part), renew)
        self._channel.tally.sent(source.size)


class _PartsRun:
    """Sends the missing parts of one session: one task prepares parts, others send them."""

    def __init__(
        self, channel: Channel, slots: asyncio.Semaphore, session: Upload, source: LargeSource
    ) -> None:
        self._api = channel.api
        self._channel = channel
        self._slots = slots
        self._upload_id = session.id
        self._part_size = session.part_size or max(source.size, 1)
        self._held = {part.number: part.digest for part in session.parts}
        self._source = source
        self._workers = channel.settings.part_parallel
        self._ready: asyncio.Queue[tuple[_Part, SignedRequest] | None] = asyncio.Queue(self._workers)
        self._unrecorded: dict[int, str] = {}

    async def send(self) -> None:
        """Send what S3 does not hold yet. Raises `LocalError` "changed"."""
        await together(self._prepare(), *(self._work() for _ in range(self._workers)))
        await self._record(at_least=1)

    async def _prepare(self) -> None:
        numbers = list(range(1, part_count(self._source.size, self._part_size) + 1))
        if self._held and not self._source.known:
            numbers.reverse()  # another device began at the start: meet it
        step = self._channel.settings.url_batch
        for start in range(0, len(numbers), step):
            await self._prepare_group(numbers[start : start + step])
        for _ in range(self._workers):
            await self._ready.put(None)

    async def _prepare_group(self, numbers: list[int]) -> None:
        parts = [part for number in numbers if (part := await self._missing(number))]
        if not parts:
            return
        signed = await self._signed(parts)
        for part in parts:
            await self._ready.put((part, signed[part.number]))

    async def _missing(self, number: int) -> _Part | None:
        """Return the part when S3 lacks it. Raises "changed" when S3 holds another content for it."""
        held, known = self._held.get(number), self._source.known.get(number)
        offset, length = part_span(self._source.size, self._part_size, number)
        if held is not None and held == known:
            self._channel.tally.settled(length)
            return None
        part = await asyncio.to_thread(_measure, self._source, number, offset, length)
        if held is None:
            return part
        if held != part.digest:
            raise _ForeignPartsError(self._upload_id)
        self._source.on_part(number, part.digest)
        self._channel.tally.settled(length)
        return None

    async def _signed(self, parts: list[_Part]) -> dict[int, SignedRequest]:
        request = UrlsRequest(parts={part.number: part.digest for part in parts})
        try:
            return (await self._api.upload_urls(self._upload_id, request)).items
        except ConflictError as error:
            if error.code == "part_digest_fixed":
                raise _ForeignPartsError(self._upload_id) from error
            raise

    async def _work(self) -> None:
        while (item := await self._ready.get()) is not None:
            part, signed = item
            async with self._slots:
                await self._send_part(part, signed)
            self._channel.tally.sent(part.length)
            self._source.on_part(part.number, part.digest)
            self._unrecorded[part.number] = part.digest
            await self._record(at_least=_RECORD_EVERY)

    async def _send_part(self, part: _Part, signed: SignedRequest) -> None:
        async def renew() -> None:
            nonlocal signed
            signed = (await self._signed([part]))[part.number]

        await repeat(self._channel.patience, lambda: _put(self._channel, signed, self._source, part), renew)

    async def _record(self, *, at_least: int) -> None:
        if len(self._unrecorded) >= at_least:
            parts, self._unrecorded = self._unrecorded, {}
            await self._api.record_parts(self._upload_id, parts)


async def _put(channel: Channel, signed: SignedRequest, source: LargeSource, part: _Part) -> None:
    """Send a part once. Raises "changed" when the store refuses the bytes of a file that is another now."""
    try:
        await channel.wire.put(signed, _part_body(source, part))
    except DamagedError as error:
        if not await asyncio.to_thread(source.unchanged):
            raise LocalError(code="changed") from error
        raise


def _measure(source: LargeSource, number: int, offset: int, length: int) -> _Part:
    """Hash a part. Raises `LocalError` "changed" when the file is shorter, "unreadable". Blocks."""
    digest = hashlib.sha256()
    position, end = offset, offset + length
    while position < end:
        piece = read_piece(source.fd, position, min(MIB, end - position))
        digest.update(piece)
        position += len(piece)
    return _Part(number, offset, length, digest.hexdigest())


def read_piece(fd: int, offset: int, length: int) -> bytes:
    """Read at least one byte at `offset`; `LocalError` "changed" at the end, "unreadable"."""
    try:
        piece = os.pread(fd, length, offset)
    except OSError as error:
        raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error
    if not piece:
        raise LocalError("The file became shorter", code="changed")
    return piece


def _part_body(source: LargeSource, part: _Part) -> Body:
    async def pieces() -> AsyncIterator[bytes]:
        position, end = part.offset, part.offset + part.length
        while position < end:
            piece = await asyncio.to_thread(read_piece, source.fd, position, min(PIECE, end - position))
            yield piece
            position += len(piece)

    return Body(part.length, pieces)
