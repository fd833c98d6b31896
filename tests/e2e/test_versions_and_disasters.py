"""Scenarios 122, 126 and 130, and what a trash is for."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
import pytest

from tests.support.devices import LOCKSTEP, Account, Device, copies
from tests.support.settling import feed, settle, versions
from tests.support.stack import Stack
from tests.support.waiting import wait_until

MIB = 1024 * 1024
Two = tuple[Device, Device]


def test_122_a_folder_deleted_and_restored_is_back_with_ids_and_versions(two: Two) -> None:
    """60 files, for 1,000 in the scenario; one of them had been edited, one deleted before."""
    a, b = two
    for number in range(60):
        a.write(f"folder/{number % 3}/{number}.txt", f"content {number}")
    settle(a, b)
    a.write("keep.txt", "keep")
    a.write("folder/0/0.txt", "edited")
    a.path("folder/1/1.txt").unlink()
    settle(a, b)
    before = {row["id"]: row["version_id"] for row in feed(a) if not row["deleted"]}
    edited = next(row["id"] for row in feed(a) if row["name"] == "0.txt")
    tree = b.names()
    shutil.rmtree(a.path("folder"))
    settle(a, b)
    assert b.names() == {"keep.txt"}
    b.ask("trash", "restore", "folder")
    settle(b, a)
    after = feed(a)
    assert a.names() == tree
    assert {row["id"]: row["version_id"] for row in after if not row["deleted"]} == before
    assert len(versions(a, edited)) == 2


def test_122_what_is_restored_onto_a_taken_name_gets_another_one(two: Two) -> None:
    a, b = two
    a.write("doc.txt", "first")
    settle(a, b)
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
        settle(a, b)
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
    settle(a, b)
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


@pytest.mark.parametrize("way", ["up", "down"])
def test_130_a_device_revoked_in_the_middle_of_a_transfer_is_let_in_no_more_and_keeps_its_files(
    two: Two, account: Account, way: str
) -> None:
    """The transfer is held up by one slow part at a time, so that there is a middle."""
    a, b = two
    content = os.urandom(60 * MIB)
    if way == "down":
        a.write("big.bin", content)
        a.quick_sync()
    b.write("own.txt", "B's own")
    b.quick_sync()
    if way == "up":
        b.write("big.bin", content)
    log = (account.root / "sync.log").open("wb")
    env = {**b.environment(), "LOCKSTEP_AGENT_PART_PARALLEL": "1", "LOCKSTEP_AGENT_URL_BATCH": "1"}
    process = subprocess.Popen([LOCKSTEP, "start", str(b.folder)], env=env, stdout=log, stderr=log)
    wait_until(lambda: is_under_way(a, b, way), 60, "the transfer is under way", every=0.01)
    ids = {device["name"]: device["id"] for device in a.ask("devices")["items"]}
    a.ask("devices", "revoke", ids["B"])
    assert process.wait(60) == 4
    log.close()
    assert b.quick_sync(expect=4)["error"]["code"] in {"device_revoked", "unauthenticated"}
    assert b.read("own.txt") == "B's own"
    if way == "up":
        assert b.path("big.bin").read_bytes() == content
    a.quick_sync()
    assert a.read("own.txt") == "B's own"


def is_under_way(a: Device, b: Device, way: str) -> bool:
    if way == "up":
        return any(session["state"] == "open" for session in a.get("/v1/uploads")["items"])
    return any(path.stat().st_size for path in b.path(".lockstep/tmp").glob("*.*"))
