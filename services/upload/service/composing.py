"""Putting a content together from a base version and a delta object, as a stream.

Nothing becomes an object unless its SHA-256 is the one that was announced: the multipart upload is
joined after the last byte was hashed. Memory is bounded by a few parts. Repeating it is harmless:
what an earlier attempt began is dropped.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from libs.contracts.binary import MalformedError
from libs.contracts.errors import ConflictError, NotFoundError, UnavailableError
from libs.contracts.keys import manifest_key
from libs.contracts.limits import GIB
from libs.contracts.parts import part_size_for
from libs.contracts.recipe import Range, check
from libs.delta.content import ContentReader
from libs.delta.package import Delta
from libs.delta.rebuild import rebuilt
from libs.runtime.logs import get_logger
from libs.storage.port import ObjectStore, PartToJoin
from libs.storage.steady import read_on
from services.upload.domain.completion import missing_error
from services.upload.domain.session import DeltaSource, Entry, Session
from services.upload.service.deps import Deps
from services.upload.service.steady import with_pauses

log = get_logger("composing")

LARGE: Final = 4 * GIB
"""Larger ones take minutes to hours, and from 93 GiB on much memory for each part: one at a time, for which
no smaller one waits."""
_IN_FLIGHT: Final = 2
"""Parts that travel to S3 while the next one is put together."""


class Composing:
    """The work of `completing` for a session whose mode is `delta`."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._small = asyncio.Semaphore(deps.settings.max_compositions)
        self._large = asyncio.Semaphore(1)

    async def compose(self, session: Session) -> Session:
        """Return the session with its entry sealed.

        Raises `ConflictError` "bytes_missing" when the delta object is not there, "delta_refused"
        when it does not give the content, and `UnavailableError`.
        """
        entry = session.entries[0]
        source = entry.delta
        if source is None:
            raise ConflictError(code="delta_refused")
        async with self._large if entry.size > LARGE else self._small:
            found = await self._deps.objects.head(entry.key)
            made = found is None or found.size != entry.size
            if made:
                await self._make(session, entry, source)
        with suppress(UnavailableError):  # the sweep finds it
            await self._deps.objects.delete([source.key])
        verified = made or (entry.sealed and entry.verified)
        return session.with_entries([replace(entry, sealed=True, verified=verified)])

    async def _make(self, session: Session, entry: Entry, source: DeltaSource) -> None:
        sent = await self._deps.objects.head(source.key)
        if sent is None or sent.size != source.size:
            raise missing_error("bytes_missing", [entry.index])
        sink = await self._sink(session, entry)
        reader = ContentReader(entry.size)
        try:
            await self._carry_over(entry, source, reader, sink)
            await self._keep_manifest(session, entry, reader)
            await sink.finish()
        except (MalformedError, NotFoundError) as error:
            await sink.drop()
            log.warning("a delta is refused", upload_id=session.id, reason=str(error))
            with suppress(UnavailableError):  # the sweep finds it
                await self._deps.objects.delete([source.key])
            raise ConflictError(code="delta_refused") from error
        finally:
            await sink.settle()

    async def _carry_over(
        self, entry: Entry, source: DeltaSource, reader: ContentReader, sink: "_Sink"
    ) -> None:
        """Stream the content into the sink, hashed. Raises `MalformedError`, `NotFoundError`."""
        async with aclosing(read_on(self._deps.objects, source.key, Range(0, source.size))) as sent:
            delta = Delta(sent, in_thread=asyncio.to_thread)
            recipe = await delta.recipe()
            check(recipe, source.base_size, entry.size)
            async with aclosing(rebuilt(recipe, partial(self._base, source), delta.literals())) as pieces:
                async for piece in with_pauses(pieces):
                    for part in sink.cut(piece):
                        await asyncio.to_thread(reader.update, part)
                        await sink.take(part)
        rest = sink.rest()
        await asyncio.to_thread(reader.update, rest)
        if reader.hexdigest() != entry.content_hash:
            raise MalformedError("The content has another hash than was announced")
        await sink.take(rest)

    def _base(self, source: DeltaSource, wanted: Range) -> AsyncGenerator[bytes, None]:
        return read_on(self._deps.objects, source.base_key, wanted)

    async def _sink(self, session: Session, entry: Entry) -> "_Sink":
        """Return where the content goes; a multipart upload is the session's before a byte is in it."""
        objects, part_size = self._deps.objects, part_size_for(entry.size)
        if session.s3_upload_id is not None:
            await objects.abort_multipart(entry.key, session.s3_upload_id)
        if entry.size <= part_size:
            return _Sink(objects, entry.key, part_size, None)
        begun = await objects.create_multipart(entry.key)
        after = replace(session, s3_upload_id=begun)
        owner = None if session.lease is None else session.lease.owner
        if not await self._deps.sessions.change(session, after, **{"lease.owner": owner}):
            await objects.abort_multipart(entry.key, begun)
            raise UnavailableError("Another process puts this together", retry_after=1)
        return _Sink(objects, entry.key, part_size, begun)

    async def _keep_manifest(self, session: Session, entry: Entry, reader: ContentReader) -> None:
        """Keep what was learnt of the chunks: the next delta, up or down, rests on it."""
        manifest = await asyncio.to_thread(reader.manifest)
        if manifest is not None:
            key = manifest_key(session.namespace_id, entry.object_id)
            await self._deps.objects.put(key, b"".join(manifest.encode()))


@dataclass(slots=True)
class _Sink:
    """The new object: parts of a multipart upload, or, when one part is all, one PUT."""

    objects: ObjectStore
    key: str
    part_size: int
    upload_id: str | None
    _waiting: bytearray = field(default_factory=bytearray)
    _tasks: list["asyncio.Task[PartToJoin]"] = field(default_factory=list)
    _whole: bytes = b""

    def cut(self, piece: bytes) -> list[bytes]:
        """Take bytes and return the parts that they complete."""
        self._waiting += piece
        parts = []
        while len(self._waiting) > self.part_size:
            with memoryview(self._waiting) as waiting:  # a slice of the array itself would be one copy more
                parts.append(bytes(waiting[: self.part_size]))
            del self._waiting[: self.part_size]
        return parts

    def rest(self) -> bytes:
        """Return the last part."""
        rest, self._waiting = bytes(self._waiting), bytearray()
        return rest

    async def take(self, part: bytes) -> None:
        """Have a part sent, after those before it but a few are there."""
        if self.upload_id is None:
            self._whole = part
            return
        if len(self._tasks) >= _IN_FLIGHT:
            await self._tasks[-_IN_FLIGHT]
        number = len(self._tasks) + 1
        self._tasks.append(asyncio.create_task(self._send(self.upload_id, number, part)))

    async def _send(self, upload_id: str, number: int, part: bytes) -> PartToJoin:
        try:
            return await self.objects.put_part(self.key, upload_id, number, part)
        except NotFoundError as error:
            raise UnavailableError("Another process puts this together", retry_after=1) from error

    async def finish(self) -> None:
        """Make the object of what was taken."""
        if self.upload_id is None:
            await self.objects.put(self.key, self._whole)
            return
        parts = [await task for task in self._tasks]
        try:
            await self.objects.complete_multipart(self.key, self.upload_id, parts)
        except NotFoundError as error:
            raise UnavailableError("Another process puts this together", retry_after=1) from error

    async def drop(self) -> None:
        """Let nothing of it stay."""
        await self.settle()
        if self.upload_id is not None:
            await self.objects.abort_multipart(self.key, self.upload_id)

    async def settle(self) -> None:
        """Leave nothing running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
