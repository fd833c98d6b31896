"""Scenarios 103, 106, 108, 110, and what else can happen to a device's own memory and disk.

Whatever is lost, put back, copied or full: nothing is deleted, nothing is doubled without need, and the
devices are in step again.
"""

import errno
import json
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.app import read_status
from agent.disk import Disk
from agent.settings import Settings
from tests.support.agent_process import running
from tests.support.devices import Account, Device, check_same, copies, tree_of
from tests.support.mounts import mount, unmount, why_no_mounts
from tests.support.settling import feed, settle, share
from tests.support.waiting import wait_until

MIB = 1024 * 1024

Two = tuple[Device, Device]


def fill(device: Device) -> None:
    """Files in folders, a link, an empty folder."""
    for number in range(6):
        device.write(f"d{number % 2}/{number}.txt", f"content {number}")
    device.path("d0/empty").mkdir()
    device.path("link").symlink_to("d0/0.txt")


def remove_state(device: Device) -> None:
    for path in device.home.glob("state.db*"):
        path.unlink()


# 103 ----------------------------------------------------------------------------------------------


def test_103_every_kind_of_change_made_while_the_agent_was_stopped_is_found(two: Two) -> None:
    a, b = two
    fill(a)
    a.write("grows/into/deep.txt", "deep")
    a.write("stays.txt", "stays")
    share(a, b)
    a.write("d0/0.txt", "edited")
    a.path("d1/1.txt").unlink()
    a.path("d0/2.txt").rename(a.path("d1/two.txt"))
    a.write("new/folder/file.txt", "new")
    a.path("new/empty").mkdir()
    shutil.rmtree(a.path("grows"))
    a.path("d1").rename(a.path("e1"))
    a.path("d0/4.txt").chmod(0o755)
    a.path("link").unlink()
    a.path("link").symlink_to("stays.txt")
    a.path("d0/empty").rmdir()
    os.utime(a.path("stays.txt"), ns=(10**18, 10**18))
    report = a.quick_sync()
    assert (report["uploaded_files"], report["conflicts"]) == (2, 0)
    report = b.quick_sync()
    assert (report["downloaded_files"], report["conflicts"]) == (2, 0)
    settle(a, b)
    assert b.path("stays.txt").stat().st_mtime_ns == 10**18


# 106 ----------------------------------------------------------------------------------------------


def absent(device: Device) -> None:
    device.folder.rename(device.folder.with_name("aside"))


def an_empty_mount_point(device: Device) -> None:
    absent(device)
    device.folder.mkdir()


def a_file(device: Device) -> None:
    absent(device)
    device.folder.write_bytes(b"no folder")


def another_folder(device: Device) -> None:
    absent(device)
    device.write("other.txt", "of another folder")


def a_folder_with_another_marker(device: Device) -> None:
    another_folder(device)
    device.path(".lockstep").mkdir()
    device.path(".lockstep/root").write_bytes(b"0" * 24 + b"\n")


def a_dangling_link(device: Device) -> None:
    absent(device)
    device.folder.symlink_to("nowhere")


@pytest.mark.parametrize(
    "replace",
    [absent, an_empty_mount_point, a_file, another_folder, a_folder_with_another_marker, a_dangling_link],
    ids=lambda replace: replace.__name__,
)
def test_106_without_its_folder_a_device_halts_deletes_nothing_and_goes_on_when_it_is_back(
    two: Two, replace: Callable[[Device], None]
) -> None:
    a, b = two
    for number in range(3):
        a.write(f"{number}.txt", str(number))
    share(a, b)
    replace(a)
    assert a.quick_sync(expect=3)["halted"]
    b.quick_sync()
    assert len(b.names()) == 3
    if a.folder.is_dir() and not a.folder.is_symlink():
        shutil.rmtree(a.folder)
    else:
        a.folder.unlink(missing_ok=True)
    a.folder.with_name("aside").rename(a.folder)
    b.write("0.txt", "edited meanwhile")
    a.written.pop(next((key for key, name in a.written.items() if name == "other.txt"), ""), None)
    settle(b, a)


def test_106_a_folder_emptied_by_its_user_halts_until_that_is_allowed(two: Two) -> None:
    """The marker is there, everything else is gone: that may be an accident."""
    a, b = two
    fill(a)
    share(a, b)
    for path in a.folder.iterdir():
        if path.name != ".lockstep":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert a.quick_sync(expect=3)["halted"]
    assert len(b.names()) == 10
    a.quick_sync(allow_mass_delete=True)
    b.quick_sync()
    settle(a, b)
    assert b.names() == set()


# 108 ----------------------------------------------------------------------------------------------


