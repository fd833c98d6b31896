"""Scenarios "Feed and events" as devices see them; the services' side is in tests/integration."""

import json
import subprocess

from tests.support.devices import LOCKSTEP, Account, Device, converge, tree_of
from tests.support.stack import Stack
from tests.support.waiting import wait_until

Two = tuple[Device, Device]


def same(a: Device, b: Device) -> bool:
    return tree_of(a.folder) == tree_of(b.folder)


def test_90_with_the_push_broken_the_poll_finds_the_change(two: Two, stack: Stack) -> None:
    a, b = two
    with b.started(LOCKSTEP_AGENT_POLL_SECONDS="1"):
        stack.kill("notification")
        a.write("file.txt", "found by polling")
        a.quick_sync()
        wait_until(lambda: same(a, b), 30, "the poll brings the file")
    stack.ensure_running()


def test_93_a_cursor_from_another_epoch_leads_to_a_full_listing_without_deletions(
    two: Two, stack: Stack
) -> None:
    """After the last step of a restore all cursors are refused, and nothing is moved or deleted."""
    a, b = two
    for number in range(3):
        a.write(f"{number}.txt", str(number))
    converge(a, b)
    subprocess.run(
        [LOCKSTEP.with_name("python"), "-m", "services.metadata", "new-epoch"],
        env=dict(stack.env), check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    for device in (a, b):
        report = device.quick_sync()
        assert (report["uploaded_bytes"], report["downloaded_bytes"], report["deleted"]) == (0, 0, 0)
    a.write("0.txt", "newer")
    converge(a, b)
    assert b.read("0.txt") == "newer"
    assert a.names() == {"0.txt", "1.txt", "2.txt"}


def test_94_a_commit_while_rabbitmq_is_down_is_made_when_it_is_back(
    two: Two, stack: Stack, backends: object
) -> None:
    a, b = two
    a.write("before.txt", "before")
    converge(a, b)
    backends.stop("rabbitmq")  # type: ignore[attr-defined]
    try:
        a.write("during.txt", "during")
        log = (a.home / "sync.log").open("wb")
        process = subprocess.Popen(
            [LOCKSTEP, "sync", str(a.folder), "--json"], env=a.environment(), stdout=log
        )
        wait_until(lambda: bool(committing(a)), 30, "the bytes are in S3 and the commit waits")
    finally:
        backends.start("rabbitmq")  # type: ignore[attr-defined]
    assert process.wait(90) == 0
    log.close()
    converge(a, b)
    assert b.read("during.txt") == "during"
    stack.ensure_running()


def committing(device: Device) -> list[dict[str, object]]:
    sessions = device.get("/v1/uploads")["items"]
    return [session for session in sessions if session["state"] == "committing"]


def test_events_prints_one_object_a_line_for_each_push(two: Two, account: Account) -> None:
    a, b = two
    out = account.root / "events.jsonl"
    with out.open("wb") as file:
        process = subprocess.Popen([LOCKSTEP, "events", "--json"], env=b.environment(), stdout=file)
        try:
            wait_until(lambda: b"\n" in out.read_bytes(), 30, "the channel is open")
            a.write("file.txt", "pushed")
            a.quick_sync()
            wait_until(lambda: b"file.txt" in out.read_bytes(), 30, "the change is pushed")
        finally:
            process.terminate()
            process.wait(20)
    pushed = [json.loads(line) for line in out.read_text().splitlines()]
    assert any(row["name"] == "file.txt" for push in pushed for row in push.get("rows", []))
