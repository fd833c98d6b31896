"""What random rounds have found, each as small as it could be made."""

import os
import shutil
from pathlib import Path

from tests.soak.server import open_sessions
from tests.support.backends import Backends
from tests.support.devices import Device, are_same, converge, new_account
from tests.support.processes import free_ports
from tests.support.stack import Stack, running_stack
from tests.support.waiting import wait_until


def _two(stack: Stack, tmp_path: Path) -> tuple[Device, Device]:
    stack.ensure_running()
    account = new_account(stack.gateway_url, tmp_path)
    return account.link("A", register=True), account.link("B")


def test_a_batch_of_which_some_is_refused_leaves_no_session_open(stack: Stack, tmp_path: Path) -> None:
    """An edit that cannot bring its deleted file back, for the folder is gone too, becomes a new file."""
    a, b = _two(stack, tmp_path)
    a.write("folder/file.txt", "one")
    a.write("stays.txt", "")
    converge(a, b)
    b.path("folder/file.txt").unlink()
    b.quick_sync()
    shutil.rmtree(b.path("folder"))
    b.quick_sync()
    a.write("folder/file.txt", "two, and longer")
    a.quick_sync()
    assert open_sessions(a) == []
    assert a.get("/v1/usage")["reserved_bytes"] == 0
    converge(a, b)
    assert b.read("folder/file.txt") == "two, and longer"


def test_a_store_that_is_away_for_long_does_not_fill_the_account_with_sessions(
    backends: Backends, tmp_path: Path
) -> None:
    nowhere = {"LOCKSTEP_S3_PUBLIC_ENDPOINT": f"http://127.0.0.1:{free_ports(1)}"}
    with running_stack(backends, nowhere) as stack:
        a, _ = _two(stack, tmp_path)
        for number in range(3):
            a.write("file.txt", f"content {number}")
            a.quick_sync(expect=6, transfer_retry_seconds=0.2)
        assert open_sessions(a) == []


def test_what_changes_through_one_name_of_a_hard_link_is_seen_at_the_other(
    stack: Stack, tmp_path: Path
) -> None:
    """The system tells of the name that was used alone."""
    a, b = _two(stack, tmp_path)
    a.write("one/file.txt", "first")
    a.path("two").mkdir()
    a.path("two/file.txt").hardlink_to(a.path("one/file.txt"))
    converge(a, b)
    with a.started(), b.started():
        with a.path("one/file.txt").open("a") as file:
            file.write(", and second")
        wait_until(lambda: b.read("one/file.txt") == "first, and second", 20, "the edit is on B")
        wait_until(lambda: are_same(a, b), 20, "the edit is on B at both names")
        os.utime(b.path("two/file.txt"), (1_000_000_000, 1_000_000_000))
        wait_until(lambda: a.path("one/file.txt").stat().st_mtime == 1_000_000_000, 20, "the time is on A")
        wait_until(lambda: b.path("one/file.txt").stat().st_mtime == 1_000_000_000, 20, "the time is on B")
    converge(a, b)


def test_what_both_deleted_does_not_come_back_with_a_folder_moved_out_of_a_deleted_one(
    stack: Stack, tmp_path: Path
) -> None:
    a, b = _two(stack, tmp_path)
    for name in ("top/folder/keep.txt", "top/folder/gone/deeper/file.txt", "stays.txt"):
        a.write(name, name)
    converge(a, b)
    shutil.rmtree(a.path("top"))
    a.quick_sync()
    shutil.rmtree(b.path("top/folder/gone"))
    b.path("top/folder").rename(b.path("folder"))
    b.quick_sync()
    converge(a, b)
    assert a.names() == {"folder", "folder/keep.txt", "stays.txt"}
