"""Fetching content: into a temporary file, verified, then put in its place if that is as expected."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from agent.actions import Download
from agent.disk import DiskError, Ready, Temp
from agent.disk.errors import translated
from agent.errors import LocalError
from agent.executor.nearby import Nearby
from agent.executor.work import Work, agreed, chunks, log
from agent.model import Kind, LocalEntry, RemoteNode
from agent.transfer import in_ranges
from agent.transfer.blocking import until_stopped
from agent.transfer.retry import together
from libs.contracts.api import Download as Source
from libs.contracts.api import DownloadItem
from libs.contracts.errors import LockstepError, RateLimitedError, UnavailableError
from libs.contracts.ids import EMPTY_SHA256
from libs.contracts.limits import MAX_BATCH, SINGLE_PUT_BYTES

_IN_MEMORY: Final = 1024 * 1024
"""Files up to this size are fetched into memory: fewer steps than by way of a file."""
_PARALLEL: Final = 24
"""Files between URL and disk at once; those on the wire are bounded by the transfer's own limit."""


@contextmanager
def _memory_file() -> Iterator[int]:
    """Open a file that is in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("lockstep", os.MFD_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def is_large(action: Download) -> bool:
    """Whether a file travels by itself."""
    return action.node.kind is Kind.FILE and action.node.size > SINGLE_PUT_BYTES


class Downloads:
    """Downloads of one round."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._landed: list[tuple[Download, LocalEntry]] = []

    async def fetch(self, actions: Sequence[Download]) -> None:
        """Fetch files and links; what is done is recorded in groups as it lands."""
        for action in actions:
            if action.node.kind is Kind.SYMLINK:
                await self._link(action)
        files = [action for action in actions if action.node.kind is Kind.FILE]
        for group in chunks(await self._not_nearby(files), MAX_BATCH):
            sources = await self._sources(group)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for action, source in sources:
                        tasks.create_task(self._fetch_one(action, source))
            except* UnavailableError as errors:
                raise errors.exceptions[0] from None
            finally:
                self._record()

    async def _not_nearby(self, actions: Sequence[Download]) -> list[Download]:
        """Make of what the disk has what can be made of it; return what is left to be fetched."""
        nearby = Nearby(self._work, actions)
        near = {action.path: action for action in actions if nearby.may_help(action)}
        done: set[str] = set()

        async def make(action: Download) -> None:
            async with self._turn(action):
                try:
                    with self._work.disk.new_temp(action.node.id, action.node.version_id or "") as temp:
                        made = await nearby.fill(action, temp)
                    if made:
                        entry = await self._work.on_disk(self._install, action, temp.name)
                        self._land(action, entry)
                        done.add(action.path)
                except DiskError as error:
                    self._work.disk_failed(action.path, error)
                    done.add(action.path)
                except LocalError as error:
                    self._work.problem(action.path, error.code, error.detail)
                    done.add(action.path)
                except RateLimitedError as error:
                    log.info("no time for a delta", path=action.path, detail=error.detail)

        try:
            await together(*(make(action) for action in near.values()))
        finally:
            self._record()
        return [action for action in actions if action.path not in done]

    async def _sources(self, actions: Sequence[Download]) -> list[tuple[Download, Source | None]]:
        """Ask for the URLs; an empty file needs none."""
        empty = [a for a in actions if a.node.content_hash == EMPTY_SHA256]
        wanted = [a for a in actions if a.node.content_hash != EMPTY_SHA256]
        found: list[tuple[Download, Source | None]] = [(action, None) for action in empty]
        if not wanted:
            return found
        items = [DownloadItem(node_id=a.node.id, version_id=a.node.version_id) for a in wanted]
        try:
            reply = await self._work.api.download_batch(items)
        except RateLimitedError as error:  # waited out in vain: the rest of the round goes on
            for action in wanted:
                self._work.problem(action.path, error.code, error.detail)
            return found
        for result in reply.items:
            action = wanted[result.index]
            if result.download is not None:
                found.append((action, result.download))
            elif result.code == "unavailable":
                raise UnavailableError(result.detail or "")
            else:
                refusal = LockstepError(result.detail or "", code=result.code or "internal")
                self._work.refused(action.path, refusal)
        return found

    @asynccontextmanager
    async def _turn(self, action: Download) -> AsyncIterator[None]:
        """Hold a slot. A path whose turn is cut short is looked at: a thread may be installing the file."""
        async with self._slots:
            try:
                yield
            except asyncio.CancelledError:
                self._work.dirty.add(action.path)
                raise

    async def _fetch_one(self, action: Download, source: Source | None) -> None:
        async with self._turn(action):
            try:
                entry = await self._installed(action, source)
            except DiskError as error:
                self._work.disk_failed(action.path, error)
            except UnavailableError:
                raise
            except LockstepError as error:
                self._work.problem(action.path, error.code, error.detail)
            else:
                self._land(action, entry)
                await self._learn(action, entry)

    def _land(self, action: Download, entry: LocalEntry) -> None:
        self._landed.append((action, entry))
        if len(self._landed) >= _GROUP or is_large(action):
            self._record()

    async def _learn(self, action: Download, entry: LocalEntry) -> None:
        """Remember the chunks of a large file: of its next version only the difference will travel."""
        manifests, node = self._work.manifests, action.node
        if manifests is None or manifests.reader(node.size, node.content_hash) is None:
            return
        with suppress(DiskError), self._work.disk.open_for_read(entry.path) as (fd, _):
            await until_stopped(partial(manifests.learn, fd, node.size, node.content_hash or ""))

    async def _installed(self, action: Download, source: Source | None) -> LocalEntry:
        """Fetch, verified, and install. A larger file goes on where an earlier try stopped."""
        node, disk = action.node, self._work.disk
        if source is None or node.size <= _IN_MEMORY:
            content = b"" if source is None else await self._fetch_small(source, node)
            return await self._work.on_disk(self._put_small, action, content)
        with disk.new_temp(node.id, node.version_id or "") as temp:
            await self._fetch_into(temp, source, node)
        return await self._work.on_disk(self._install, action, temp.name)

    async def _fetch_into(self, temp: Temp, source: Source, node: RemoteNode) -> None:
        """Fetch into a temporary file, a large one with the journal beside it."""
        journal = self._work.disk.new_journal(temp) if in_ranges(node.size) else nullcontext(None)
        with journal as notes:
            if await self._work.transfer.download(source, temp.fd, notes) != node.content_hash:
                raise LocalError(code="corrupt_download")

    async def _fetch_small(self, source: Source, node: RemoteNode) -> bytes:
        with translated(node.name), _memory_file() as fd:
            if await self._work.transfer.download(source, fd) != node.content_hash:
                raise LocalError(code="corrupt_download")
            return os.pread(fd, node.size, 0)

    def _put_small(self, action: Download, content: bytes) -> LocalEntry:
        """Write and install in one go: one thread's work a file. Blocks."""
        node = action.node
        with self._work.disk.new_temp(node.id, node.version_id or "") as temp:
            os.ftruncate(temp.fd, 0)
            _write_all(temp.fd, content)
        return self._install(action, temp.name)

    def _install(self, action: Download, temp: str) -> LocalEntry:
        node = action.node
        executable = self._work.merged_bit(node, action.expect)
        ready = Ready(temp, node.content_hash or "", node.mtime_ns, executable, in_ranges(node.size))
        return self._work.disk.install(
            ready, action.path, expect=action.expect, keep_name=self._work.keep_name
        )

    def _record(self) -> None:
        landed, self._landed = self._landed, []
        if not landed:
            return
        with self._work.state.transaction():
            self._work.state.put_local([entry for _, entry in landed])
            self._work.state.put_synced(
                [
                    replace(agreed(action.node, entry), stat=self._work.as_told(action.node, entry))
                    for action, entry in landed
                ]
            )
            self._work.done(*(action.path for action, _ in landed))
        self._work.tally.downloaded_files += sum(a.node.kind is Kind.FILE for a, _ in landed)

    async def _link(self, action: Download) -> None:
        disk, target = self._work.disk, action.node.symlink_target or ""
        try:
            if not disk.safe_symlink(action.path, target):
                self._work.problem(action.path, "unsafe_symlink", "The link leads out of the folder")
                return
            if action.expect is None:
                entry = await self._work.on_disk(disk.make_symlink, action.path, target)
            else:
                entry = await self._work.on_disk(
                    disk.replace_symlink,
                    action.path,
                    target,
                    expect=action.expect,
                    keep_name=self._work.keep_name,
                )
        except DiskError as error:
            self._work.disk_failed(action.path, error)
        else:
            self._landed.append((action, entry))
            self._record()


_GROUP: Final = 64
"""Results recorded in one transaction."""
