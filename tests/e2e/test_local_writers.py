"""Scenarios "Local writers": programs that write into the folder in their own ways and at any instant."""

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.disk import Disk, native
from tests.support.devices import Device, are_same, converge, copies, hash_of
from tests.support.settling import feed, settle, share, versions
from tests.support.waiting import wait_until

MIB = 1024 * 1024
Two = tuple[Device, Device]
Save = Callable[[Path, bytes], None]


# 64: how programs save ----------------------------------------------------------------------------


def write_over(path: Path, content: bytes) -> None:
    """Nano, Notepad, most scripts: cut to nothing and write."""
    path.write_bytes(content)


def vim(path: Path, content: bytes) -> None:
    """Vim, `backupcopy=no`: try out the folder, rename to a backup, write anew, remove the backup."""
    (path.parent / "4913").write_bytes(b"")
    (path.parent / "4913").unlink()
    swap, backup = path.parent / f".{path.name}.swp", path.parent / f"{path.name}~"
    swap.write_bytes(b"swap")
    path.rename(backup)
    path.write_bytes(content)
    backup.unlink()
    swap.unlink()


def vim_keeping_the_backup(path: Path, content: bytes) -> None:
    """Vim or Emacs that keep `name~` beside the file."""
    path.rename(path.parent / f"{path.name}~")
    path.write_bytes(content)


def emacs(path: Path, content: bytes) -> None:
    """Emacs: lock link, automatic save, backup, write over."""
    lock = path.parent / f".#{path.name}"
    lock.symlink_to("user@host.1234:5678")
    (path.parent / f"#{path.name}#").write_bytes(content[:5])
    path.write_bytes(content)
    (path.parent / f"#{path.name}#").unlink()
    lock.unlink()


def libreoffice(path: Path, content: bytes) -> None:
    """LibreOffice: a lock file, a temporary file, renamed over."""
    lock = path.parent / f".~lock.{path.name}#"
    lock.write_bytes(b",user,host,;")
    new = path.parent / "lu1234abcd.tmp"
    new.write_bytes(content)
    new.rename(path)
    lock.unlink()


def word(path: Path, content: bytes) -> None:
    """Microsoft Office: the new file beside, the old one out of the way, the new one in its place."""
    owner = path.parent / f"~${path.name}"
    owner.write_bytes(b"owner")
    new, old = path.parent / "~WRD0001.tmp", path.parent / "~WRL0002.tmp"
    new.write_bytes(content)
    path.rename(old)
    new.rename(path)
    old.unlink()
    owner.unlink()


def gedit(path: Path, content: bytes) -> None:
    """GNOME: an ignored temporary file, renamed over."""
    new = path.parent / ".goutputstream-AB12CD"
    new.write_bytes(content)
    new.rename(path)


def jetbrains(path: Path, content: bytes) -> None:
    """JetBrains: both temporary names are ignored."""
    new, old = path.parent / f"{path.name}___jb_tmp___", path.parent / f"{path.name}___jb_old___"
    new.write_bytes(content)
    path.rename(old)
    new.rename(path)
    old.unlink()


def rsync(path: Path, content: bytes) -> None:
    """Rsync and many atomic writers: a hidden temporary file that no rule ignores, renamed over."""
    new = path.parent / f".{path.name}.Ab1xY9"
    new.write_bytes(content)
    new.rename(path)


def sed(path: Path, content: bytes) -> None:
    """`sed -i`: the real one, replacing everything."""
    script = path.parent.parent / "script.sed"
    script.write_bytes(b"1c\\\n" + content.rstrip(b"\n") + b"\n")
    subprocess.run(["sed", "-i", "-f", script, path], check=True)  # noqa: S607 - wherever it is
    script.unlink()


def exchange(path: Path, content: bytes) -> None:
    """An atomic exchange of two names, then the old one removed."""
    new = path.parent / "exchanged.tmp"
    new.write_bytes(content)
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        native.rename_exchange(native.Place(fd, new.name), native.Place(fd, path.name))
    finally:
        os.close(fd)
    new.unlink()


def remove_and_make(path: Path, content: bytes) -> None:
    """Unlink and write anew: another inode."""
    path.unlink()
    path.write_bytes(content)


