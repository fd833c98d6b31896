"""Watching from outside: what happens when the system has no watches, and when disks come and go."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from watchdog.observers.inotify_c import InotifyFD

from agent import watching as module
from agent.model import Trouble
from agent.watching import Watching, ground_of
from tests.support.mounts import tmpfs, why_no_mounts

DEADLINE = 20.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    return folder


class Told:
    """What the engine was told."""

    def __init__(self) -> None:
        self.hints: asyncio.Queue[set[str] | None] = asyncio.Queue()
        self.warnings: list[Trouble | None] = []

    async def everything(self) -> None:
        """Return when everything was hinted."""
        async with asyncio.timeout(DEADLINE):
            while await self.hints.get() is not None:
                pass

    async def sees(self, root: Path, path: str) -> None:
        """Write to a file again and again until that is hinted: the watches may only just be set."""
        async with asyncio.timeout(DEADLINE):
            while True:
                (root / path).write_text("x")
                with suppress(TimeoutError):
                    hint = await asyncio.wait_for(self.hints.get(), 0.1)
                    if hint is not None and path in hint:
                        return

    async def warned(self, *, of_limit: bool) -> Trouble | None:
        """Return the last warning once it is one, or none."""
        async with asyncio.timeout(DEADLINE):
            while not self.warnings or (self.warnings[-1] is not None) != of_limit:
                await self.hints.get()
        return self.warnings[-1]


@asynccontextmanager
async def watching(root: Path) -> AsyncIterator[Told]:
    told = Told()
    watch = Watching(root, told.hints.put_nowait, told.warnings.append, poll_seconds=0.05, again_seconds=0.1)
    task = asyncio.create_task(watch.run())
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def limited() -> AbstractContextManager[object]:
    """No folder can be watched any more."""
    refusal = OSError(errno.ENOSPC, "inotify watch limit reached")
    return patch.object(InotifyFD, "add_callback", side_effect=refusal)


async def test_102_without_watches_it_looks_again_and_again_and_says_so(root: Path) -> None:
    with limited():
        async with watching(root) as told:
            warning = await told.warned(of_limit=True)
            assert warning is not None
            assert warning.code == "watch_limit"
            assert "max_user_watches" in warning.detail
            for _ in range(3):
                await told.everything()


async def test_102_it_watches_again_once_the_limit_is_raised(root: Path) -> None:
    async with watching(root) as told:
        await told.warned(of_limit=False)
        with limited():
            (root / "new").mkdir()
            await told.warned(of_limit=True)
        await told.warned(of_limit=False)
        await told.sees(root, "new/f")


async def test_a_folder_that_goes_and_comes_back_is_watched_again(root: Path) -> None:
    async with watching(root) as told:
        await told.sees(root, "sub/f")
        root.rename(root.with_name("away"))
        await told.everything()
        root.with_name("away").rename(root)
        await told.sees(root, "sub/g")


@pytest.mark.skipif(why_no_mounts() is not None, reason=f"needs a mount: {why_no_mounts()}")
@pytest.mark.parametrize("place", [".", "sub"])
async def test_a_disk_that_is_mounted_over_a_watched_folder_is_watched(root: Path, place: str) -> None:
    path = f"{place}/f".removeprefix("./")
    async with watching(root) as told:
        await told.sees(root, "g")
        with tmpfs(root / place):
            await told.sees(root, path)
        await told.sees(root, path)


def test_the_ground_names_mounts_with_blanks_in_them(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"30 22 0:40 / {tmp_path}/a\\040b rw - tmpfs t rw\n"
        "31 22 0:41 / /elsewhere rw - tmpfs t rw\n"
    )
    folder = tmp_path / "a b"
    folder.mkdir()
    with patch.object(module, "_MOUNTS", table):
        ground = ground_of(folder)
        assert ground > {"22 254:0 /", f"30 0:40 {folder}"}
        assert not any("elsewhere" in line for line in ground)
        folder.rmdir()
        assert "none" in ground_of(folder)
    with patch.object(module, "_MOUNTS", tmp_path / "missing"):
        assert ground_of(tmp_path) != ground_of(folder)
