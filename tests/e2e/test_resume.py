"""Large uploads that are interrupted, and that more than one device has to do with."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.devices import LOCKSTEP, Device
from tests.support.waiting import wait_until

MIB = 1024 * 1024
PART = 10 * MIB
SIZE = 12 * PART


def sessions(device: Device, state: str = "all") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = device.get(f"/v1/uploads?state={state}")["items"]
    return items


def killed_after(device: Device, parts: int, **env: str) -> int:
    """Run `sync` and kill it once so many parts are recorded; how many S3 holds then."""
    process = subprocess.Popen(
        [LOCKSTEP, "sync", str(device.folder)], env={**device.environment(), **env}, stdout=subprocess.DEVNULL
    )
    wait_until(
        lambda: any(s["parts_done"] >= parts for s in sessions(device)), 60, "parts are there", every=0.01
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    (session,) = sessions(device)
    assert session["state"] == "open", "it was killed before the last part"
    return len(device.get(f"/v1/uploads/{session['id']}")["parts"])


def versions(device: Device, path: str) -> int:
    return len(device.run("versions", path)["items"])


def test_73_a_killed_upload_continues_with_the_missing_parts_and_commits_once(
    two: tuple[Device, Device],
) -> None:
    a, b = two
    content = os.urandom(SIZE)
    a.write("big.bin", content)
    held = killed_after(a, 4, LOCKSTEP_AGENT_PART_PARALLEL="1")
    report = a.quick_sync()
    # The part that was under way when it died may have arrived as a whole since it was counted.
    assert report["uploaded_bytes"] in {SIZE - held * PART, SIZE - (held + 1) * PART}
    assert [s["state"] for s in sessions(a)] == ["committed"]
    assert len(a.run("versions", "big.bin")["items"]) == 1
    b.quick_sync()
    assert b.path("big.bin").read_bytes() == content


def test_75_another_device_that_holds_the_file_sends_the_rest_and_it_is_committed_once(
    two: tuple[Device, Device],
) -> None:
    """Also: the first device comes back and finds it done, with the time of the one committed."""
    a, b = two
    content = os.urandom(SIZE)
    for device, at in ((a, 1_700_000_000), (b, 1_600_000_000)):
        device.write("big.bin", content)
        os.utime(device.path("big.bin"), (at, at))
    held = killed_after(a, 6, LOCKSTEP_AGENT_PART_PARALLEL="1")
    listed = b.run("uploads")["items"]
    assert [(s["parts_total"], s["device"], s["path"]) for s in listed] == [(12, "A", "big.bin")]

    report = b.quick_sync()

    assert SIZE - (held + 1) * PART <= report["uploaded_bytes"] <= SIZE - held * PART
    assert b.run("uploads")["items"] == []
    back = a.quick_sync()
    assert (back["uploaded_bytes"], back["downloaded_bytes"], back["conflicts"]) == (0, 0, 0)
    assert versions(a, "big.bin") == 1
    assert a.names() == b.names() == {"big.bin"}
    assert a.path("big.bin").stat().st_mtime == b.path("big.bin").stat().st_mtime
    assert a.quick_sync()["api_bytes"] < 20_000, "nothing is left to do"


def test_two_devices_that_upload_the_same_file_at_once_share_the_work_and_commit_once(
    two: tuple[Device, Device],
) -> None:
    a, b = two
    content = os.urandom(SIZE)
    for device, at in ((a, 1_700_000_000), (b, 1_600_000_000)):
        device.write("big.bin", content)
        os.utime(device.path("big.bin"), (at, at))
        device.env |= {"LOCKSTEP_AGENT_PART_PARALLEL": "2", "LOCKSTEP_AGENT_URL_BATCH": "2"}
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda device: device.sync(), (a, b)))

    sent = [report["uploaded_bytes"] for report in reports]
    # Where the two meet, what one has under way or has not told of yet (2 + 2 + 4) the other sends too.
    assert SIZE <= sum(sent) <= SIZE + 8 * PART, sent
    assert min(sent) > 0
    for device in (a, b):
        again = device.quick_sync()
        assert (again["uploaded_bytes"], again["downloaded_bytes"], again["conflicts"]) == (0, 0, 0)
    assert versions(a, "big.bin") == 1
    assert a.names() == b.names() == {"big.bin"}
    assert a.path("big.bin").stat().st_mtime == b.path("big.bin").stat().st_mtime


def test_the_same_large_file_at_two_places_travels_once(two: tuple[Device, Device]) -> None:
    a, b = two
    content = os.urandom(3 * PART)
    a.write("one.bin", content)
    a.quick_sync()
    b.write("other/two.bin", content)

    report = b.quick_sync()

    assert report["uploaded_bytes"] == 0
    assert b.path("one.bin").read_bytes() == content
    a.quick_sync()
    assert a.path("other/two.bin").read_bytes() == content


def test_76_another_content_is_another_session_and_never_mixes(two: tuple[Device, Device]) -> None:
    a, b = two
    content = os.urandom(SIZE)
    other = content[:-1] + bytes([content[-1] ^ 1])
    a.write("big.bin", content)
    held = killed_after(a, 4, LOCKSTEP_AGENT_PART_PARALLEL="1")
    (session,) = sessions(a)
    b.write("mine.bin", other)
    refused = b.run("uploads", "resume", session["id"], "--from", str(b.path("mine.bin")), expect=1)
    assert refused["code"] == "other_content"

    assert b.quick_sync()["uploaded_bytes"] == SIZE
    assert a.quick_sync()["uploaded_bytes"] <= SIZE - held * PART
    b.quick_sync()

    assert b.path("big.bin").read_bytes() == content
    assert a.path("mine.bin").read_bytes() == other
