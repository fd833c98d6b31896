"""Downloads that need little or nothing of the store: what this disk has is taken first.

The content of another local file is copied. A version that differs little from what is on the disk (see
`bases`) is put together from that and the ranges it lacks. Either is verified by its hash like a
download; when it is not right, or something is in the way, the file is fetched whole.
"""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

from agent.actions import Download
from agent.disk import DiskError, Temp
from agent.disk.look import Digest
from agent.duplicates import Duplicates, copy_content
from agent.errors import LocalError
from agent.executor.bases import Base, Bases, bridged
from agent.executor.work import Work, log
from agent.model import Kind, LocalEntry
from agent.transfer.blocking import Stop, until_stopped
from libs.contracts.api import DownloadDelta
from libs.contracts.binary import MalformedError
from libs.contracts.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from libs.delta.content import ContentReader

_NONE: Final = (ConflictError, NotFoundError, InvalidRequestError, UnavailableError)
"""What a server answers that has no delta, does not know of deltas, or takes too long to make one.

One that is away as a whole says so again when the file is to be fetched.
"""
_TRIED: Final = 3
"""Bases that the server is asked about before the file is fetched."""


class _NoTimeError(Exception):
    """The server is away, or takes too long: to ask it about another base would be no better."""


class Nearby:
    """The downloads of one round for which the disk has something."""

    def __init__(self, work: Work, actions: Sequence[Download]) -> None:
        self._work = work
        wanted = {action.node.content_hash for action in actions if action.node.content_hash is not None}
        self._duplicates = Duplicates(work.state.local, wanted)
        self._bases = Bases(work, [action.node for action in actions])

    def may_help(self, action: Download) -> bool:
        """Whether it is worth a try. Cheap."""
        if action.node.kind is not Kind.FILE or not action.node.size:
            return False
        return bool(self._same(action)) or self._bases.may_help(action)

    def _same(self, action: Download) -> list[LocalEntry]:
        return self._duplicates.of(action.node.content_hash or "", action.node.size)

    async def fill(self, action: Download, temp: Temp) -> bool:
        """Give a temporary file the content that is wanted; False: it is to be fetched.

        What an earlier try has fetched of a large file is not given up for a delta. A journal tells
        it from a delta that was interrupted.
        """
        node, begun = action.node, self._work.disk.has_journal(temp)
        for entry in self._same(action):
            digest = self._digest(action)
            # Who is cancelled waits for the thread: it writes by a number that another file may get.
            if await until_stopped(partial(self._copied, entry, temp.fd, digest)):
                self._work.transfer.tally.settled(node.size)
                self._work.transfer.tally.file_done()
                return self._keep(action, digest)
        return not begun and await self._by_deltas(action, temp)

    async def _by_deltas(self, action: Download, temp: Temp) -> bool:
        """Put a version together from what the disk has; False: the empty file is to be fetched."""
        left = _TRIED
        async with aclosing(self._bases.of(action)) as bases:
            async for base in bases:
                os.ftruncate(temp.fd, 0)
                digest = self._digest(action)
                try:
                    if await self._by_delta(action, base, temp, digest):
                        return self._keep(action, digest)
                except _NoTimeError:
                    return False
                os.ftruncate(temp.fd, 0)
                left -= 1
                if not left:
                    return False
        return False

    def _copied(self, entry: LocalEntry, fd: int, digest: Digest, stop: Stop) -> bool:
        return copy_content(self._work.disk, entry, fd, digest, stop=stop)

    async def _by_delta(self, action: Download, base: Base, temp: Temp, digest: Digest) -> bool:
        """Put a version together from another one; False: it did not work, and the file may be fetched."""
        node = action.node
        try:
            found = await self._put_together(action, base, temp, digest)
        except (MalformedError, ConflictError, NotFoundError, LocalError, DiskError) as error:
            if not _is_of_delta(error):
                raise
            log.warning("a delta comes to nothing", path=action.path, detail=str(error))
            return False
        if found not in {None, node.content_hash}:
            log.warning("a delta does not give the content", path=action.path)
        return found == node.content_hash

    async def _put_together(self, action: Download, base: Base, temp: Temp, digest: Digest) -> str | None:
        """Return the hash of what a delta gives; None when there is none, or its base has changed.

        The base is open before the server is asked: what then takes its place is no matter.
        """
        with self._work.disk.open_for_read(base.entry.path) as (fd, stat):
            if not stat.same_content_signs(base.entry.stat):
                return None
            delta = await self._delta(action, base)
            if delta is None or delta.content_hash != action.node.content_hash:
                return None
            return await self._work.transfer.download_delta(delta, (fd, stat.size), temp.fd, digest)

    async def _delta(self, action: Download, base: Base) -> DownloadDelta | None:
        node, ref = action.node, base.version
        other = None if ref.node_id == node.id else ref.node_id
        try:
            delta = await self._work.api.download_delta(node.id, ref.version_id, node.version_id, other)
        except _NONE as error:
            log.debug("no delta", path=action.path, code=error.code)
            if isinstance(error, UnavailableError):
                raise _NoTimeError from error
            return None
        return delta if base.bridge is None else await asyncio.to_thread(bridged, delta, base.bridge)

    def _digest(self, action: Download) -> Digest:
        """Return what hashes the content, and finds its chunks where they are to be remembered."""
        manifests = self._work.manifests
        reader = None if manifests is None else manifests.reader(action.node.size, action.node.content_hash)
        return reader or hashlib.sha256()

    def _keep(self, action: Download, digest: Digest) -> bool:
        """Remember the chunks of what was read anyway."""
        if self._work.manifests is not None and isinstance(digest, ContentReader):
            self._work.manifests.keep(action.node.content_hash or "", digest.manifest())
        return True


def _is_of_delta(error: Exception) -> bool:
    """Whether what went wrong may go right when the file is fetched whole."""
    if isinstance(error, LocalError):
        return error.code in {"corrupt_download", "unreadable"}
    return not (isinstance(error, DiskError) and error.code == "stopping")