def by_hard_link(path: Path, content: bytes) -> None:
    """A hard link as the backup, then renamed over."""
    backup, new = path.parent / f"{path.name}~", path.parent / "linked.tmp"
    backup.hardlink_to(path)
    new.write_bytes(content)
    new.rename(path)
    backup.unlink()


def in_place(path: Path, content: bytes) -> None:
    """A data base: written over in the middle, never cut."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
        os.fsync(file.fileno())


SAVES = [
    write_over, vim, vim_keeping_the_backup, emacs, libreoffice, word, gedit, jetbrains, rsync, sed, exchange,
    remove_and_make, by_hard_link, in_place,
]  # fmt: skip


def test_64_every_way_to_save_keeps_one_node_with_its_history(two: Two) -> None:
    """All ways at once, each in a folder of its own; what they leave beside the file stays here."""
    a, b = two
    for save in SAVES:
        a.write(f"{save.__name__}/doc.txt", f"{save.__name__} one\n")
    share(a, b)
    ids = ids_by_path(a)
    for save in SAVES:
        content = f"{save.__name__} two\n"
        save(a.path(f"{save.__name__}/doc.txt"), content.encode())
        a.written[hash_of(content.encode())] = save.__name__
    assert a.quick_sync()["uploaded_files"] == len(SAVES)
    b.quick_sync()
    for save in SAVES:
        path = f"{save.__name__}/doc.txt"
        assert b.read(path) == f"{save.__name__} two\n", save.__name__
        assert [p.name for p in b.path(save.__name__).iterdir()] == ["doc.txt"], save.__name__
        assert ids_by_path(a)[path] == ids[path], save.__name__
        assert len(versions(a, ids[path])) == 2, save.__name__
    for save in SAVES:
        a.path(f"{save.__name__}/doc.txt~").unlink(missing_ok=True)
    settle(a, b)


def ids_by_path(device: Device) -> dict[str, str]:
    """Live files at depth two by path."""
    rows = {row["id"]: row for row in feed(device) if not row["deleted"]}
    return {
        f"{rows[row['parent_id']]['name']}/{row['name']}": row["id"]
        for row in rows.values() if row["parent_id"] in rows
    }  # fmt: skip


def test_64_ways_to_save_under_a_running_agent_end_with_what_was_saved_last(two: Two) -> None:
    """Five saves in a row in each way while both agents run: the last content, no copies, nothing else."""
    a, b = two
    for save in SAVES:
        a.write(f"{save.__name__}/doc.txt", f"{save.__name__} 0\n")
    converge(a, b)
    with a.started(), b.started():
        for turn in range(1, 6):
            for save in SAVES:
                content = f"{save.__name__} {turn}\n".encode()
                save(a.path(f"{save.__name__}/doc.txt"), content)
                a.written[hash_of(content)] = save.__name__
        wait_until(
            lambda: all(b.path(f"{s.__name__}/doc.txt").read_bytes().endswith(b" 5\n") for s in SAVES),
            30, "the last saves are on B",
        )  # fmt: skip
    for save in SAVES:
        a.path(f"{save.__name__}/doc.txt~").unlink(missing_ok=True)
    settle(a, b, lost=[f"{s.__name__} {turn}\n" for s in SAVES for turn in range(5)])
    assert not [name for name in b.names() if "conflicted" in name]


# 65 … 67: written while it is read -----------------------------------------------------------------


def stamped(number: int, size: int = 40_000) -> bytes:
    """Content whose first line is the hash of the rest."""
    rest = f"{number}\n".encode() * size
    return hash_of(rest).encode() + b"\n" + rest


def is_whole(content: bytes) -> bool:
    first, _, rest = content.partition(b"\n")
    return first.decode(errors="replace") == hash_of(rest)


def test_65_a_file_written_slowly_is_never_seen_half(two: Two) -> None:
    """Twice over 1.5 seconds (the scenario says 30): B sees a whole state, or the one before."""
    a, b = two
    a.write("slow.bin", stamped(0))
    converge(a, b)
    seen: set[bytes] = set()
    with a.started(), b.started():
        for number in (1, 2):
            writer = threading.Thread(target=write_slowly, args=(a.path("slow.bin"), stamped(number), 1.5))
            writer.start()
            while writer.is_alive():
                seen.add(b.path("slow.bin").read_bytes())
                writer.join(0.02)
            wait_until(
                lambda number=number: b.path("slow.bin").read_bytes() == stamped(number),  # type: ignore[misc]
                30, "what was written is on B",
            )  # fmt: skip
    assert seen
    assert all(is_whole(content) for content in seen)
    assert all(item["size"] > 1 for item in versions(a, a.ls()["slow.bin"]["id"]))


def write_slowly(path: Path, content: bytes, seconds: float) -> None:
    """Cut the file and write it piece by piece."""
    pieces = 20
    size = len(content) // pieces + 1
    pause = threading.Event()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), size):
            file.write(content[start : start + size])
            pause.wait(seconds / pieces)


def test_66_what_changes_while_its_parts_travel_is_never_committed_as_a_mixture(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three parts; the file is written over after the first was read. Every version is a whole state."""
    a, b = two
    before, after = os.urandom(25 * MIB), os.urandom(25 * MIB)
    a.write("big.bin", before)
    with once_after_a_part(monkeypatch, lambda: a.write("big.bin", after)):
        a.quick_sync(part_parallel=1)
    del a.written[hash_of(before)]  # its own writer wrote over it before anything could see it
    settle(a, b)
    assert b.path("big.bin").read_bytes() == after
    hashes = {item["content_hash"] for item in versions(a, a.ls()["big.bin"]["id"])}
    assert hash_of(after) in hashes
    assert hashes <= {hash_of(before), hash_of(after)}


