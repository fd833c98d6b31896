"""Downloads that need little or nothing of the store: what this disk has is taken first.

The content of another local file is copied. A version that differs little from the one on the disk is
put together from that and the ranges it lacks. Either is verified by its hash like a download; when it
is not right, or something is in the way, the file is fetched whole.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from agent.actions import Download
from agent.disk import DiskError, Temp
from agent.disk.look import Digest
from agent.duplicates import Duplicates, copy_content
from agent.errors import LocalError
from agent.executor.work import Work, log
from agent.model import Kind, LocalEntry, LocalKind
from agent.transfer.blocking import Stop, until_stopped
from libs.contracts.api import DownloadDelta
from libs.contracts.binary import MalformedError
from libs.contracts.chunks import SMALLEST_CHUNKED
from libs.contracts.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from libs.delta.content import ContentReader

_NONE: Final = (ConflictError, NotFoundError, InvalidRequestError, UnavailableError)
"""What a server answers that has no delta, does not know of deltas, or takes too long to make one.

One that is away as a whole says so again when the file is to be fetched.
"""


@dataclass(frozen=True, slots=True)
class Base:
    """The file that a download replaces, and the version that it has the bytes of."""

    entry: LocalEntry
    version_id: str


class Nearby:
    """The downloads of one round for which the disk has something."""

    def __init__(self, work: Work, actions: Sequence[Download]) -> None:
        self._work = work
        wanted = {action.node.content_hash for action in actions if action.node.content_hash is not None}
        self._duplicates = Duplicates(work.state.local, wanted)

    def may_help(self, action: Download) -> bool:
        """Whether it is worth a try. Cheap."""
        if action.node.kind is not Kind.FILE or not action.node.size:
            return False
        return bool(self._same(action)) or self._base(action) is not None

    def _same(self, action: Download) -> list[LocalEntry]:
        return self._duplicates.of(action.node.content_hash or "", action.node.size)

    def _base(self, action: Download) -> Base | None:
        """Return what a delta could start from: a file as both sides agreed on it, large enough."""
        entry, known = action.expect, self._work.state.synced.get(action.node.id)
        if entry is None or known is None or known.version_id is None or not self._work.settings.delta:
            return None
        is_known = entry.kind is LocalKind.FILE and entry.content_hash == known.content_hash
        large = min(entry.stat.size, action.node.size) >= SMALLEST_CHUNKED
        return Base(entry, known.version_id) if is_known and large else None

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
        base, digest = self._base(action), self._digest(action)
        if base is None or begun:
            return False
        os.ftruncate(temp.fd, 0)
        if await self._by_delta(action, base, temp, digest):
            return self._keep(action, digest)
        os.ftruncate(temp.fd, 0)
        return False

    def _copied(self, entry: LocalEntry, fd: int, digest: Digest, stop: Stop) -> bool:
        return copy_content(self._work.disk, entry, fd, digest, stop=stop)

    async def _by_delta(self, action: Download, base: Base, temp: Temp, digest: Digest) -> bool:
        """Put a version together from another one; False: it did not work, and the file may be fetched."""
        node = action.node
        delta = await self._delta(action, base)
        if delta is None or delta.content_hash != node.content_hash:
            return False
        try:
            found = await self._put_together(delta, base, temp, digest)
        except (MalformedError, ConflictError, NotFoundError, LocalError, DiskError) as error:
            if not _is_of_delta(error):
                raise
            log.warning("a delta comes to nothing", path=action.path, detail=str(error))
            return False
        if found != node.content_hash:
            log.warning("a delta does not give the content", path=action.path)
        return found == node.content_hash

    async def _delta(self, action: Download, base: Base) -> DownloadDelta | None:
        node = action.node
        try:
            return await self._work.api.download_delta(node.id, base.version_id, node.version_id)
        except _NONE as error:
            log.debug("no delta", path=action.path, code=error.code)
            return None

    async def _put_together(self, delta: DownloadDelta, base: Base, temp: Temp, digest: Digest) -> str | None:
        """Return the hash of what a delta gives; None when its base has changed."""
        with self._work.disk.open_for_read(base.entry.path) as (fd, stat):
            if not stat.same_content_signs(base.entry.stat):
                return None
            return await self._work.transfer.download_delta(delta, (fd, stat.size), temp.fd, digest)

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
        return error.code == "corrupt_download"
    return not (isinstance(error, DiskError) and error.code == "stopping")
