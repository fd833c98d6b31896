"""Scenarios 121 and 128, and what retention, purges and lost bytes mean for devices.

The stack is these tests' own: two versions are kept whatever their age, the trash nothing, garbage goes
at once, and the janitor does its work when a test says so.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.remote import Api
from libs.mongo.names import OBJECTS, VERSIONS
from tests.support.backends import Backends
from tests.support.devices import Device, new_account
from tests.support.janitor_world import JanitorWorld, janitor_world
from tests.support.settling import feed, settle, share, versions
from tests.support.stack import Stack, running_stack

MIB = 1024 * 1024
SETTINGS = {
    "LOCKSTEP_RETENTION_VERSIONS": "2",
    "LOCKSTEP_RETENTION_VERSION_SECONDS": "0",
    "LOCKSTEP_RETENTION_TRASH_SECONDS": "0",
    "LOCKSTEP_GARBAGE_AGE_SECONDS": "0",
    "LOCKSTEP_DOOM_GRACE_SECONDS": "0",
    "LOCKSTEP_USAGE_HISTORY_SECONDS": "0",
}
T = TypeVar("T")
Two = tuple[Device, Device]


@pytest.fixture(scope="module")
def stack(backends: Backends) -> Iterator[Stack]:
    with running_stack(backends, SETTINGS) as stack:
        stack.stop("janitor")
        yield stack


@pytest.fixture
def two(stack: Stack, tmp_path: Path) -> Two:
    """Devices A and B, with enough files that one damaged one does not look like an emptied bucket."""
    account = new_account(stack.gateway_url, tmp_path)
    a, b = account.link("A", register=True), account.link("B")
    for number in range(6):
        a.write(f"more/{number}.txt", f"{a.home} {number}")
    share(a, b)
    return a, b


def on_server(stack: Stack, work: Callable[[JanitorWorld], Awaitable[T]]) -> T:
    async def run() -> T:
        async with janitor_world(stack) as world:
            return await work(world)

    return asyncio.run(run())


async def housekeeping(world: JanitorWorld) -> None:
    """Everything that removes something, at grace times of zero."""
    await world.jobs.purge()
    await world.jobs.expire_versions()
    await world.jobs.collect_garbage()
    report = await world.sweep(repair=True)
    assert report.halted is None


async def lose(world: JanitorWorld, version_id: str) -> None:
    """S3 loses the bytes of a version."""
    version = await world.database[VERSIONS].find_one({"_id": version_id})
    assert version is not None
    stored = await world.database[OBJECTS].find_one({"_id": version["object_id"]})
    assert stored is not None
    await world.store.delete([stored["key"]])


async def mend(world: JanitorWorld) -> dict[str, int]:
    report = await world.sweep(repair=True)
    assert report.halted is None
    return dict(report.repaired)


def row_of(device: Device, name: str) -> dict[str, Any]:
    (row,) = [row for row in feed(device) if row["name"] == name and not row["deleted"]]
    return row


# Versions -----------------------------------------------------------------------------------------


def test_121_a_version_restored_in_a_folder_that_was_moved_is_a_new_version_on_all_devices(
    two: Two, tmp_path: Path
) -> None:
    a, b = two
    a.write("folder/doc.txt", "one")
    share(a, b)
    a.write("folder/doc.txt", "two, longer")
    settle(a, b)
    b.path("folder").rename(b.path("moved"))
    settle(b, a)
    shown, first = a.ask("versions", "moved/doc.txt")["items"]
    assert (shown["current"], shown["size"], shown["device"], shown["keep"]) == (True, 11, "A", "current")
    assert (first["current"], first["kept"], first["corrupt"]) == (False, "among the newest", False)
    b.ask("get", "moved/doc.txt", str(tmp_path / "old.txt"), "--version", first["id"])
    assert (tmp_path / "old.txt").read_text() == "one"
    b.ask("restore", "moved/doc.txt", "--version", first["id"])
    settle(a, b)
    assert a.read("moved/doc.txt") == b.read("moved/doc.txt") == "one"
    newest = a.ask("versions", "moved/doc.txt")["items"][0]
    assert newest["id"] not in {shown["id"], first["id"]}
    assert newest["parent_version_id"] == shown["id"]


@pytest.mark.parametrize("gone", ["folder", "folder/doc.txt"])
def test_121_a_version_of_a_deleted_file_is_refused_with_the_way_to_bring_it_back(
    two: Two, gone: str
) -> None:
    a, _ = two
    a.write("folder/doc.txt", "one")
    a.quick_sync()
    version = a.ask("versions", "folder/doc.txt")["items"][0]["id"]
    a.ask("rm", gone)
    for command in (("versions", "folder/doc.txt"), ("restore", "folder/doc.txt", "--version", version)):
        error = a.ask(*command, expect=1)
        assert error["code"] == "node_deleted"
        assert f"lockstep trash restore {gone}" in error["detail"]
    assert a.ask("versions", "nowhere.txt", expect=1)["code"] == "not_found"


def test_versions_that_retention_does_not_keep_go_and_devices_do_not_notice(two: Two, stack: Stack) -> None:
    a, b = two
    for text in ("one", "two", "three", "four"):
        a.write("doc.txt", text)
        share(a, b)
    before = a.ask("usage")
    on_server(stack, housekeeping)
    assert [item["size"] for item in a.ask("versions", "doc.txt")["items"]] == [4, 5]
    settle(a, b, lost=["one", "two"])
    after = a.ask("usage")
    assert after["files"] == before["files"]
    assert before["used_bytes"] - after["used_bytes"] == 6
    assert before["history"]["older_bytes"] == 11
    assert after["history"]["older_bytes"] == 5
    assert after["history"]["versions"] == before["history"]["versions"] - 2


def test_what_the_trash_no_longer_keeps_is_gone_also_on_a_device_that_was_away(
    two: Two, stack: Stack
) -> None:
    """B was away while a folder was deleted and purged: its cursor is too old, and what it edited stays."""
    a, b = two
    for name in ("gone", "edited"):
        a.write(f"folder/{name}.txt", name)
    share(a, b)
    a.path("folder/gone.txt").unlink()
    a.path("folder/edited.txt").unlink()
    a.path("folder").rmdir()
    a.quick_sync()
    on_server(stack, housekeeping)
    assert a.ask("trash")["items"] == []
    b.write("folder/edited.txt", "edited on B")
    settle(b, a, lost=["gone", "edited"])
    assert "folder/gone.txt" not in b.names()
    assert a.read("folder/edited.txt") == "edited on B"


def test_usage_tells_people_what_history_costs(two: Two) -> None:
    a, _ = two
    a.write("doc.txt", "x" * 2048)
    a.quick_sync()
    a.write("doc.txt", "y" * 4096)
    a.quick_sync()
    costs = a.ask("usage")
    assert costs["history"]["older_bytes"] == 2048
    assert costs["history"]["current_bytes"] == costs["used_bytes"] - 2048
    assert costs["history"]["versions"] == costs["files"] + 1


# Garbage collection in the middle of things --------------------------------------------------------


@pytest.mark.parametrize("call", ["upload_urls", "record_parts", "complete_upload"])
def test_128_collecting_garbage_in_the_middle_of_a_long_upload_removes_nothing_of_it(
    two: Two, stack: Stack, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    a, b = two
    content = os.urandom(21 * MIB)
    a.write("big.bin", content)
    before(call, monkeypatch, lambda: on_server(stack, housekeeping))
    assert a.quick_sync(part_parallel=1)["uploaded_files"] == 1
    settle(a, b)
    assert b.path("big.bin").read_bytes() == content


def test_128_content_that_was_there_when_announced_and_is_garbage_at_the_commit_is_sent(
    two: Two, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session was told "stored"; before its commit the only version with these bytes is purged."""
    a, b = two
    a.write("first.txt", "the same content")
    share(a, b)
    a.path("first.txt").unlink()
    settle(a, b)
    a.write("second.txt", "the same content")
    ran = before("complete_upload_batch", monkeypatch, lambda: on_server(stack, housekeeping))
    a.quick_sync(expect=None)
    assert ran
    settle(a, b)
    assert b.read("second.txt") == "the same content"


