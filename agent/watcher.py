"""Hints that something changed on the disk; a scan finds out what. The only importer of watchdog.

On Linux this stands on watchdog's inotify reader alone, and not on its observer: that one drops
the error when a folder cannot be watched any more, tells no handler when the kernel's queue
overflowed, and holds every event behind an unmatched move back for half a second. Elsewhere the
observer of the system is used.
"""

import asyncio
import errno
import os
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Final, Protocol, Self

from typing_extensions import override
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from agent.hints import Hint, Inbox
from agent.model import Trouble
from libs.contracts.paths import STATE_FOLDER
from libs.runtime.logs import get_logger

_LINUX: Final = sys.platform.startswith("linux")
_MISSING: Final = {errno.ENOENT, errno.ENOTDIR}

if sys.platform.startswith("linux"):
    from watchdog.observers.inotify_c import (
        CallbackId,
        InotifyEvent,
        InotifyFD,
        Mask,
        WatchCallback,
        WatchDescriptor,
    )
    from watchdog.observers.inotify_c import InotifyConstants as In

log = get_logger("watcher")


class WatchLimitError(Exception):
    """Some or all folders cannot be watched: hints would be incomplete, so poll."""


class WatchLostError(Exception):
    """The root is not there, or was unmounted, deleted or moved: watch what comes in its place anew."""


class _Source(Protocol):
    """Where events come from."""

    def start(self) -> None:
        """Begin to watch; raises `OSError`."""

    def stop(self) -> None:
        """End, with every thread of it."""


class Watcher:
    """Watches one synced folder. Use it as an asynchronous context manager.

    `start` and `next` raise `WatchLimitError` as soon as the system refuses to watch a folder
    (`limited` says why): from then on hints are incomplete and only scanning by the clock helps.
    They raise `WatchLostError` when the root is gone, for good: what is mounted or made there
    later needs a new watcher, and a full scan.
    """

    def __init__(
        self,
        root: Path,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        quiet: float = 0.05,
        longest: float = 1.0,
    ) -> None:
        self._root = root.resolve()
        self._prefix = f"{self._root}/"
        self._inbox = Inbox(loop or asyncio.get_running_loop())
        self._quiet = quiet
        self._longest = longest
        self._source: _Source | None = None
        self._ended = False
        self.limited: Trouble | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to watch. What changed before it returns may have given no hint: scan afterwards."""
        try:
            await asyncio.to_thread(self._start)
            self._check()
        except BaseException:
            await self.stop()
            raise

    def _check(self) -> None:
        if self._ended:
            raise WatchLostError("The synced folder was unmounted, deleted or moved")
        if self.limited is not None:
            raise WatchLimitError(self.limited.detail)

    def _start(self) -> None:
        try:
            self._source = _source(self)
            self._source.start()
        except OSError as error:
            self.refused(error)

    async def stop(self) -> None:
        """End the watch and its threads."""
        source, self._source = self._source, None
        if source is not None:
            await asyncio.to_thread(source.stop)

    async def next(self, timeout: float | None = None) -> Hint:
        """Return the hints collected since the last call, once it is quiet; none after `timeout`.

        A file that is being written to is waited for, as long as all of it stays within the
        longest delay.
        """
        self._check()
        try:
            async with asyncio.timeout(timeout):
                await self._inbox.wait()
        except TimeoutError:
            return Hint()
        # Every event moves the time to wait for, so there is nothing else to wait on.
        while (left := self._inbox.due(self._quiet, self._longest) - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)
        self._check()
        return self._inbox.fetch()

    def changed(self, raw: str | bytes, *, open_still: bool = False) -> None:
        """Take an event of the source, about an absolute path."""
        text = os.fsdecode(raw)
        path = text.removeprefix(self._prefix)
        if path == text:
            self._inbox.everything()
        elif path != STATE_FOLDER and not path.startswith(f"{STATE_FOLDER}/"):
            self._inbox.changed(path, open_still=open_still)

    def lost(self) -> None:
        """Take from the source that it has lost events."""
        self._inbox.everything()

    def ended(self) -> None:
        """Take from the source that the root is no longer there to be watched."""
        self._ended = True
        self._inbox.everything()

    def refused(self, error: OSError) -> None:
        """Take from the source that it cannot watch something."""
        if error.errno in _MISSING:
            self.ended()
            return
        if self.limited is not None:
            return
        self.limited = Trouble("watch_limit", _explain(error))
        log.warning("not every folder can be watched", reason=self.limited.detail)
        self._inbox.everything()


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "The system's limit of watched folders is reached (fs.inotify.max_user_watches)"
    if error.errno == errno.EMFILE:
        return "The system's limit of watchers is reached (fs.inotify.max_user_instances)"
    if error.errno == errno.ENAMETOOLONG:
        return "A folder lies so deep that its path is too long to be watched"
    return f"The folder cannot be watched: {error.strerror or error}"


def _source(watcher: Watcher) -> _Source:
    if _LINUX:
        return _Inotify(watcher, os.fsencode(watcher._root))  # noqa: SLF001  two halves of one module
    return _Observed(watcher, str(watcher._root))  # noqa: SLF001  as above


class _Observed(FileSystemEventHandler):
    """The system's own observer, where that is not inotify."""

    def __init__(self, watcher: Watcher, root: str) -> None:
        self._watcher = watcher
        self._root = root
        self._observer = Observer()

    def start(self) -> None:
        self._observer.schedule(self, self._root, recursive=True)
        self._observer.start()

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join()

    @override
    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in {"opened", "closed_no_write"}:
            return
        if event.is_directory and event.event_type == "modified":
            return
        if event.event_type in {"deleted", "moved"} and os.fsdecode(event.src_path) == self._root:
            self._watcher.ended()
            return
        for path in (event.src_path, event.dest_path):
            if path:
                self._watcher.changed(path)


