"""`lockstep get` of a large file that is killed or interrupted: what the same command fetches then."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from agent.ignore import GET_PREFIX
from tests.support.devices import LOCKSTEP, Device
from tests.support.waiting import wait_until

MIB = 1024 * 1024
SIZE = 45 * MIB + 5
LANES = 4
UNWRITTEN = LANES * MIB
"""What may be on its way between the store and the disk."""


@pytest.fixture
def sender(two: tuple[Device, Device]) -> Device:
    """A device of an account that has a large file."""
    two[0].write("big.bin", os.urandom(SIZE))
    two[0].quick_sync()
    return two[0]


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{GET_PREFIX}*"))


def held(folder: Path) -> int:
    """Return how many bytes of the one unfinished file are on the disk."""
    try:
        return sum(path.stat().st_blocks * 512 for path in kept(folder) if path.suffix != ".ranges")
    except FileNotFoundError:  # it is being put in its place
        return 0


def stopped_after(device: Device, target: Path, count: int, number: int) -> tuple[int, str]:
    """Run `get` and stop it once so many bytes are on the disk; the exit code, and what it said."""
    process = subprocess.Popen(
        [LOCKSTEP, "get", "big.bin", str(target)],
        env={**device.environment(), "LOCKSTEP_AGENT_LIMIT_DOWN": str(30 * MIB)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: held(target.parent) >= count, 60, "so much has arrived", every=0.005)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def test_a_killed_get_goes_on_with_what_is_missing_every_time(sender: Device, tmp_path: Path) -> None:
    target = tmp_path / "back.bin"
    had = []
    for count in (3, 17, 31):
        stopped_after(sender, target, count * MIB, signal.SIGKILL)
        had.append(held(tmp_path))
    assert had == sorted(had)
    assert not target.exists()
    got = sender.run("get", "big.bin", str(target))
    assert got["downloaded_bytes"] <= SIZE - had[-1] + UNWRITTEN
    assert target.read_bytes() == sender.path("big.bin").read_bytes()
    assert kept(tmp_path) == []


def test_an_interrupted_get_says_where_it_goes_on(sender: Device, tmp_path: Path) -> None:
    code, said = stopped_after(sender, tmp_path / "back.bin", 17 * MIB, signal.SIGINT)
    assert code == 130
    assert "the same command goes on" in said
    assert str(kept(tmp_path)[0]) in said
    assert sender.run("get", "big.bin", str(tmp_path / "back.bin"))["downloaded_bytes"] < SIZE


def test_the_journal_of_a_killed_get_is_never_believed(sender: Device, tmp_path: Path) -> None:
    """Bytes that are not what it says are fetched again."""
    stopped_after(sender, tmp_path / "back.bin", 31 * MIB, signal.SIGKILL)
    (path,) = (path for path in kept(tmp_path) if path.suffix != ".ranges")
    with path.open("r+b") as file:
        for offset in range(0, SIZE, MIB):
            file.seek(offset)
            file.write(b"spoilt")
    sender.run("get", "big.bin", str(tmp_path / "back.bin"))
    assert (tmp_path / "back.bin").read_bytes() == sender.path("big.bin").read_bytes()


def test_what_an_unfinished_get_left_in_a_synced_folder_is_not_synced(
    sender: Device, two: tuple[Device, Device]
) -> None:
    other = two[1]
    stopped_after(other, other.path("back.bin"), 17 * MIB, signal.SIGKILL)
    assert len(kept(other.folder)) == 2
    report = other.quick_sync()
    assert (report["uploaded_files"], report["in_step"]) == (0, True)
    assert set(sender.ls()) == {"big.bin"}
    other.run("get", "big.bin", str(other.path("back.bin")))
    assert kept(other.folder) == []


def test_a_newer_version_drops_what_had_arrived_of_an_older_one(sender: Device, tmp_path: Path) -> None:
    stopped_after(sender, tmp_path / "back.bin", 17 * MIB, signal.SIGKILL)
    sender.write("big.bin", os.urandom(SIZE))
    sender.quick_sync()
    sender.run("get", "big.bin", str(tmp_path / "back.bin"))
    assert (tmp_path / "back.bin").read_bytes() == sender.path("big.bin").read_bytes()
    assert kept(tmp_path) == []


def test_two_gets_to_one_place_at_once_do_not_spoil_it(sender: Device, tmp_path: Path) -> None:
    target = tmp_path / "back.bin"
    env = {**sender.environment(), "LOCKSTEP_AGENT_LIMIT_DOWN": str(20 * MIB)}
    first = subprocess.Popen([LOCKSTEP, "get", "big.bin", str(target)], env=env, stderr=subprocess.DEVNULL)
    wait_until(lambda: held(tmp_path) > 0, 60, "the first has begun", every=0.005)
    refused = sender.run("get", "big.bin", str(target), expect=1)
    assert refused["code"] == "in_use"
    assert first.wait(60) == 0
    assert target.read_bytes() == sender.path("big.bin").read_bytes()