def test_128_collecting_garbage_around_restores_removes_nothing_live(two: Two, stack: Stack) -> None:
    a, b = two
    for text in ("one", "two"):
        a.write("doc.txt", text)
        share(a, b)
    first = a.ask("versions", "doc.txt")["items"][-1]["id"]
    on_server(stack, housekeeping)
    a.ask("restore", "doc.txt", "--version", first)
    on_server(stack, housekeeping)
    settle(b, a)
    assert b.read("doc.txt") == "one"
    assert {item["size"] for item in versions(a, row_of(a, "doc.txt")["id"])} == {3}


def before(call: str, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[bool]:
    """Have something happen before the first of these calls; the list tells that it did."""
    original = getattr(Api, call)
    ran: list[bool] = []

    async def act_first(self: Api, *arguments: Any, **named: Any) -> Any:
        if not ran:
            ran.append(True)
            await asyncio.to_thread(act)
        return await original(self, *arguments, **named)

    monkeypatch.setattr(Api, call, act_first)
    return ran


# Bytes that S3 has lost ----------------------------------------------------------------------------


def test_bytes_that_s3_lost_are_sent_again_by_a_device_that_has_them(two: Two, stack: Stack) -> None:
    """The file goes back on the server; on A, which has the newer content, it does not."""
    a, b = two
    a.write("doc.txt", "good")
    share(a, b)
    a.write("doc.txt", "the newest")
    a.quick_sync()
    lost = row_of(a, "doc.txt")
    on_server(stack, lambda world: lose(world, lost["version_id"]))
    assert on_server(stack, mend) == {"bytes_missing": 1}
    assert b.quick_sync()["downloaded_files"] == 0
    assert a.quick_sync()["uploaded_files"] == 1
    settle(b, a)
    assert a.read("doc.txt") == b.read("doc.txt") == "the newest"
    assert row_of(a, "doc.txt")["id"] == lost["id"]
    states = [(item["size"], item["corrupt"]) for item in versions(a, lost["id"])]
    assert states == [(10, False), (10, True), (4, False)]
    assert on_server(stack, mend) == {}


def test_the_only_version_that_s3_lost_is_sent_again_and_no_device_loses_the_file(
    two: Two, stack: Stack
) -> None:
    a, b = two
    a.write("doc.txt", "the only one")
    share(a, b)
    lost = row_of(a, "doc.txt")["version_id"]
    on_server(stack, lambda world: lose(world, lost))
    assert on_server(stack, mend) == {"bytes_missing": 1}
    settle(b, a)
    assert a.names() == b.names()
    assert a.read("doc.txt") == b.read("doc.txt") == "the only one"


def test_an_edit_on_top_of_what_s3_lost_is_no_conflict(two: Two, stack: Stack) -> None:
    a, b = two
    a.write("doc.txt", "good")
    share(a, b)
    a.write("doc.txt", "lost")
    share(a, b)
    lost = row_of(a, "doc.txt")["version_id"]
    on_server(stack, lambda world: lose(world, lost))
    on_server(stack, mend)
    b.write("doc.txt", "edited on B")
    settle(b, a)
    assert a.read("doc.txt") == "edited on B"
    assert not [name for name in a.names() if "conflicted" in name]