if sys.platform.startswith("linux"):
    _MASK: Final = Mask(
        In.IN_CREATE
        | In.IN_DELETE
        | In.IN_MOVED_FROM
        | In.IN_MOVED_TO
        | In.IN_MODIFY
        | In.IN_ATTRIB
        | In.IN_CLOSE_WRITE
        | In.IN_DELETE_SELF
        | In.IN_MOVE_SELF
        | In.IN_ONLYDIR
        | In.IN_DONT_FOLLOW
        | In.IN_EXCL_UNLINK
    )
    _LIMITS: Final = {errno.ENOSPC, errno.EMFILE, errno.ENOMEM, errno.ENAMETOOLONG}
    _GONE: Final = In.IN_DELETE_SELF | In.IN_MOVE_SELF | In.IN_UNMOUNT

    class _Inotify(WatchCallback):
        """One watch for each folder below the root, the agent's own left out.

        A new folder is watched first and reported then, so what appears in it meanwhile is found
        by the scan that follows. All events come in one thread of watchdog's.
        """

        def __init__(self, watcher: Watcher, root: bytes) -> None:
            self._watcher = watcher
            self._root = root
            self._own = root + b"/" + os.fsencode(STATE_FOLDER)
            self._reader = InotifyFD()
            self._ids = count()
            self._lock = threading.Lock()
            self._stopped = False
            self._watches: dict[WatchDescriptor, tuple[bytes, CallbackId]] = {}
            self._folders: dict[bytes, WatchDescriptor] = {}

        def start(self) -> None:
            self._reader.start()
            self._watch_below(self._root)

        def stop(self) -> None:
            self._stopped = True
            self._reader.stop()
            self._reader.join()

        @override
        def on_event(self, event: InotifyEvent) -> None:
            try:
                self._handle(event)
            except Exception:
                log.exception("an event was not understood")
                self._watcher.lost()

        @override
        def on_queue_overflow(self) -> None:
            """New folders may have been missed: watch them before the full scan."""
            self._watch_below(self._root)
            self._watcher.lost()

        @override
        def on_watch_deleted(self, wd: WatchDescriptor) -> None:
            with self._lock:
                folder, _ = self._watches.get(wd, (b"", None))
                self._drop(wd)
            if folder == self._root and not self._stopped:
                self._watcher.ended()

        def _handle(self, event: InotifyEvent) -> None:
            known = self._watches.get(event.wd)
            if known is None:
                return
            if not event.name:
                self._handle_self(event, is_root=known[0] == self._root)
                return
            path = known[0] + b"/" + event.name
            if path == self._own:
                return
            if event.is_directory:
                self._follow(event, path)
            self._watcher.changed(path, open_still=event.is_modify)

        def _handle_self(self, event: InotifyEvent, *, is_root: bool) -> None:
            """Take an event about a watched folder itself; other than the root's its parent reports."""
            if is_root and event.mask & _GONE:
                self._watcher.ended()
            elif event.mask & In.IN_UNMOUNT or (is_root and event.is_attrib):
                self._watcher.lost()

        def _follow(self, event: InotifyEvent, folder: bytes) -> None:
            if not event.is_attrib:
                # Whatever had this path has it no more.
                self._forget_below(folder)
            if event.is_create or event.is_moved_to or event.is_attrib:
                self._watch_below(folder)

        def _watch_below(self, top: bytes) -> None:
            """Watch a folder and all below it; those watched already keep their watch."""
            waiting = [top]
            while waiting:
                folder = waiting.pop()
                if folder != self._own and (folder in self._folders or self._watch(folder)):
                    waiting.extend(_folders_in(folder))

        def _watch(self, folder: bytes) -> bool:
            number = CallbackId(next(self._ids))
            try:
                wd = self._reader.add_callback(folder, _MASK, self, number)
            except OSError as error:
                if error.errno in _LIMITS or folder == self._root:
                    self._watcher.refused(error)
                return False
            if wd == -1:
                # Without permission to read it, for which watchdog raises nothing; a scan reports it.
                self._reader.remove_callbacks([(wd, number)])
                return False
            self._enter(wd, folder, number)
            return True

        def _enter(self, wd: WatchDescriptor, folder: bytes, number: CallbackId) -> None:
            with self._lock:
                before = self._drop(wd)
                self._watches[wd] = (folder, number)
                self._folders[folder] = wd
            if before is not None:
                # The same folder, watched under a name that it had before.
                self._reader.remove_callbacks([(wd, before)])

        def _drop(self, wd: WatchDescriptor) -> CallbackId | None:
            folder, number = self._watches.pop(wd, (b"", None))
            if self._folders.get(folder) == wd:
                del self._folders[folder]
            return number

        def _forget_below(self, folder: bytes) -> None:
            if folder not in self._folders:
                return
            prefix = folder + b"/"
            with self._lock:
                below = [
                    wd for path, wd in self._folders.items() if path == folder or path.startswith(prefix)
                ]
                dropped = [(wd, self._drop(wd)) for wd in below]
            self._reader.remove_callbacks([(wd, number) for wd, number in dropped if number is not None])


def _folders_in(folder: bytes) -> list[bytes]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
