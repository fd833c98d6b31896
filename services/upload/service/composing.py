"""Putting a content together from a base version and a delta object, as a stream.

Nothing becomes an object unless its SHA-256 is the one that was announced: the multipart upload is
joined after the last byte was hashed. Every byte is read for that, but where S3 can copy ranges from
one object to another, only the parts in which something is new are sent. What was hashed and what is
copied are the same object of the same ETag, else neither is given. Memory is bounded by a few parts.
Repeating it is harmless: what an earlier attempt began is dropped.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from libs.contracts.binary import MalformedError
from libs.contracts.errors import ConflictError, NotFoundError, UnavailableError
from libs.contracts.keys import manifest_key
from libs.contracts.limits import GIB
from libs.contracts.recipe import Range, check
from libs.delta.content import ContentReader
from libs.delta.package import Delta
from libs.delta.rebuild import rebuilt
from libs.runtime.logs import get_logger
from libs.storage.port import ObjectStore, StoredObject
from libs.storage.steady import read_on
from services.upload.domain.completion import missing_error
from services.upload.domain.session import DeltaSource, Entry, Session
from services.upload.service.assembling import Assembly, CopyRefusedError, Layout, in_one
from services.upload.service.deps import Deps
from services.upload.service.steady import with_pauses

log = get_logger("composing")

LARGE: Final = 4 * GIB
"""Larger ones take minutes to hours, and from 74 GiB on much memory for each part: one at a time, for which
no smaller one waits."""


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
            if found is None or found.size != entry.size:
                hashed = await self._make(session, entry, source)
            else:
                hashed = entry.sealed and entry.verified
        with suppress(UnavailableError):  # the sweep finds it
            await self._deps.objects.delete([source.key])
        return session.with_entries([replace(entry, sealed=True, verified=hashed)])

    async def _make(self, session: Session, entry: Entry, source: DeltaSource) -> bool:
        """Make the object; return whether all that S3 holds of it is what was hashed here.

        What S3 has copied by itself was not: the janitor reads such an object.
        """
        sent = await self._deps.objects.head(source.key)
        if sent is None or sent.size != source.size:
            raise missing_error("bytes_missing", [entry.index])
        if session.s3_upload_id is not None:
            await self._deps.objects.abort_multipart(entry.key, session.s3_upload_id)
        try:
            async with aclosing(read_on(self._deps.objects, source.key, Range(0, source.size))) as pieces:
                delta = Delta(pieces, in_thread=asyncio.to_thread)
                layout = await self._put_together(session, entry, source, delta)
        except (MalformedError, NotFoundError) as error:
            log.warning("a delta is refused", upload_id=session.id, reason=str(error))
            with suppress(UnavailableError):  # the sweep finds it
                await self._deps.objects.delete([source.key])
            raise ConflictError(code="delta_refused") from error
        except CopyRefusedError as error:
            self._deps.trust.copy_refused(str(error))
            raise UnavailableError("S3 refuses to copy a part", retry_after=1) from error
        return not any(layout.copies)

    async def _put_together(
        self, session: Session, entry: Entry, source: DeltaSource, delta: Delta
    ) -> Layout:
        """Make it and return of what parts.

        Raises `MalformedError`, `NotFoundError` and `CopyRefusedError`; then nothing stays.
        """
        recipe = await delta.recipe()
        check(recipe, source.base_size, entry.size)
        base = await self._base(source)
        layout = Layout.of(recipe, base, may_copy=self._deps.trust.copies)
        assembly = await self._assembly(session, entry, layout)
        reader = ContentReader(entry.size)
        try:
            fetched = partial(_fetched, self._deps.objects, base)
            await _carry_over(rebuilt(recipe, fetched, delta.literals()), entry, reader, assembly)
            await self._keep_manifest(session, entry, reader)
            await assembly.finish()
        except (MalformedError, NotFoundError, CopyRefusedError):
            await assembly.drop()
            raise
        finally:
            await assembly.settle()
        return layout

    async def _base(self, source: DeltaSource) -> StoredObject:
        """Return what S3 holds of the base; all reading and copying is of that very object."""
        found = await self._deps.objects.head(source.base_key)
        if found is None or found.size != source.base_size:
            raise NotFoundError("The base is gone, or another object now")
        return found

    async def _assembly(self, session: Session, entry: Entry, layout: Layout) -> Assembly:
        """Return where the content goes; a multipart upload is the session's before a byte is in it."""
        objects = self._deps.objects
        if in_one(entry.size):
            return Assembly(objects, entry.key, layout, None)
        begun = await objects.create_multipart(entry.key, copied=layout.noted)
        after = replace(session, s3_upload_id=begun)
        owner = None if session.lease is None else session.lease.owner
        if not await self._deps.sessions.change(session, after, **{"lease.owner": owner}):
            await objects.abort_multipart(entry.key, begun)
            raise UnavailableError("Another process puts this together", retry_after=1)
        return Assembly(objects, entry.key, layout, begun)

    async def _keep_manifest(self, session: Session, entry: Entry, reader: ContentReader) -> None:
        """Keep what was learnt of the chunks: the next delta, up or down, rests on it."""
        manifest = await asyncio.to_thread(reader.manifest)
        if manifest is not None:
            key = manifest_key(session.namespace_id, entry.object_id)
            await self._deps.objects.put(key, b"".join(manifest.encode()))


def _fetched(objects: ObjectStore, base: StoredObject, wanted: Range) -> AsyncGenerator[bytes, None]:
    return read_on(objects, base.key, wanted, etag=base.etag)


async def _carry_over(
    pieces: AsyncGenerator[bytes, None], entry: Entry, reader: ContentReader, assembly: Assembly
) -> None:
    """Stream the content to where it goes, each part hashed while the next one comes.

    Raises `MalformedError` when it is not what was announced, `NotFoundError`, `CopyRefusedError`.
    """
    hashing = _Hashing(reader)
    async with aclosing(pieces):
        async for piece in with_pauses(pieces):
            for part in assembly.cut(piece):
                await hashing.take(part)
                await assembly.take(part)
    rest = assembly.rest()
    await hashing.take(rest)
    await hashing.settle()
    if reader.hexdigest() != entry.content_hash:
        raise MalformedError("The content has another hash than was announced")
    await assembly.take(rest)


class _Hashing:
    """Hashes one part in a thread while the caller goes on."""

    def __init__(self, reader: ContentReader) -> None:
        self._reader = reader
        self._busy: asyncio.Future[None] | None = None

    async def take(self, part: bytearray) -> None:
        """Begin with a part, after the one before it. It must stay as it is."""
        await self.settle()
        self._busy = asyncio.get_running_loop().run_in_executor(None, self._reader.update, part)

    async def settle(self) -> None:
        """Return when all is hashed."""
        if self._busy is not None:
            await self._busy
