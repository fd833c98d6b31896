"""Keeping the engine told of changes on the disk: by a watcher, or by looking again and again.

Hints only: whatever is missed here is found by the next full scan.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.model import Trouble
from agent.watcher import Watcher, WatchLimitError, WatchLostError
from libs.runtime.logs import get_logger

log = get_logger("watching")

_WATCH_LIMIT: Final = "watch_limit"
_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def ground_of(folder: Path) -> frozenset[str]:
    """Return which folder stands at a path, and which disks are mounted above and below it.

    Watches stay on the folder that they were put on: a disk that is mounted over it, or over one
    in it, gives no event.
    """
    try:
        found = folder.stat()
        here = f"{found.st_dev}:{found.st_ino}"
    except OSError:
        here = "none"
    return frozenset({here, *_mounts_about(os.fspath(folder.resolve()))})


def _mounts_about(folder: str) -> Iterator[str]:
    """Yield the mounts (id, device, place) that `folder` lies in, and those in it; Linux only."""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, device, _, escaped, *_ = line.split(" ")
        place = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), escaped)
        if _is_in(folder, place) or _is_in(place, folder):
            yield f"{number} {device} {place}"


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class Watching:
    """Hands on what changes below `folder`: paths, or None for anything anywhere.

    `poll_seconds`: between looks where the system has no watches left or the folder is away;
    `again_seconds`: between tries to watch again. `warn` is told why the folder is not watched,
    and None when it is again.
    """

    def __init__(
        self,
        folder: Path,
        touch: Callable[[set[str] | None], None],
        warn: Callable[[Trouble | None], None],
        *,
        poll_seconds: float,
        again_seconds: float,
    ) -> None:
        self._folder = folder
        self._touch = touch
        self._warn = warn
        self._poll_seconds = poll_seconds
        self._again_seconds = again_seconds

    async def run(self) -> None:
        """Hand on hints until cancelled."""
        while True:
            try:
                with suppress(WatchLostError):
                    await self._follow()
                log.warning("the synced folder, or a disk in it, went away or came: it is watched anew")
                await self._wait_for_folder()
            except WatchLimitError as error:
                await self._poll(str(error))

    async def _follow(self) -> None:
        """Hand on hints until the folder goes away, or a disk comes or goes in its place or in it.

        Raises `WatchLostError`, `WatchLimitError`.
        """
        ground = await asyncio.to_thread(ground_of, self._folder)
        async with Watcher(self._folder) as watcher:
            self._warn(None)
            self._touch(None)  # what changed before the watches stood
            look_at = time.monotonic() + self._poll_seconds
            while True:
                hint = await watcher.next(max(0.0, look_at - time.monotonic()))
                if hint:
                    self._touch(None if hint.overflow else set(hint.paths))
                if time.monotonic() >= look_at:
                    if await asyncio.to_thread(ground_of, self._folder) != ground:
                        raise WatchLostError("A disk was mounted or unmounted")
                    look_at = time.monotonic() + self._poll_seconds

    async def _wait_for_folder(self) -> None:
        while True:
            self._touch(None)
            if await asyncio.to_thread(self._folder.is_dir):
                return
            await asyncio.sleep(self._poll_seconds)

    async def _poll(self, detail: str) -> None:
        """Have everything looked at again and again, until it is time to try to watch once more.

        Watching takes as many watches as there are; trying often would take them from others.
        """
        log.warning("polling: not every folder can be watched", detail=detail)
        self._warn(Trouble(_WATCH_LIMIT, f"{detail}: changes are looked for now and then instead"))
        until = time.monotonic() + self._again_seconds
        while time.monotonic() < until:
            self._touch(None)
            await asyncio.sleep(self._poll_seconds)
