"""One file from S3 into a temporary file: continued where it stopped, verified as a whole."""

import asyncio
import hashlib
import os
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from agent.disk.look import Digest
from agent.errors import LocalError
from agent.transfer.blocking import Stop, guarded, in_thread, until_stopped
from agent.transfer.channel import Channel
from agent.transfer.lanes import Lanes
from agent.transfer.ranged import PAUSE, RangedDownload, opened
from agent.transfer.ranges import in_ranges
from agent.transfer.retry import TransientError, repeat
from agent.transfer.spots import Spots, copy_ranges, recipe_of
from agent.transfer.wire import Reading
from libs.contracts.api import Download, DownloadDelta
from libs.contracts.limits import MIB

_MOST_TRIES: Final = 3
"""Of a file in ranges, of which some turn out to be wrong."""
_MOST_WHOLE: Final = 2
"""Of these, how often nothing tells which: the whole of it is fetched."""
_IN_LOOP: Final = 64 * 1024
"""Pieces up to this size are hashed and written without a thread: that is cheaper."""


@dataclass(slots=True)
class _Target:
    """The temporary file: what it holds from the start is hashed."""

    fd: int
    size: int
    offset: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def rehash(self) -> None:
        """Hash what the file holds already. Blocks."""
        if os.fstat(self.fd).st_size > self.size:
            os.ftruncate(self.fd, 0)
        self.offset, self.digest = 0, hashlib.sha256()
        while piece := os.pread(self.fd, MIB, self.offset):
            self.digest.update(piece)
            self.offset += len(piece)

    def restart(self) -> None:
        """Drop everything."""
        os.ftruncate(self.fd, 0)
        self.offset, self.digest = 0, hashlib.sha256()

    def append(self, piece: bytes) -> None:
        """Write and hash the next bytes. Blocks."""
        self.digest.update(piece)
        view = memoryview(piece)
        while view:
            written = os.pwrite(self.fd, view, self.offset)
            self.offset += written
            view = view[written:]

    @property
    def whole(self) -> bool:
        """Whether all bytes are there."""
        return self.offset == self.size


class _CorruptError(Exception):
    """What arrived is not the file."""


class Downloads:
    """Fetches files: small ones in one stream, larger ones in ranges side by side."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        most = channel.settings.part_parallel
        self._lanes = Lanes(most)
        self._small_lanes = Lanes(most, first=most)

    async def fetch(self, item: Download, fd: int, journal: int | None) -> str:
        """See `Transfer.download`."""
        if in_ranges(item.size):
            digest = await self._in_ranges(item, fd, journal)
        else:
            digest = await self._in_one(item, fd)
        self._channel.tally.file_done()
        return digest

    async def _in_ranges(self, item: Download, fd: int, journal: int | None) -> str:
        found = await opened(self._channel, item, fd, journal)
        whole_fetches = 0
        for _ in range(_MOST_TRIES):
            digest = await RangedDownload(self._channel, self._lanes, found).fetch()
            if digest == item.content_hash:
                return digest
            dropped = await until_stopped(found.drop_wrong)
            if not dropped:
                await in_thread(found.drop)
                whole_fetches += 1
            self._channel.tally.lost(dropped or item.size)
            if whole_fetches == _MOST_WHOLE:
                break
        raise LocalError(code="corrupt_download")

    async def by_delta(self, delta: DownloadDelta, base: tuple[int, int], fd: int, digest: Digest) -> str:
        """See `Transfer.download_delta`."""
        base_fd, base_size = base
        recipe = recipe_of(delta, base_size)
        await until_stopped(partial(copy_ranges, recipe, base_fd, fd))
        spots = Spots.of(fd, delta, recipe)
        self._channel.tally.settled(delta.size - spots.size)
        await RangedDownload(self._channel, self._small_lanes, spots).fetch()
        found = await until_stopped(partial(_hashed, fd, digest))
        if found == delta.content_hash:
            self._channel.tally.file_done()
        else:
            self._channel.tally.lost(delta.size)
        return found

    async def _in_one(self, item: Download, fd: int) -> str:
        target = _Target(fd, item.size)
        if os.fstat(fd).st_size:
            await in_thread(target.rehash)
        self._channel.tally.settled(target.offset)
        try:
            return await self._fetched(item, target)
        except _CorruptError:
            await self._restart(target)
        try:
            return await self._fetched(item, target)
        except _CorruptError as error:
            await self._restart(target)
            raise LocalError(code="corrupt_download") from error

    async def _restart(self, target: _Target) -> None:
        self._channel.tally.lost(target.offset)
        await in_thread(target.restart)

    async def _fetched(self, item: Download, target: _Target) -> str:
        link = item

        async def renew() -> None:
            nonlocal link
            link = await self._channel.api.download(item.node_id, item.version_id)

        while not target.whole:
            await repeat(self._channel.patience, lambda: self._read_some(link, target), renew)
        digest: str = target.digest.hexdigest()
        if digest != item.content_hash:
            raise _CorruptError
        return digest

    async def _read_some(self, link: Download, target: _Target) -> None:
        """Read on; a break after progress is no failure, so a bad line only makes it slow."""
        before = target.offset
        try:
            await self._read(link, target)
        except TransientError:
            if target.offset <= before:
                raise
            await asyncio.sleep(PAUSE)

    async def _read(self, link: Download, target: _Target) -> None:
        """Read on from where the file ends. What came before a break is kept."""
        async with self._channel.wire.get(link.url, target.offset) as reading:
            before = target.offset
            await _check_length(reading, target)
            self._channel.tally.lost(before - target.offset)
            while piece := await reading.piece():
                if target.offset + len(piece) > target.size:
                    raise _CorruptError
                await _append(target, piece)
                self._channel.tally.received(len(piece))
                self._channel.patience.succeeded()
        if not target.whole:
            raise _CorruptError


async def _check_length(reading: Reading, target: _Target) -> None:
    """Refuse an answer whose announced length is not what is missing; start over at a whole one."""
    if reading.status == HTTPStatus.OK and target.offset:
        await in_thread(target.restart)
    if reading.length is not None and reading.length != target.size - target.offset:
        raise _CorruptError


async def _append(target: _Target, piece: bytes) -> None:
    if len(piece) <= _IN_LOOP:
        guarded(target.append, piece)
    else:
        await in_thread(target.append, piece)


def _hashed(fd: int, digest: Digest, stop: Stop) -> str:
    """Return the hash of a whole file, or of as much of it as was read until `stop`. Blocks."""
    offset = 0
    while not stop() and (piece := os.pread(fd, MIB, offset)):
        digest.update(memoryview(piece))
        offset += len(piece)
    return digest.hexdigest()
