"""Scenarios "Feed and events" as devices see them; the services' side is in tests/integration."""

import json
import subprocess

import pymongo
import pytest

from agent.engine import Engine
from agent.remote import Api
from libs.contracts.api import PushChanges, SyncPage
from libs.contracts.errors import UnavailableError
from tests.support.devices import LOCKSTEP, Account, Device, are_same, converge, tree_of
from tests.support.settling import changes_since, feed, head, settle, share
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


def test_91_92_pushes_lost_repeated_and_late_change_nothing_and_gaps_are_read_from_the_feed(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is given pushes as a bad network may: dropped, twice, old after new, all again."""
    a, b = two
    for number in range(4):
        a.write(f"{number}.txt", f"one {number}")
    share(a, b)
    pushes = [change_as_push(a, f"{number}.txt", f"two {number}") for number in range(4)]
    order = [pushes[2], pushes[0], pushes[0], pushes[3], pushes[1], *reversed(pushes), *pushes]
    original = Engine.converge

    async def converge(self: Engine) -> None:
        while order:
            self.pushed(order.pop(0))
            await original(self)
        await original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "converge", converge)
        report = b.quick_sync()
    assert (report["downloaded_files"], report["conflicts"], report["deleted"]) == (4, 0, 0)
    settle(a, b)


def change_as_push(device: Device, name: str, content: str) -> PushChanges:
    """Edit a file, send it, and return the push that the server gives out for it."""
    before = head(device)
    device.write(name, content)
    device.quick_sync()
    rows = changes_since(device, before)
    page = device.get("/v1/sync")
    return PushChanges.model_validate(
        {
            "namespace_id": rows[0]["namespace_id"], "epoch": page["epoch"],
            "from_seq": before, "to_seq": head(device), "rows": rows,
        }
    )  # fmt: skip


def test_92_after_pushes_that_were_lost_a_running_agent_reads_the_feed(two: Two, stack: Stack) -> None:
    """The channel is away while changes are made, and there is no polling that would find them."""
    a, b = two
    with b.started(LOCKSTEP_AGENT_POLL_SECONDS="3600", LOCKSTEP_AGENT_PUSH_RETRY_CAP="1"):
        stack.kill("notification")
        for number in range(3):
            a.write(f"{number}.txt", "missed")
        a.quick_sync()
        stack.ensure_running()
        wait_until(lambda: are_same(a, b), 30, "what was missed is on B")
    settle(a, b)


def expire_cursors(stack: Stack, device: Device) -> None:
    """Raise the namespace's `purged_seq` to its head, as purging old tombstones does."""
    namespace = feed(device)[0]["namespace_id"]
    with pymongo.MongoClient[dict[str, object]](stack.env["LOCKSTEP_MONGO_URL"]) as client:
        counters = client[stack.env["LOCKSTEP_MONGO_DATABASE"]]["counters"]
        done = counters.update_one({"_id": namespace}, {"$set": {"purged_seq": head(device)}})
    assert done.modified_count == 1


def test_93_a_cursor_that_is_too_old_leads_to_a_full_listing_and_a_merge(two: Two, stack: Stack) -> None:
    """In one epoch: what was deleted is deleted here, local changes are kept, nothing is doubled."""
    a, b = two
    for name in ("same", "edited there", "edited here", "deleted there", "deleted but edited here"):
        a.write(name, f"{name}, one")
    share(a, b)
    a.write("edited there", "edited there, two")
    a.path("deleted there").unlink()
    a.path("deleted but edited here").unlink()
    a.write("new there", "new there")
    a.quick_sync()
    expire_cursors(stack, a)
    b.write("edited here", "edited here, two")
    b.write("deleted but edited here", "kept")
    b.write("new here", "new here")
    b.quick_sync()
    settle(b, a)
    assert a.names() == {
        "same", "edited there", "edited here", "deleted but edited here", "new there", "new here",
    }  # fmt: skip


def test_93_a_full_listing_that_breaks_off_deletes_nothing(
    two: Two, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second page never comes: what is on it must not count as absent."""
    a, b = two
    for number in range(12):
        a.write(f"{number}.txt", f"{number}")
    share(a, b)
    a.write("late.txt", "late")
    a.quick_sync()
    expire_cursors(stack, a)
    asked: list[str | None] = []
    original = Api.sync

    async def sync(self: Api, cursor: str | None = None, *, limit: int | None = None) -> SyncPage:
        asked.append(cursor)
        if len(asked) > 2:
            raise UnavailableError("the second page does not come")
        return await original(self, cursor, limit=limit or 5)

    with monkeypatch.context() as patched:
        patched.setattr(Api, "sync", sync)
        b.quick_sync(expect=6)
    assert asked[1] is None, "the listing began"
    assert len(asked) == 3, "and broke off"
    assert len(b.names()) == 12
    settle(b, a)


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
