"""The watcher: every kind of change gives a hint, its own folder none, and a lost event a full scan."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

from agent import watcher as module
from agent.hints import Hint, Inbox
from agent.watcher import Watcher, WatchLimitError, WatchLostError

DEADLINE = 10.0
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".lockstep/tmp").mkdir(parents=True)
    (tmp_path / "old/deep").mkdir(parents=True)
    (tmp_path / "old/deep/f").write_text("x")
    return tmp_path


@pytest.fixture
async def watcher(root: Path) -> AsyncIterator[Watcher]:
    async with Watcher(root) as made:
        yield made


async def hinted(watcher: Watcher, *paths: str) -> set[str]:
    """Collect hints until all of `paths` have come, or the deadline has passed."""
    found: set[str] = set()
    async with asyncio.timeout(DEADLINE):
        while not found >= set(paths):
            hint = await watcher.next()
            assert not hint.overflow
            found |= hint.paths
    return found


async def test_a_plain_save_is_hinted_and_nothing_else(watcher: Watcher, root: Path) -> None:
    (root / "old/f").write_text("x")
    assert await hinted(watcher, "old/f") == {"old/f"}


async def test_every_kind_of_change_is_hinted(watcher: Watcher, root: Path) -> None:
    (root / "old/deep/f").chmod(0o700)
    await hinted(watcher, "old/deep/f")
    (root / "old/deep/f").rename(root / "g")
    await hinted(watcher, "old/deep/f", "g")
    (root / "g").unlink()
    await hinted(watcher, "g")
    (root / "l").symlink_to("x")
    await hinted(watcher, "l")


async def test_what_appears_in_new_and_moved_folders_is_hinted(watcher: Watcher, root: Path) -> None:
    (root / "new/a/b").mkdir(parents=True)
    await hinted(watcher, "new")
    (root / "new/a/b/f").write_text("x")
    await hinted(watcher, "new/a/b/f")
    (root / "new").rename(root / "moved")
    await hinted(watcher, "new", "moved")
    (root / "moved/a/b/f").write_text("y")
    assert await hinted(watcher, "moved/a/b/f") == {"moved/a/b/f"}
    (root / "moved").rename(root / "old/moved")
    await hinted(watcher, "old/moved")
    shutil.copytree(root / "old/moved", root / "moved")
    await hinted(watcher, "moved")
    (root / "moved/a/b/f").write_text("z")
    await hinted(watcher, "moved/a/b/f")


async def test_a_folder_that_was_deleted_and_made_again_is_watched(watcher: Watcher, root: Path) -> None:
    shutil.rmtree(root / "old")
    (root / "old/deep").mkdir(parents=True)
    await hinted(watcher, "old")
    (root / "old/deep/f").write_text("again")
    await hinted(watcher, "old/deep/f")


async def test_the_agents_own_folder_gives_no_hints(watcher: Watcher, root: Path) -> None:
    (root / ".lockstep/tmp/x").write_text("x")
    (root / ".lockstep/new").mkdir()
    (root / "after").write_text("x")
    assert await hinted(watcher, "after") == {"after"}


async def test_a_name_that_is_no_text_is_hinted_as_the_scanner_spells_it(
    watcher: Watcher, root: Path
) -> None:
    (root / "caf\udce9").write_text("x")
    await hinted(watcher, "caf\udce9")


async def test_without_a_change_there_is_no_hint(watcher: Watcher) -> None:
    hint = await watcher.next(0.05)
    assert not hint
    assert hint == Hint()


async def test_an_overflow_of_the_kernels_queue_asks_for_a_full_scan(watcher: Watcher, root: Path) -> None:
    source = watcher._source
    assert isinstance(source, module._Inotify)
    missed = root / "missed"
    with patch.object(source, "on_event"):
        missed.mkdir()
        while await watcher.next(0.2):
            pass
    overflow = Mask(InotifyConstants.IN_Q_OVERFLOW)
    source._reader.handle_event(InotifyEvent(WatchDescriptor(-1), overflow, 0, b""))
    assert (await watcher.next(DEADLINE)).overflow
    (missed / "f").write_text("x")
    await hinted(watcher, "missed/f")


@pytest.mark.parametrize("goes", [shutil.rmtree, lambda root: root.rename(root.with_name("away"))])
async def test_a_root_that_goes_away_ends_the_watch_and_a_new_one_sees_what_comes(
    watcher: Watcher, root: Path, goes: Callable[[Path], object]
) -> None:
    goes(root)
    with pytest.raises(WatchLostError):
        await _next_that_raises(watcher)
    root.mkdir()
    with pytest.raises(WatchLostError):
        await watcher.next(0)
    async with Watcher(root) as anew:
        (root / "f").write_text("x")
        await hinted(anew, "f")


async def _next_that_raises(watcher: Watcher) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            await watcher.next()


@pytest.mark.parametrize("mask", [InotifyConstants.IN_UNMOUNT, InotifyConstants.IN_IGNORED])
async def test_an_unmounted_root_ends_the_watch(watcher: Watcher, root: Path, mask: int) -> None:
    source = watcher._source
    assert isinstance(source, module._Inotify)
    wd = source._folders[bytes(root)]
    source._reader.handle_event(InotifyEvent(wd, Mask(mask), 0, b""))
    with pytest.raises(WatchLostError):
        await watcher.next(DEADLINE)


async def test_a_disk_unmounted_below_the_root_asks_for_a_full_scan(watcher: Watcher, root: Path) -> None:
    source = watcher._source
    assert isinstance(source, module._Inotify)
    wd = source._folders[bytes(root / "old")]
    source._reader.handle_event(InotifyEvent(wd, Mask(InotifyConstants.IN_UNMOUNT), 0, b""))
    assert (await watcher.next(DEADLINE)).overflow


async def test_a_root_that_is_not_there_cannot_be_watched(root: Path) -> None:
    with pytest.raises(WatchLostError):
        await Watcher(root / "missing").start()


async def test_a_changed_mode_of_the_root_asks_for_a_full_scan(watcher: Watcher, root: Path) -> None:
    root.chmod(0o750)
    assert (await watcher.next(DEADLINE)).overflow


async def test_stopping_is_no_loss_of_the_root(root: Path) -> None:
    watcher = Watcher(root)
    await watcher.start()
    await watcher.stop()
    assert not await watcher.next(0)


async def test_a_handler_that_fails_asks_for_a_full_scan(watcher: Watcher, root: Path) -> None:
    with patch.object(watcher, "changed", side_effect=RuntimeError("bug")):
        (root / "f").write_text("x")
        assert (await watcher.next(DEADLINE)).overflow


@pytest.mark.parametrize("folder", ["root", "below"])
async def test_the_limit_of_watches_is_told_and_not_swallowed(root: Path, folder: str) -> None:
    real = InotifyFD.add_callback

    def limited(self: InotifyFD, path: bytes, *rest: object) -> WatchDescriptor:
        if folder == "root" or path.endswith(b"/deep"):
            raise OSError(errno.ENOSPC, "inotify watch limit reached")
        return real(self, path, *rest)  # type: ignore[arg-type]

    before = threading.active_count()
    with (
        patch.object(InotifyFD, "add_callback", limited),
        pytest.raises(WatchLimitError, match="max_user_watches"),
    ):
        async with Watcher(root):
            pass
    assert [t for t in threading.enumerate() if isinstance(t, InotifyFD)] == []
    assert threading.active_count() <= before + 1


async def test_the_limit_reached_later_is_told_by_the_next_call(watcher: Watcher, root: Path) -> None:
    with patch.object(InotifyFD, "add_callback", side_effect=OSError(errno.ENOSPC, "limit")):
        (root / "new").mkdir()
        with pytest.raises(WatchLimitError):
            await watcher.next(DEADLINE)
    with pytest.raises(WatchLimitError):
        await watcher.next(0)


async def test_the_limit_of_instances_is_told(root: Path) -> None:
    refusal = patch.object(InotifyFD, "_create_inotify_fd", side_effect=OSError(errno.EMFILE, "limit"))
    with refusal, pytest.raises(WatchLimitError, match="max_user_instances"):
        await Watcher(root).start()


async def test_a_folder_whose_path_is_too_long_to_be_watched_is_told(root: Path) -> None:
    name, above = "n" * 250, os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=above)
        below = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    with pytest.raises(WatchLimitError, match="too long"):
        await Watcher(root).start()
    top = os.open(root, os.O_RDONLY)
    shutil.rmtree(name, dir_fd=top)
    os.close(top)


async def test_a_real_overflow_of_the_kernels_queue_asks_for_a_full_scan(
    watcher: Watcher, root: Path
) -> None:
    source = watcher._source
    assert isinstance(source, module._Inotify)
    files = [root / "one", root / "two"]
    for path in files:
        path.write_text("x")
    await hinted(watcher, "one", "two")
    go_on, real = threading.Event(), source.on_event

    def stands_still(event: InotifyEvent) -> None:
        go_on.wait(DEADLINE)
        real(event)

    with patch.object(source, "on_event", stands_still):
        for number in range(int(QUEUE.read_text()) + 5000):
            os.utime(files[number % 2], ns=(number, number))
        (root / "missed").mkdir()
        go_on.set()
        async with asyncio.timeout(DEADLINE):
            while not (await watcher.next()).overflow:
                pass
    (root / "missed/f").write_text("x")
    await hinted(watcher, "missed/f")


async def test_an_unreadable_folder_does_not_disturb_the_others(root: Path) -> None:
    real = InotifyFD.add_callback

    def unreadable(self: InotifyFD, path: bytes, *rest: object) -> WatchDescriptor:
        if path.endswith(b"/deep"):
            return WatchDescriptor(-1)
        return real(self, path, *rest)  # type: ignore[arg-type]

    with patch.object(InotifyFD, "add_callback", unreadable):
        async with Watcher(root) as made:
            (root / "old/g").write_text("x")
            await hinted(made, "old/g")


async def test_no_thread_is_left_after_the_end(root: Path) -> None:
    async with Watcher(root):
        assert [t for t in threading.enumerate() if isinstance(t, InotifyFD)]
    assert not [t for t in threading.enumerate() if isinstance(t, InotifyFD)]


async def test_the_systems_own_observer_gives_the_same_hints(root: Path) -> None:
    with patch.object(module, "_LINUX", new=False):
        async with Watcher(root) as made:
            (root / "old/f").write_text("x")
            assert "old/f" in await hinted(made, "old/f")


# Collecting --------------------------------------------------------------------------------------


async def test_many_hints_about_one_path_are_one() -> None:
    inbox = Inbox(asyncio.get_running_loop())
    for _ in range(1000):
        inbox.changed("f")
    assert inbox.fetch() == Hint(frozenset({"f"}))
    assert not inbox.fetch()


async def test_more_paths_than_a_full_scan_costs_become_one() -> None:
    inbox = Inbox(asyncio.get_running_loop())
    for number in range(50_001):
        inbox.changed(f"f{number}")
    assert inbox.fetch() == Hint(overflow=True)


async def test_a_file_still_being_written_is_waited_for_but_not_for_ever() -> None:
    inbox = Inbox(asyncio.get_running_loop())
    inbox.changed("f")
    plain = inbox.due(0.05, 1.0)
    inbox.changed("f", open_still=True)
    writing = inbox.due(0.05, 1.0)
    assert writing >= plain + 0.1
    inbox.changed("f")
    assert inbox.due(0.05, 1.0) < writing
    inbox.changed("f", open_still=True)
    assert inbox.due(0.05, 0.0) == pytest.approx(inbox._first)
