"""Scenario 74: a large download that is killed, and what the next run fetches."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from agent.transfer.ranged import BATCH
from agent.transfer.wire import PIECE
from tests.support.devices import LOCKSTEP, Device
from tests.support.waiting import wait_until

MIB = 1024 * 1024
SIZE = 45 * MIB + 5
LANES = 4
UNWRITTEN = LANES * (BATCH + PIECE)
"""What may be on its way between the store and the disk, or there and not noted yet: one step of writing for
each part under way. It begins as soon as a batch is there, with the piece that makes it so."""


def partial(device: Device) -> Path | None:
    """Return the temporary file of the one download under way; the agent's trials of the disk are none."""
    temporary = (device.folder / ".lockstep" / "tmp").glob("*.*")
    found = [path for path in temporary if path.suffix != ".ranges" and not path.name.startswith("scratch.")]
    return found[0] if found else None


def held(device: Device) -> int:
    """Return how many bytes of it are on the disk."""
    path = partial(device)
    try:
        return 0 if path is None else path.stat().st_blocks * 512
    except FileNotFoundError:  # it is being put in its place
        return 0


def killed_after(device: Device, count: int, **env: str) -> int:
    """Run `sync` and kill it once so many bytes are on the disk; how many there are then."""
    process = subprocess.Popen(
        [LOCKSTEP, "sync", str(device.folder)],
        env={**device.environment(), "LOCKSTEP_AGENT_LIMIT_DOWN": str(30 * MIB), **env},
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: held(device) >= count, 60, "so much has arrived", every=0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return held(device)


def test_74_a_killed_download_continues_with_what_is_missing_every_time(two: tuple[Device, Device]) -> None:
    a, b = two
    content = os.urandom(SIZE)
    a.write("big.bin", content)
    a.quick_sync()
    kept = [killed_after(b, count * MIB) for count in (3, 17, 31)]
    assert kept == sorted(kept)
    assert not b.path("big.bin").exists()
    report = b.quick_sync()
    assert report["downloaded_bytes"] <= SIZE - kept[-1] + UNWRITTEN
    assert b.path("big.bin").read_bytes() == content
    assert not list((b.folder / ".lockstep" / "tmp").iterdir())


@pytest.mark.parametrize("spoil", ["journal", "data"])
def test_74_what_a_power_loss_took_of_a_killed_download_is_fetched_again(
    spoil: str, two: tuple[Device, Device]
) -> None:
    """Without its journal the server's digests tell whole parts; a journal without bytes tells nothing."""
    a, b = two
    content = os.urandom(SIZE)
    a.write("big.bin", content)
    a.quick_sync()
    # Of two parts at once, one at least is whole by then.
    killed_after(b, 31 * MIB, LOCKSTEP_AGENT_PART_PARALLEL="2")
    path = partial(b)
    assert path is not None
    if spoil == "journal":
        path.with_name(f"{path.name}.ranges").unlink()
    else:
        os.truncate(path, 0)
    report = b.quick_sync()
    assert (report["downloaded_bytes"] < SIZE) == (spoil == "journal")
    assert b.path("big.bin").read_bytes() == content


def test_a_partial_download_is_dropped_when_the_file_has_another_version(
    two: tuple[Device, Device],
) -> None:
    a, b = two
    a.write("big.bin", os.urandom(SIZE))
    a.quick_sync()
    killed_after(b, 12 * MIB)
    content = os.urandom(SIZE)
    a.write("big.bin", content)
    a.quick_sync()
    report = b.quick_sync()
    assert report["downloaded_bytes"] == SIZE
    assert b.path("big.bin").read_bytes() == content
    b.quick_sync()
    assert not list((b.folder / ".lockstep" / "tmp").iterdir())