def test_66_content_that_comes_back_after_it_changed_under_way_is_sent_after_all(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session of a content may hold parts of another one, read while the file changed.

    When the file is again what it was, that session must not stand in the way.
    """
    a, b = two
    before, after = os.urandom(25 * MIB), os.urandom(25 * MIB)
    a.write("big.bin", before)
    with once_after_a_part(monkeypatch, lambda: a.write("big.bin", after)):
        a.quick_sync(part_parallel=1, url_batch=1)
    a.write("big.bin", before)
    settle(a, b)
    assert b.path("big.bin").read_bytes() == before


def test_67_what_is_deleted_while_it_travels_is_not_committed(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    a.write("big.bin", os.urandom(25 * MIB))
    with once_after_a_part(monkeypatch, a.path("big.bin").unlink):
        a.quick_sync(part_parallel=1)
    a.written.clear()  # its own writer deleted it
    settle(a, b)
    assert feed(a) == []


@contextmanager
def once_after_a_part(patch: pytest.MonkeyPatch, then: Callable[[], object]) -> Iterator[None]:
    """Do something after the first part of a large upload was sent."""
    from agent.remote import Api  # noqa: PLC0415 - the class that is patched

    done: list[bool] = []
    original = Api.upload_urls

    async def upload_urls(self: Api, *arguments: Any) -> Any:
        reply = await original(self, *arguments)
        if not done:
            done.append(True)
            then()
        return reply

    with patch.context() as patched:
        patched.setattr(Api, "upload_urls", upload_urls)
        yield
    assert done, "no part was sent"


# 70, 71: written in the instant of a download -------------------------------------------------------


def edited(a: Device, b: Device) -> None:
    """A file that both have, edited by A and sent."""
    a.write("doc.txt", "base")
    share(a, b)
    a.write("doc.txt", "by A")
    a.quick_sync()


def test_71_an_edit_between_download_and_swap_becomes_a_copy(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    edited(a, b)
    with once_before(monkeypatch, Disk, "install", lambda: b.write("doc.txt", "by B, just now")):
        b.quick_sync()
    settle(a, b)
    assert a.read("doc.txt") == "by A"
    (copy,) = copies(a.names(), "doc.txt")
    assert a.read(copy) == "by B, just now"


@pytest.mark.parametrize("way", ["in place", "renamed over", "removed", "turned to a folder"])
def test_70_a_write_in_the_instant_of_the_exchange_is_kept(
    two: Two, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Right before the system exchanges the names, the last instant that there is."""
    a, b = two
    edited(a, b)
    path = b.path("doc.txt")

    def act() -> None:
        match way:
            case "in place":
                b.write("doc.txt", "by B, just now")
            case "renamed over":
                b.write("new", "by B, just now").rename(path)
            case "removed":
                path.unlink()
            case _:
                path.unlink()
                b.write("doc.txt/inside", "by B, just now")

    with once_before(monkeypatch, native, "rename_exchange", act):
        b.quick_sync()
    settle(a, b)
    texts = {a.path(name).read_text() for name in a.names() if a.path(name).is_file()}
    assert texts == ({"by A"} if way == "removed" else {"by A", "by B, just now"})


def test_70_a_write_in_the_instant_of_a_removal_is_kept(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two
    a.write("doc.txt", "base")
    share(a, b)
    a.path("doc.txt").unlink()
    a.quick_sync()
    with once_before(monkeypatch, Disk, "remove", lambda: b.write("doc.txt", "by B, just now")):
        b.quick_sync()
    settle(a, b)
    assert a.read("doc.txt") == "by B, just now"


def test_70_a_file_made_in_the_instant_in_which_one_arrives_at_its_name_is_kept(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    a.write("doc.txt", "by A")
    a.quick_sync()
    with once_before(monkeypatch, native, "rename_noreplace", lambda: b.write("doc.txt", "by B, just now")):
        b.quick_sync()
    settle(a, b)
    assert {a.read(name) for name in a.names()} == {"by A", "by B, just now"}


@contextmanager
def once_before(
    patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]
) -> Iterator[None]:
    """Do something right before a call of the agent, the first time only."""
    done: list[bool] = []
    original = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return original(*arguments, **named)

    with patch.context() as patched:
        patched.setattr(owner, name, call)
        yield
    assert done, f"{name} was not called"


# Files that a program keeps open ---------------------------------------------------------------------


def test_a_file_that_a_program_holds_open_for_writing_is_left_to_it_and_replaced_later(two: Two) -> None:
    """A program with a lock and an open file; what it writes after the other's edit came is kept."""
    a, b = two
    a.write("held.db", "base")
    share(a, b)
    a.write("held.db", "by A")
    a.quick_sync()
    with b.path("held.db").open("r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        report = b.quick_sync(expect=5)
        assert [(p["path"], p["code"]) for p in report["problems"]] == [("held.db", "in_use")]
        file.write(b"by B, held open")
    b.written[hash_of(b"by B, held open")] = "held.db"
    settle(b, a)
    assert {a.read(name) for name in a.names()} == {"by A", "by B, held open"}


def test_a_file_that_a_program_holds_open_is_not_removed_under_it(two: Two) -> None:
    a, b = two
    a.write("held.log", "base")
    share(a, b)
    a.path("held.log").unlink()
    a.quick_sync()
    with b.path("held.log").open("ab", buffering=0) as file:
        assert b.quick_sync(expect=5)["problems"][0]["code"] == "in_use"
        file.write(b", and a line")
    b.written[hash_of(b"base, and a line")] = "held.log"
    settle(b, a)
    assert a.read("held.log") == "base, and a line"


def test_a_log_that_grows_all_the_time_is_never_corrupt_and_complete_in_the_end(two: Two) -> None:
    """Scenario 9, scaled down to three seconds: B has prefixes only, in the end all of it."""
    a, b = two
    lines = [f"line {number}\n" for number in range(150)]
    a.write("app.log", lines[0])
    converge(a, b)
    seen: set[str] = set()
    whole = "".join(lines)
    pause = threading.Event()
    with a.started(), b.started():
        for line in lines[1:]:
            with a.path("app.log").open("a") as file:
                file.write(line)
            seen.add(b.read("app.log"))
            pause.wait(0.02)
        wait_until(lambda: b.read("app.log") == whole, 30, "the whole log is on B")
    assert all(whole.startswith(text) for text in seen)
    assert len(versions(a, a.ls()["app.log"]["id"])) < len(lines)
    converge(a, b)


def test_many_edits_in_a_row_end_with_the_last_on_both(two: Two) -> None:
    """A hundred edits of ten files under running agents: the last one each, no copies."""
    a, b = two
    with a.started(), b.started():
        for number in range(100):
            a.write(f"{number % 10}.txt", f"edit {number}")
        wait_until(lambda: len(b.names()) == 10 and are_same(a, b), 30, "the last edits are on B")
    settle(a, b, lost=[f"edit {number}" for number in range(90)])
    assert {b.read(f"{n}.txt") for n in range(10)} == {f"edit {n}" for n in range(90, 100)}
