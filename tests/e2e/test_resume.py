"""Scenario 73: an agent killed in the middle of a large upload continues with the missing parts."""

import os
import signal
import subprocess
from typing import Any

from tests.support.devices import LOCKSTEP, Device
from tests.support.waiting import wait_until

MIB = 1024 * 1024
PART = 10 * MIB
SIZE = 16 * PART


def sessions(device: Device, state: str = "all") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = device.get(f"/v1/uploads?state={state}")["items"]
    return items


def test_73_a_killed_upload_continues_with_the_missing_parts_and_commits_once(
    two: tuple[Device, Device],
) -> None:
    a, b = two
    content = os.urandom(SIZE)
    a.write("big.bin", content)
    env = {**a.environment(), "LOCKSTEP_AGENT_PART_PARALLEL": "1"}
    process = subprocess.Popen([LOCKSTEP, "sync", str(a.folder)], env=env, stdout=subprocess.DEVNULL)
    wait_until(lambda: any(s["parts_done"] >= 4 for s in sessions(a)), 60, "four parts are there", every=0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (session,) = sessions(a)
    held = len(a.get(f"/v1/uploads/{session['id']}")["parts"])
    assert session["state"] == "open", "it was killed before the last part"
    report = a.quick_sync()
    # The part that was under way when it died may have arrived as a whole since it was counted.
    assert report["uploaded_bytes"] in {SIZE - held * PART, SIZE - (held + 1) * PART}
    assert [s["state"] for s in sessions(a)] == ["committed"]
    assert len(a.run("versions", "big.bin")["items"]) == 1
    b.quick_sync()
    assert b.path("big.bin").read_bytes() == content
