"""Scenarios "Names", and names that people and programs really use."""

import os
from pathlib import Path

import pymongo
import pytest

from tests.support.devices import Account, Device, copies, tree_of
from tests.support.settling import feed, settle, share, versions
from tests.support.stack import Stack

Two = tuple[Device, Device]

ODD_NAMES = [
    " leading space", "trailing space ", "trailing dot.", "..three", "...", "-rf", "--help", "~home", "$HOME",
    "a\nnewline", "a\ttab", "a\rreturn", "bell\x07", "quo'te\"s", "back\\slash", "a*b?c[d]", "{a,b}",
    "a;b|c&d", "%2e%2e%2f", "%", "a%00b", "CON", "con.txt", "NUL", "COM1", "LPT1.txt", "aux", "a:b", "<>",
    "!important", "#hash", "a\u200bzero-width", "\u202egnp.exe", "👩\u200d👩\u200d👧", "\ufeffbom",
    "é", "ß", "ẞ", "\u0130", "\u0131", "\u01c4", "\ufb01", "한글", "日本語.txt",
    "a" * 255, "é" * 127, "🎉" * 63, "x.lockstep", "lockstep", ".lockstepx", ".git",
    "name.tmp", "name.part", "name.bak", "name.orig", "null", "true", "0", "__proto__", "constructor",
]  # fmt: skip
"""Each is one name on Linux, and none is a program's temporary file."""


def test_49_50_52_names_of_every_kind_arrive_as_they_are_and_can_be_edited_renamed_and_deleted(
    two: Two,
) -> None:
    a, b = two
    for number, name in enumerate(ODD_NAMES):
        a.write(f"names/{name}", f"content {number}")
        a.path(f"folders/{name}").mkdir(parents=True)
        a.write(f"folders/{name}/inside", f"inside {number}")
    share(a, b)
    assert set(os.listdir(b.path("names"))) == set(ODD_NAMES)  # noqa: PTH208 - names as they are
    for number, name in enumerate(ODD_NAMES):
        b.write(f"names/{name}", f"edited {number}")
        b.path(f"folders/{name}").rename(b.path(f"folders/renamed {number}"))
    settle(b, a)
    assert {p.read_text() for p in a.path("names").iterdir()} == {
        f"edited {n}" for n in range(len(ODD_NAMES))
    }
    for name in ODD_NAMES:
        a.path(f"names/{name}").unlink()
    settle(a, b)
    assert not list(b.path("names").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "n" * 251 + ".txt",
        "🎉" * 62 + ".odt",
        "n." + "e" * 253,
    ],
)
def test_the_name_of_a_conflicted_copy_is_cut_to_what_a_disk_can_hold(two: Two, name: str) -> None:
    """Twice, so that the second copy's number has to find room too; the extension stays where it can."""
    a, b = two
    a.write(name, "base")
    share(a, b)
    for number in (1, 2):
        a.write(name, f"by A {number}")
        b.write(name, f"by B {number}")
        settle(a, b)
    names = a.names()
    assert {a.read(n) for n in names} == {"by A 2", "by B 1", "by B 2"}
    assert all(len(os.fsencode(n)) <= 255 for n in names)
    if Path(name).suffix in {".txt", ".odt"}:
        assert {Path(n).suffix for n in names} == {Path(name).suffix}


def test_an_edit_that_loses_on_a_conflicted_copy_makes_no_chain(two: Two) -> None:
    a, b = two
    a.write("doc.txt", "base")
    share(a, b)
    a.write("doc.txt", "by A")
    b.write("doc.txt", "by B")
    settle(a, b)
    (copy,) = copies(a.names(), "doc.txt")
    a.write(copy, "copy by A")
    b.write(copy, "copy by B")
    settle(a, b)
    assert len(a.names()) == 3
    assert all(name.count("conflicted copy") <= 1 for name in a.names())
    assert {a.read(name) for name in a.names()} == {"by A", "copy by A", "copy by B"}


