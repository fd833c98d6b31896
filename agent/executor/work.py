"""What all executing shares: the parts it works with, and how each result is noted.

A result is recorded in the transaction of the observation it rests on. What turns out different
from what was expected makes its path `dirty` (look again) or the feed stale (read it again);
only what stays in the way becomes a problem.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, ParamSpec, TypeVar

from agent import clock
from agent.disk import Disk, DiskError, MismatchError
from agent.executor.difference import Differences
from agent.manifests import Manifests
from agent.model import FileStat, LocalEntry, LocalKind, RemoteNode, SyncedNode, Trouble
from agent.remote import Api
from agent.settings import Settings
from agent.state import State
from agent.transfer import Transfer
from libs.contracts.errors import LockstepError
from libs.contracts.paths import conflicted_name
from libs.contracts.tree import ItemResult, NodeRow
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger

log = get_logger("executor")

P = ParamSpec("P")
T = TypeVar("T")

_STALE_LIMIT: Final = 6
"""How often an action on one path may meet something else before that becomes a problem."""
_RETRY: Final = Backoff(2.0, 600.0)
_THROUGHPUT: Final = "throughput_up"
"""The key of `meta` under which the measured speed of uploads is kept, in bytes a second."""


@dataclass(slots=True)
class Tally:
    """What was done, for the report."""

    uploaded_files: int = 0
    downloaded_files: int = 0
    conflicts: int = 0
    deleted: int = 0
    moved: int = 0


@dataclass(slots=True)
class Work:
    """The parts, and the notes of what was met."""

    state: State
    disk: Disk
    api: Api
    transfer: Transfer
    settings: Settings
    device: str
    manifests: Manifests | None = None
    """Which chunks large files consist of; None where nothing is to be remembered."""
    tally: Tally = field(default_factory=Tally)
    dirty: set[str] = field(default_factory=set)
    feed_stale: bool = False
    progressed: bool = False
    """Whether anything was carried out since the engine looked."""
    _stale: dict[str, int] = field(default_factory=dict)

    async def on_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call of the disk in a thread."""
        return await asyncio.to_thread(call, *args, **kwargs)

    def keep_name(self, name: str) -> str:
        """Name what a user wrote in the very instant in which it was to be replaced or removed."""
        return conflicted_name(name, self.device, clock.today(), lambda _: False)

    def executable(self, node: RemoteNode | None, entry: LocalEntry) -> bool:
        """Return the executable bit to tell the server: the disk's, where it was changed there.

        A disk that keeps no such bit says the same of every file; what the server has then stays.
        """
        if not self.disk.keeps_modes:
            return node is not None and node.executable
        known = None if node is None else self.state.synced.get(node.id)
        if node is None or known is None or known.stat is None:
            return entry.stat.executable
        changed = known.stat.executable != entry.stat.executable
        return entry.stat.executable if changed else node.executable

    def merged_bit(self, node: RemoteNode, entry: LocalEntry | None) -> bool:
        """Return the executable bit for a file that gets the server's content or attributes.

        It is the server's, unless the user of this disk has changed it since both agreed: then the
        next plan tells the server of it.
        """
        if entry is None or entry.kind is not LocalKind.FILE or node.id not in self.state.synced:
            return node.executable
        return self.executable(node, entry)

    def as_told(self, node: RemoteNode, entry: LocalEntry) -> FileStat:
        """Return the stat as the disk would have read it back with the server's executable bit.

        So a bit that was kept against the server's counts as changed here.
        """
        stat = entry.stat
        if (
            entry.kind is not LocalKind.FILE
            or not self.disk.keeps_modes
            or stat.executable == node.executable
        ):
            return stat
        return replace(stat, mode=stat.mode ^ 0o100)

    def on_this_disk(self, node: RemoteNode, entry: LocalEntry) -> bool:
        """Return the executable bit that is agreed on when the content of `entry` was committed.

        The server may keep a bit that another device set meanwhile. To remember it as agreed on
        would mean that this disk never gets it.
        """
        return entry.stat.executable if self.disk.keeps_modes else node.executable

    def throughput(self) -> int | None:
        """Return what this device sends a second, in bytes: as measured now, else as remembered."""
        if self.transfer.upload_rate is not None:
            self.state.put(_THROUGHPUT, str(int(self.transfer.upload_rate)))
        kept = self.state.get(_THROUGHPUT)
        return None if kept is None else int(kept)

    @property
    def differences(self) -> Differences | None:
        """What finds the versions that edited files differ little from."""
        if self.manifests is None or not self.settings.delta:
            return None
        return Differences(self.manifests, self.state, self.settings.folder)

    # Notes --------------------------------------------------------------------------------

    def done(self, *paths: str) -> None:
        """Something was carried out; problems of these paths are solved."""
        self.progressed = True
        for path in paths:
            self._stale.pop(path, None)
        self.state.drop_problems(paths)

    def disk_failed(self, path: str, error: DiskError) -> None:
        """Note what the disk refused."""
        if isinstance(error, MismatchError):
            self.look_again(path, error.code, error.detail)
        else:
            self.problem(path, error.code, error.detail)

    def look_again(self, path: str, code: str, detail: str) -> None:
        """Note that a path is not as expected: scan it, and plan again."""
        self.dirty.add(path)
        self._stale_once(path, code, detail)

    def refused(self, path: str, error: LockstepError | ItemResult) -> None:
        """Note what the server refused: read the feed, and plan again."""
        self.feed_stale = True
        self._stale_once(path, error.code or "conflict", error.detail or "")

    def _stale_once(self, path: str, code: str, detail: str) -> None:
        self._stale[path] = self._stale.get(path, 0) + 1
        log.info("not as expected", path=path, code=code, detail=detail, times=self._stale[path])
        if self._stale[path] > _STALE_LIMIT:
            del self._stale[path]
            self.problem(path, code, detail)

    def problem(self, path: str, code: str, detail: str) -> None:
        """Set a path aside with a reason until its next try."""
        log.warning("path is set aside", path=path, code=code, detail=detail)
        self.state.put_problem(path, Trouble(code, detail), _RETRY.delay)


def agreed(node: RemoteNode, entry: LocalEntry, known: SyncedNode | None = None) -> SyncedNode:
    """Return what both sides agree on: the node, and the entry as the disk read it back.

    With `known`, its place stays: the node may tell of a move that the disk has not followed yet,
    and to remember that as agreed would undo it.
    """
    place = known or node
    return SyncedNode(
        id=node.id,
        parent_id=place.parent_id,
        name=place.name,
        kind=node.kind,
        version_id=node.version_id,
        content_hash=node.content_hash,
        size=node.size,
        mtime_ns=node.mtime_ns,
        executable=node.executable,
        symlink_target=node.symlink_target,
        stat=entry.stat,
        epoch=node.epoch,
    )


def within_64_bits(nanoseconds: int) -> int:
    """Return a time that the protocol can hold: a disk may have one beyond the year 2262."""
    return max(-(2**63), min(2**63 - 1, nanoseconds))


def row_of(result: ItemResult) -> NodeRow:
    """Return the row of a result that was carried out."""
    if result.row is None:
        raise LockstepError("The server answered without a row")
    return result.row


def chunks(items: Iterable[T], size: int) -> Iterable[list[T]]:
    """Cut into lists of at most `size`."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
