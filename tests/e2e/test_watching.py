"""Running agents whose hints fail them: lost events, no watches, disks that come and go."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.app import read_status
from agent.settings import Settings
from agent.status import AgentStatus
from tests.support.devices import LOCKSTEP, Device
from tests.support.mounts import tmpfs, unmount, why_no_mounts
from tests.support.odd_disk import Quirks, odd_disk, why_not
from tests.support.waiting import wait_until

Two = tuple[Device, Device]
SECONDS = 60
FAST = {"LOCKSTEP_AGENT_UNWATCHED_SECONDS": "0.3", "LOCKSTEP_AGENT_REWATCH_SECONDS": "1"}
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
LIMITED = """
echo "$LIMIT" > /proc/sys/user/max_inotify_watches || exit 1
exec "$@"
"""
"""Run in a user namespace of its own, so that nobody else has fewer watches."""


@contextmanager
def agent(device: Device, *before: str, **env: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `lockstep start` for the body, by way of the command `before`; it ends in step or halted."""
    command = [*before, str(LOCKSTEP), "start", str(device.folder)]
    with device.home.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**device.environment(), **FAST, **env}
        )
        try:
            wait_until(lambda: status(device).phase == "in_step", SECONDS, "the agent is in step")
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT)
            process.wait(20)


def status(device: Device) -> AgentStatus:
    return read_status(Settings(home=device.home))


def arrives(device: Device, name: str) -> None:
    """Return once the server has what was written to `name` (a top-level file)."""
    wait_until(lambda: name in device.ls(), SECONDS, f"{name} arrives")


def can_limit_watches() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", LIMITED, "-", "true"],  # noqa: S607 - of the system
        env={**os.environ, "LIMIT": "100"}, capture_output=True, check=False,
    )  # fmt: skip
    return tried.returncode == 0


@pytest.mark.skipif(not can_limit_watches(), reason="needs a user namespace with its own limit of watches")
def test_102_without_watches_the_agent_polls_and_status_warns(two: Two) -> None:
    a, _ = two
    for number in range(8):
        a.write(f"d{number}/f", "x")
    namespace = ("unshare", "--user", "--map-root-user", "sh", "-c", LIMITED, "-")
    with agent(a, *namespace, LIMIT="4"):
        a.write("new", "found by looking")
        arrives(a, "new")
        wait_until(lambda: bool(status(a).warnings), SECONDS, "the warning is told")
        said = a.run("status")
        assert [warning["code"] for warning in said["warnings"]] == ["watch_limit"]
        assert "max_user_watches" in said["warnings"][0]["detail"]
        assert said["in_step"]
    assert status(a).warnings == ()


def test_101_events_that_the_kernel_dropped_are_made_up_by_a_scan(two: Two) -> None:
    """The agent stands still while more happens than the kernel's queue holds, and then a burst."""
    a, _ = two
    noisy = [a.write(f"noisy{number}", "x") for number in range(2)]
    room = int(QUEUE.read_text())
    with agent(a, LOCKSTEP_AGENT_RESCAN_SECONDS="3600") as process:
        process.send_signal(signal.SIGSTOP)
        for number in range(room + 100):
            os.utime(noisy[number % 2], ns=(10**18, 10**18 + number))
        for number in range(60):
            a.write(f"burst/{number % 6}/f{number}", f"burst {number}")
        a.write("last", "last")
        process.send_signal(signal.SIGCONT)
        arrives(a, "last")
        wait_until(lambda: status(a).files == 63, SECONDS, "all files are in step")
        a.write("burst/3/after", "the folders of the burst are watched")
        wait_until(lambda: status(a).files == 64, SECONDS, "a later file arrives")


def trash(device: Device) -> list[Any]:
    found: list[Any] = device.run("trash")["items"]
    return found


@pytest.mark.skipif(why_not() is not None, reason=f"needs a disk mounted by FUSE: {why_not()}")
def test_106_a_root_whose_disk_goes_away_halts_the_agent_until_it_is_back(two: Two) -> None:
    a, b = two
    with odd_disk(a.folder, Quirks(new_inodes=True)) as disk:
        for number in range(10):
            a.write(f"f{number}", f"{number}")
        with agent(a):
            before = a.ls()
            disk.unmount()
            wait_until(lambda: status(a).phase == "halted", SECONDS, "the agent halts")
            assert a.run("status", expect=3)["halted"]
            b.write("made-elsewhere", "while it was away")
            b.quick_sync()
            disk.mount()
            wait_until(lambda: status(a).phase == "in_step", SECONDS, "the agent goes on")
            assert a.read("made-elsewhere") == "while it was away"
            a.write("afterwards", "the disk is watched again")
            arrives(a, "afterwards")
        assert trash(a) == []
        after = a.ls()
        assert len(after) == 12
        assert {name: after[name] for name in before} == before


@pytest.mark.skipif(why_no_mounts() is not None, reason=f"needs a mount: {why_no_mounts()}")
def test_106_a_disk_inside_the_folder_that_goes_away_deletes_nothing(two: Two) -> None:
    a, _ = two
    for number in range(3):
        a.write(f"f{number}", "x")
    a.path("mounted").mkdir()
    with tmpfs(a.path("mounted")):
        for number in range(3):
            a.write(f"mounted/g{number}", "on the other disk")
        with agent(a):
            assert status(a).files == 6
            unmount(a.path("mounted"))
            wait_until(lambda: bool(status(a).problems), SECONDS, "the missing disk is told")
            assert {problem.code for problem in status(a).problems} == {"unmounted"}
            a.write("meanwhile", "x")
            arrives(a, "meanwhile")
            assert trash(a) == []
    assert len(a.ls("/mounted")) == 3