def test_a_conflicted_copy_can_be_resolved_by_renaming_it_over_the_file(two: Two) -> None:
    a, b = two
    a.write("doc.txt", "base")
    share(a, b)
    a.write("doc.txt", "by A")
    b.write("doc.txt", "by B")
    settle(a, b)
    (copy,) = copies(b.names(), "doc.txt")
    b.path(copy).rename(b.path("doc.txt"))
    settle(b, a)
    assert (a.names(), a.read("doc.txt")) == ({"doc.txt"}, "by B")


@pytest.mark.parametrize("name", ["Zoë's laptop.b (c)", "日本語のノートパソコン"])
def test_a_copy_is_named_after_devices_with_any_name(account: Account, name: str) -> None:
    a, b = account.link("A", register=True), account.link(name)
    a.write("doc.txt", "base")
    share(a, b)
    a.write("doc.txt", "by A")
    b.write("doc.txt", "by B")
    settle(a, b)
    (copy,) = copies(a.names(), "doc.txt")
    assert f"(conflicted copy, {name}, " in copy


def test_49_a_name_spelt_otherwise_here_is_one_file_and_keeps_its_spelling(two: Two) -> None:
    """A has the composed form, B the decomposed one, both with the same content."""
    a, b = two
    a.write("caf\u00e9.txt", "same")
    a.quick_sync()
    b.write("cafe\u0301.txt", "same")
    report = b.quick_sync()
    assert (report["uploaded_bytes"], report["downloaded_bytes"], report["conflicts"]) == (0, 0, 0)
    settle(a, b)
    for device in (b, a):
        (name,) = device.names()
        device.write(name, f"edited by {device.name}")
        settle(device, a, b)
    assert len([row for row in feed(a) if not row["deleted"]]) == 1
    assert len(versions(a, feed(a)[0]["id"])) == 3


def test_49_a_rename_to_the_other_spelling_is_no_loop_and_loses_nothing(two: Two) -> None:
    a, b = two
    a.write("d\u00e9/caf\u00e9.txt", "same")
    share(a, b)
    a.path("d\u00e9/caf\u00e9.txt").rename(a.path("d\u00e9/cafe\u0301.txt"))
    a.path("d\u00e9").rename(a.path("de\u0301"))
    settle(a, b)
    settle(b, a)
    assert len(feed(a)) == 2


def test_49_of_two_spellings_in_one_folder_the_second_is_reported_and_untouched(two: Two) -> None:
    a, b = two
    a.write("caf\u00e9.txt", "composed")
    share(a, b)
    a.write("cafe\u0301.txt", "decomposed")
    report = a.quick_sync(expect=5)
    assert [problem["code"] for problem in report["problems"]] == ["name_collision"]
    b.quick_sync()
    assert len(b.names()) == 1
    assert {a.read("caf\u00e9.txt"), a.read("cafe\u0301.txt")} == {"composed", "decomposed"}
    a.path("cafe\u0301.txt").rename(a.path("other.txt"))
    settle(a, b)


def test_52_names_that_are_no_text_are_reported_and_hold_up_nothing(two: Two) -> None:
    a, b = two
    bad = a.folder / os.fsdecode(b"bad-\xff")
    bad.mkdir()
    (bad / "inside.txt").write_bytes(b"inside")
    a.path("good").mkdir()
    (a.path("good") / os.fsdecode(b"\xfe.txt")).write_bytes(b"bad name")
    a.path("link").symlink_to(os.fsdecode(b"to-\xff"))
    a.write("good/file.txt", "arrives")
    report = a.quick_sync(expect=5)
    assert {problem["code"] for problem in report["problems"]} <= {"invalid_name", "unsafe_symlink"}
    assert len(report["problems"]) == 3
    b.quick_sync()
    assert b.names() == {"good", "good/file.txt"}
    assert (bad / "inside.txt").read_bytes() == b"inside"