def test_108_what_does_not_fit_on_the_disk_is_reported_and_comes_later(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads and deletions go on meanwhile."""
    a, b = two
    fill(a)
    share(a, b)
    a.write("big.bin", os.urandom(100_000))
    a.path("d0/0.txt").unlink()
    a.quick_sync()
    b.write("mine.txt", "written on the full disk")
    b.path("d1/1.txt").unlink()
    with monkeypatch.context() as full:
        full.setattr(Disk, "free_bytes", lambda _: 1000)
        report = b.quick_sync(expect=5)
        assert report["halted"] is None
        assert [(p["path"], p["code"]) for p in report["problems"]] == [("big.bin", "disk_full")]
        assert report["uploaded_files"] == 1
        assert not b.path("d0/0.txt").exists()
        assert "1.txt" not in b.ls("d1")
        assert b.ask("why", "big.bin", expect=5)["code"] == "disk_full"
        (problem,) = b.ask("status", expect=5)["problems"]
        assert problem["code"] == "disk_full"
    settle(b, a)
    assert b.names() == a.names()
    assert {"big.bin", "mine.txt"} < a.names()


@pytest.mark.skipif(why_no_mounts() is not None, reason="a small disk has to be mounted")
def test_108_a_running_agent_fetches_what_did_not_fit_once_there_is_room(two: Two, tmp_path: Path) -> None:
    """Of two files that fit one by one as much comes as there is room for, and what is small beside it."""
    a, b = two
    small, large = tmp_path / "small disk", ("one.bin", "other.bin")
    small.mkdir()
    mount("lockstep-test", small, "tmpfs", "size=200m")
    try:
        b.folder = small / "folder"
        (small / "filler").write_bytes(bytes(80 * MIB))
        for name in large:
            a.write(name, os.urandom(35 * MIB))
        a.write("small.txt", "small")
        a.quick_sync()
        with running(b, "start"):
            wait_until(lambda: "small.txt" in b.names(), 60, "what is small has come")
            wait_until(lambda: len(b.names() & set(large)) == 1, 60, "what fits has come")
            b.write("mine.txt", "written beside")
            wait_until(lambda: "mine.txt" in a.ls(), 60, "what was written there has been sent")
            wait_until(lambda: problems(b) == [("disk_full", 1)], 60, "the other is reported")
            (small / "filler").unlink()
            b.write("hint.txt", "wakes it")
            wait_until(lambda: set(large) <= b.names(), 60, "the other has come too")
            wait_until(lambda: problems(b) == [], 60, "nothing is reported any more")
        a.quick_sync()
        check_same(tree_of(a.folder), tree_of(b.folder), "A and B")
    finally:
        unmount(small)


def problems(device: Device) -> list[tuple[str, int]]:
    """The codes of what the running agent reports, with how many there are of each."""
    found = read_status(Settings(home=device.home)).problems
    return sorted(Counter(problem.code for problem in found).items())


def test_108_a_disk_that_runs_full_in_the_middle_keeps_the_old_files_and_goes_on_later(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second write of a download fails; edits there and new files are both met."""
    a, b = two
    for number in range(6):
        a.write(f"{number}.txt", f"old {number}")
    share(a, b)
    for number in range(12):
        a.write(f"{number}.txt", f"new {number}")
    a.quick_sync()
    with monkeypatch.context() as full:
        install, fchmod = failing_every_second_time(Disk.install, os.fchmod, errno.ENOSPC)
        full.setattr(Disk, "install", install)
        full.setattr(os, "fchmod", fchmod)
        report = b.quick_sync(expect=5)
    assert {problem["code"] for problem in report["problems"]} == {"disk_full"}
    texts = [b.read(name) for name in b.names()]
    assert all(text.startswith(("old", "new")) for text in texts)
    settle(b, a)
    assert {b.read(f"{n}.txt") for n in range(12)} == {f"new {n}" for n in range(12)}


def failing_every_second_time(
    original: Callable[..., Any], system: Callable[..., Any], code: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a call of the disk and a system call which fails in every second one, in its own thread."""
    calls: list[None] = []
    here = threading.local()

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        here.refuses = len(calls) % 2 == 0
        try:
            return original(*arguments, **named)
        finally:
            here.refuses = False

    def system_call(*arguments: Any, **named: Any) -> Any:
        if getattr(here, "refuses", False):
            raise OSError(code, os.strerror(code))
        return system(*arguments, **named)

    return call, system_call


# 110 ----------------------------------------------------------------------------------------------


def test_110_a_state_lost_on_both_devices_is_rebuilt_without_bytes_copies_or_deletions(two: Two) -> None:
    a, b = two
    fill(a)
    share(a, b)
    before = {row["id"]: row["seq"] for row in feed(a)}
    for device in two:
        remove_state(device)
        report = device.quick_sync()
        done = [
            report[key] for key in ("uploaded_bytes", "downloaded_bytes", "conflicts", "deleted", "moved")
        ]
        assert done == [0] * 5
    assert {row["id"]: row["seq"] for row in feed(a)} == before
    settle(a, b)


def test_110_a_state_lost_with_changes_on_both_sides_loses_neither(two: Two) -> None:
    """What A deleted comes back, what it edited is kept beside, what B deleted is A's again."""
    a, b = two
    fill(a)
    share(a, b)
    a.write("d0/0.txt", "edited by A")
    a.path("d1/1.txt").unlink()
    b.path("d0/2.txt").unlink()
    b.write("d1/3.txt", "edited by B")
    b.quick_sync()
    remove_state(a)
    settle(a, b)
    texts = {a.path(name).read_text() for name in a.names() if a.path(name).is_file()}
    assert {"edited by A", "edited by B", "content 1", "content 0"} <= texts


def test_a_state_that_is_damaged_is_set_aside_and_rebuilt(two: Two) -> None:
    a, b = two
    fill(a)
    share(a, b)
    state = a.home / "state.db"
    content = bytearray(state.read_bytes())
    content[100:8000] = os.urandom(7900)
    state.write_bytes(content)
    report = a.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"], report["conflicts"]) == (0, 0, 0)
    assert list(a.home.glob("state.db.damaged-*"))
    settle(a, b)


@pytest.mark.parametrize("size", [0, 1, 512, 5000])
def test_a_state_that_was_cut_is_rebuilt_or_used_and_nothing_is_deleted(two: Two, size: int) -> None:
    a, b = two
    fill(a)
    share(a, b)
    os.truncate(a.home / "state.db", size)
    report = a.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"], report["deleted"]) == (0, 0, 0)
    settle(a, b)


# An older state -------------------------------------------------------------------------------------


def save_state(device: Device) -> Path:
    """A copy of the state as a backup takes it, consistent in itself."""
    kept = device.home / "backup.db"
    kept.unlink(missing_ok=True)
    with sqlite3.connect(device.home / "state.db") as source, sqlite3.connect(kept) as target:
        source.backup(target)
    source.close()
    target.close()
    return kept


def put_back(device: Device, kept: Path) -> None:
    remove_state(device)
    shutil.copy2(kept, device.home / "state.db")


def test_an_older_state_put_back_deletes_and_doubles_nothing(two: Two) -> None:
    """Every kind of change was made, here and there, since the backup of the state."""
    a, b = two
    fill(a)
    for name in ("edited here", "edited there", "moved here", "moved there", "gone here", "gone there"):
        a.write(name, name)
    share(a, b)
    kept = save_state(a)
    a.write("edited here", "edited here, again")
    b.write("edited there", "edited there, again")
    a.path("moved here").rename(a.path("d0/moved here"))
    b.path("moved there").rename(b.path("d1/moved there"))
    a.path("gone here").unlink()
    b.path("gone there").unlink()
    a.write("new here", "new here")
    b.write("new there", "new there")
    settle(a, b)
    before = tree_of(b.folder)
    put_back(a, kept)
    report = a.quick_sync()
    assert (report["uploaded_bytes"], report["conflicts"]) == (0, 0)
    settle(a, b)
    assert tree_of(b.folder) == before


def test_an_older_state_does_not_delete_what_came_back_since(two: Two) -> None:
    """The file was there at the backup, was deleted, and has been restored by B; A has not got it yet.

    The old state says: it was agreed on, and it is not on the disk. That is no deletion by the user.
    """
    a, b = two
    fill(a)
    a.write("back.txt", "was deleted and came back")
    share(a, b)
    kept = save_state(a)
    b.path("back.txt").unlink()
    settle(b, a)
    b.ask("trash", "restore", "back.txt")
    put_back(a, kept)
    settle(a, b)
    assert b.read("back.txt") == "was deleted and came back"


def test_a_folder_put_back_from_a_backup_deletes_nothing_that_came_since(two: Two) -> None:
    """What is missing in the older folder comes back; what is older in it becomes a version."""
    a, b = two
    fill(a)
    share(a, b)
    shutil.copytree(a.folder, a.folder.with_name("backup"), symlinks=True)
    a.write("since/new.txt", "new since")
    b.write("d0/0.txt", "edited since")
    settle(b, a)
    shutil.rmtree(a.folder)
    a.folder.with_name("backup").rename(a.folder)
    settle(a, b)
    assert b.read("since/new.txt") == "new since"


def test_a_write_ahead_log_that_was_lost_deletes_nothing(two: Two) -> None:
    """The state as it was before the last run, as when its log was dropped after a crash."""
    a, b = two
    fill(a)
    share(a, b)
    shutil.copy2(a.home / "state.db", a.home / "before.db")
    b.write("d0/0.txt", "edited by B")
    b.path("d0/2.txt").unlink()
    a.write("later.txt", "later")
    settle(b, a)
    put_back(a, a.home / "before.db")
    report = a.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"], report["conflicts"]) == (0, 0, 0)
    settle(a, b)


def test_garbage_in_the_place_of_the_write_ahead_log_is_no_reason_to_delete(two: Two) -> None:
    a, b = two
    fill(a)
    share(a, b)
    (a.home / "state.db-wal").write_bytes(os.urandom(40_000))
    report = a.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"], report["deleted"]) == (0, 0, 0)
    settle(a, b)


# Copies of a device -----------------------------------------------------------------------------------


def copied(account: Account, device: Device, *, with_folder: bool) -> Device:
    """The home on a second machine, with or without the folder."""
    copy = Device("copy", account.root / "home-copy", account.root / "folder-copy")
    shutil.copytree(device.home, copy.home)
    if with_folder:
        shutil.copytree(device.folder, copy.folder, symlinks=True)
    else:
        copy.folder.mkdir()
    return copy


def test_a_home_copied_without_its_folder_halts_and_deletes_nothing(two: Two, account: Account) -> None:
    a, b = two
    fill(a)
    share(a, b)
    copy = copied(account, a, with_folder=False)
    assert copy.quick_sync(expect=3)["halted"]
    settle(a, b)
    assert len(b.names()) == 10


def test_a_home_copied_with_its_folder_works_and_loses_nothing_on_either_machine(
    two: Two, account: Account
) -> None:
    """Two machines with one device's credentials: both in step, conflicts kept, while both are let in."""
    a, b = two
    fill(a)
    share(a, b)
    copy = copied(account, a, with_folder=True)
    report = copy.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"], report["conflicts"]) == (0, 0, 0)
    a.write("d0/0.txt", "by A")
    copy.write("d0/0.txt", "by its copy")
    copy.path("d1/1.txt").unlink()
    settle(a, copy, b)
    assert len(copies(b.names(), "0.txt")) == 1
    assert not b.path("d1/1.txt").exists()


def test_tokens_refreshed_on_two_copies_end_in_a_sign_in_and_lose_no_file(two: Two, account: Account) -> None:
    """The older token is reuse: the device is let in no more. All files stay as they are."""
    a, b = two
    fill(a)
    share(a, b)
    copy = copied(account, a, with_folder=True)
    for _ in range(3):
        for device in (a, copy):
            expire_token(device)
            device.quick_sync(expect=None)
    for device in (a, copy):
        device.write("late.txt", f"late, by {device.name}")
    last = [device.quick_sync(expect=None) for device in (a, copy)]
    assert any(report["error"] and report["error"]["code"] != "internal" for report in last)
    assert len(a.names()) == len(copy.names()) == 11
    b.quick_sync()
    assert len(b.names()) >= 10


def expire_token(device: Device) -> None:
    """Let the access token be of yesterday, so that the next run trades the refresh token."""
    path = device.home / "credentials.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "expires_at": 0}))


def test_runs_and_questions_that_refresh_the_token_at_once_all_go_on(two: Two) -> None:
    """A sync and other commands of one home, each finding the token expired."""
    a, _ = two
    fill(a)
    a.quick_sync()
    expire_token(a)
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(a.run, "sync", str(a.folder)), *(pool.submit(a.run, "ls") for _ in range(2))]
        assert all(job.result() for job in jobs)
    a.quick_sync()


# Another account, another folder -----------------------------------------------------------------------


def test_signed_in_to_another_account_a_folder_is_not_taken_for_deletions(two: Two, account: Account) -> None:
    """The home signs in to a new account with the folder of the old one: everything is sent, nothing lost."""
    a, b = two
    fill(a)
    share(a, b)
    a.ask("logout")
    a.ask(
        "register", "--server", account.server, "--email", f"other-{account.email}", "--password-stdin",
        "--device", "A", stdin="another password\n",
    )  # fmt: skip
    report = a.quick_sync()
    assert (report["uploaded_files"], report["deleted"]) == (6, 0)
    assert len(a.names()) == 10
    b.quick_sync()
    assert len(b.names()) == 10
