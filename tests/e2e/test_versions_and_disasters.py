"""Scenarios 122, 126 and 130, and what a trash is for."""

import asyncio
import os
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
import pytest

from agent.remote import Api
from tests.support.devices import LOCKSTEP, Device, copies
from tests.support.settling import feed, settle, share, versions
from tests.support.stack import Stack
from tests.support.waiting import wait_until

MIB = 1024 * 1024
Two = tuple[Device, Device]


def test_122_a_folder_deleted_and_restored_is_back_with_ids_and_versions(two: Two) -> None:
    """1,000 files; one of them had been edited, one deleted before."""
    a, b = two
    for number in range(1000):
        a.write(f"folder/{number % 3}/{number}.txt", f"content {number}")
    a.quick_sync()
    a.write("keep.txt", "keep")
    a.write("folder/0/0.txt", "edited")
    a.path("folder/1/1.txt").unlink()
    share(a, b)
    before = {row["id"]: row["version_id"] for row in feed(a) if not row["deleted"]}
    edited = next(row["id"] for row in feed(a) if row["name"] == "0.txt")
    tree = b.names()
    shutil.rmtree(a.path("folder"))
    a.quick_sync(allow_mass_delete=True)
    b.quick_sync(allow_mass_delete=True)
    assert b.names() == {"keep.txt"}
    assert [item["path"] for item in b.ask("trash")["items"]] == ["folder"]
    b.ask("trash", "restore", "folder")
    settle(b, a)
    after = feed(a)
    assert a.names() == tree
    assert {row["id"]: row["version_id"] for row in after if not row["deleted"]} == before
    assert len(versions(a, edited)) == 2


def test_122_what_is_restored_onto_a_taken_name_gets_another_one(two: Two) -> None:
    a, b = two
    a.write("doc.txt", "first")
    share(a, b)
    a.path("doc.txt").unlink()
    settle(a, b)
    b.write("doc.txt", "second")
    settle(b, a)
    a.ask("trash", "restore", "doc.txt")
    settle(a, b)
    assert {a.read(name) for name in a.names()} == {"first", "second"}
    assert "doc (restored).txt" in a.names()


def test_121_an_old_version_restored_while_another_device_edits_is_a_conflict_like_any_other(
    two: Two,
) -> None:
    a, b = two
    for text in ("one", "two"):
        a.write("doc.txt", text)
        share(a, b)
    b.write("doc.txt", "three, by B")
    first = a.ask("versions", "doc.txt")["items"][-1]["id"]
    a.ask("restore", "doc.txt", "--version", first)
    settle(b, a)
    assert a.read("doc.txt") == "one"
    (copy,) = copies(a.names(), "doc.txt")
    assert a.read(copy) == "three, by B"


# 126 ----------------------------------------------------------------------------------------------

TREE = ("counters", "nodes", "versions", "objects", "commits", "usage", "uploads", "upload_parts")


@contextmanager
def database(stack: Stack) -> Iterator[Any]:
    with pymongo.MongoClient[dict[str, Any]](stack.env["LOCKSTEP_MONGO_URL"]) as client:
        yield client[stack.env["LOCKSTEP_MONGO_DATABASE"]]


def backup(stack: Stack) -> dict[str, list[dict[str, Any]]]:
    with database(stack) as found:
        return {name: list(found[name].find()) for name in TREE}


def restore(stack: Stack, kept: dict[str, list[dict[str, Any]]]) -> None:
    """What the operator does: services down, the backup in, `new-epoch`, services up."""
    services = ("metadata", "upload", "download", "janitor")
    for name in services:
        stack.stop(name)
    with database(stack) as found:
        for name, documents in kept.items():
            found[name].delete_many({})
            if documents:
                found[name].insert_many(documents)
    subprocess.run(
        [LOCKSTEP.with_name("python"), "-m", "services.metadata", "new-epoch"],
        env=dict(stack.env), check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    stack.ensure_running()


def test_126_after_the_database_of_yesterday_everything_newer_is_sent_again_and_nothing_deleted(
    two: Two, stack: Stack
) -> None:
    """Since the backup: new, edited, moved and deleted files on both devices; B was not quite up to date."""
    a, b = two
    for name in ("same", "edited", "moved", "deleted", "folder/inside"):
        a.write(f"{name}.txt", f"{name} yesterday")
    share(a, b)
    yesterday = backup(stack)
    a.write("edited.txt", "edited today")
    a.write("new.txt", "new today")
    a.write("new folder/deep.txt", "deep today")
    a.path("moved.txt").rename(a.path("folder/moved.txt"))
    b.path("deleted.txt").unlink()
    settle(a, b)
    a.write("late.txt", "only on A")
    a.quick_sync()
    restore(stack, yesterday)
    reports = [device.quick_sync() for device in (a, b)]
    assert all(report["deleted"] == 0 for report in reports)
    settle(a, b)
    texts = {a.path(name).read_text() for name in a.names() if a.path(name).is_file()}
    assert texts >= {
        "same yesterday", "edited today", "new today", "deep today", "only on A", "moved yesterday",
        "folder/inside yesterday",
    }  # fmt: skip
    assert a.read("edited.txt") == "edited today"


# 130 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["upload_urls", "record_parts", "download_batch"])
def test_130_a_device_revoked_in_the_middle_of_a_transfer_is_let_in_no_more_and_keeps_its_files(
    two: Two, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Revoked between two steps of an upload in parts, or before the URLs of downloads are asked for."""
    a, b = two
    b.write("own.txt", "B's own")
    b.quick_sync()
    content = os.urandom(25 * MIB)
    if call == "download_batch":
        a.write("other.txt", "by A")
        a.quick_sync()
    else:
        b.write("big.bin", content)
    original = getattr(Api, call)
    revoked: list[bool] = []

    async def revoke_first(self: Api, *arguments: Any) -> Any:
        if not revoked:
            revoked.append(True)
            await asyncio.to_thread(revoke, a, b)
        return await original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Api, call, revoke_first)
        report = b.quick_sync(expect=4, part_parallel=1)
    assert revoked
    assert report["error"]["code"] in {"device_revoked", "unauthenticated"}
    assert b.read("own.txt") == "B's own"
    assert call == "download_batch" or b.path("big.bin").read_bytes() == content
    a.quick_sync()
    assert a.read("own.txt") == "B's own"
    assert not a.path("big.bin").exists()


def revoke(a: Device, b: Device) -> None:
    """Revoke B, and wait until its token is refused (its row is believed for an instant)."""
    (device,) = [item["id"] for item in a.get("/v1/devices")["items"] if item["name"] == b.name]
    a.run("devices", "revoke", device)
    wait_until(lambda: not is_let_in(b), 10, "B is refused")


def is_let_in(device: Device) -> bool:
    try:
        device.get("/v1/sync")
    except urllib.error.HTTPError as error:
        return error.code != 401
    return True