@pytest.mark.parametrize("where", ["with  spaces", "ünï¢ödé 🎉\nnew 'line' %41"])
def test_the_synced_folder_itself_may_have_any_name(account: Account, where: str) -> None:
    a, b = account.link("A", register=True), account.link("B")
    b.folder = account.root / where / "folder"
    b.folder.mkdir(parents=True)
    a.write("x/y.txt", "by A")
    settle(a, b)
    b.write("x/y.txt", "by B")
    settle(b, a)
    assert a.read("x/y.txt") == "by B"
    with b.started():
        assert b.phase() == "in_step"


def test_the_synced_folder_may_be_reached_by_a_link(account: Account) -> None:
    """The link leads to the folder; what is synced is the folder, by either way to it."""
    a, b = account.link("A", register=True), account.link("B")
    real = b.folder
    b.folder = account.root / "way"
    b.folder.symlink_to(real)
    a.write("file.txt", "one")
    settle(a, b)
    assert b.folder.is_symlink()
    b.folder = real
    b.write("file.txt", "two")
    settle(b, a)
    assert a.read("file.txt") == "two"


# 53: a server that lies -----------------------------------------------------------------------------

HOSTILE = [
    "..", "../escaped.txt", "/etc/escaped", "a/b", ".", "", "a\0b", ".lockstep", ".LockStep",
    ".lockstep/root", "x" * 256, "a" * 300,
]  # fmt: skip


def test_53_names_of_a_hostile_server_are_refused_and_the_rest_arrives(two: Two, stack: Stack) -> None:
    """The rows are changed in the server's own database, since it would never accept such names."""
    a, b = two
    for number in range(len(HOSTILE)):
        a.write(f"file{number}", "evil")
        a.write(f"folder{number}/inside.txt", "evil")
    a.write("good.txt", "good")
    a.quick_sync()
    beside = tree_of(b.folder.parent / "home-A")
    change_nodes(
        stack, a, {f"file{n}": {"name": name, "name_key": f"f{name}"} for n, name in enumerate(HOSTILE)}
    )
    change_nodes(
        stack, a, {f"folder{n}": {"name": name, "name_key": f"d{name}"} for n, name in enumerate(HOSTILE)}
    )
    report = b.quick_sync(expect=5)
    assert b.names() == {"good.txt"}
    assert len(report["problems"]) >= len(HOSTILE)
    assert (b.folder / ".lockstep/root").is_file()
    assert beside == tree_of(b.folder.parent / "home-A")
    assert not (b.folder.parent / "escaped.txt").exists()
    b.write("more.txt", "from B")
    b.quick_sync(expect=5)
    a.quick_sync()
    assert a.read("more.txt") == "from B"


def change_nodes(stack: Stack, device: Device, changes: dict[str, dict[str, str]]) -> None:
    """Change nodes, found by name, where no rule looks."""
    ids = {row["name"]: row["id"] for row in feed(device)}
    with pymongo.MongoClient[dict[str, object]](stack.env["LOCKSTEP_MONGO_URL"]) as client:
        nodes = client[stack.env["LOCKSTEP_MONGO_DATABASE"]]["nodes"]
        for name, values in changes.items():
            assert nodes.update_one({"_id": ids[name]}, {"$set": values}).modified_count == 1


def test_53_links_of_a_hostile_server_that_lead_out_are_not_made(two: Two, stack: Stack) -> None:
    a, b = two
    targets = ["/etc/passwd", "../outside", "..", ".lockstep/root", "a/../../b"]
    for number in range(len(targets)):
        a.path(f"link{number}").symlink_to("good.txt")
    a.write("good.txt", "good")
    a.quick_sync()
    change_nodes(stack, a, {f"link{n}": {"symlink_target": target} for n, target in enumerate(targets)})
    report = b.quick_sync(expect=5)
    assert {p["code"] for p in report["problems"]} == {"unsafe_symlink"}
    assert len(report["problems"]) == len(targets)
    assert b.names() == {"good.txt"}
