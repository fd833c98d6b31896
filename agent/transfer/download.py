"""One file from S3 into a temporary file: continued where it stopped, verified as a whole."""

import asyncio
import hashlib
import os
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from agent.errors import LocalError
from agent.transfer.channel import Channel
from agent.transfer.retry import TransientError, repeat
from libs.contracts.api import Download
from libs.contracts.limits import MIB

_IN_LOOP: Final = 64 * 1024
"""Pieces up to this size are hashed and written without a thread: that is cheaper."""
_PAUSE: Final = 0.1


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
    """Fetches files."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def fetch(self, item: Download, fd: int) -> str:
        """See `Transfer.download`."""
        target = _Target(fd, item.size)
        if os.fstat(fd).st_size:
            await _blocking(target.rehash)
        self._channel.tally.settled(target.offset)
        digest = await self._verified(item, target)
        self._channel.tally.file_done()
        return digest

    async def _verified(self, item: Download, target: _Target) -> str:
        try:
            return await self._fetched(item, target)
        except _CorruptError:
            await _blocking(target.restart)
        try:
            return await self._fetched(item, target)
        except _CorruptError as error:
            await _blocking(target.restart)
            raise LocalError(code="corrupt_download") from error

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
            await asyncio.sleep(_PAUSE)

    async def _read(self, link: Download, target: _Target) -> None:
        """Read on from where the file ends. What came before a break is kept."""
        async with self._channel.wire.get(link.url, target.offset) as response:
            await _check_length(response, target)
            async for piece in response.content.iter_any():
                if target.offset + len(piece) > target.size:
                    raise _CorruptError
                await _append(target, piece)
                self._channel.tally.received(len(piece))
                self._channel.patience.succeeded()
        if not target.whole:
            raise _CorruptError


async def _check_length(response: aiohttp.ClientResponse, target: _Target) -> None:
    """Refuse an answer whose announced length is not what is missing; start over at a whole one."""
    if response.status == HTTPStatus.OK and target.offset:
        await _blocking(target.restart)
    if response.content_length is not None and response.content_length != target.size - target.offset:
        raise _CorruptError


async def _append(target: _Target, piece: bytes) -> None:
    if len(piece) <= _IN_LOOP:
        _guarded(target.append, piece)
    else:
        await _blocking(target.append, piece)


async def _blocking(call: Any, *args: Any) -> None:
    """Call in a thread; a cancelled caller waits for its end, for the thread writes to an open file."""
    thread = asyncio.ensure_future(asyncio.to_thread(_guarded, call, *args))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


def _guarded(call: Any, *args: Any) -> None:
    """Call with the file system's errors as `LocalError` "unwritable" (such as a full disk)."""
    try:
        call(*args)
    except OSError as error:
        raise LocalError(f"The file cannot be written: {error.strerror}", code="unwritable") from error
