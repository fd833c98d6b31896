"""Real programs work in the folder while agents run: git, SQLite, unpacking, copying, rotating logs.

What a program finds at rest on the other device must be as good as on its own.
"""

import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.devices import Device, check_same, copies, tree_of
from tests.support.settling import check_rest
from tests.support.waiting import wait_until

Two = tuple[Device, Device]
REST_SECONDS = 60
CALM_SECONDS = 1.0
STAYS = "stays.txt"


@contextmanager
def running(*devices: Device) -> Iterator[None]:
    """Both agents run while the body does; afterwards a further run has nothing to do."""
    first, second = devices
    first.write(STAYS, "a folder that its user empties is another matter")
    with first.started(), second.started():
        yield
        rest(*devices)
    check_rest(*devices)


def rest(*devices: Device) -> None:
    """Return when the folders are equal, the agents say that they are in step, and it stays so."""
    since = time.monotonic()

    def calm() -> bool:
        nonlocal since
        if not (_same(*devices) and all(device.phase() == "in_step" for device in devices)):
            since = time.monotonic()
        return time.monotonic() - since > CALM_SECONDS

    try:
        wait_until(calm, REST_SECONDS, "the devices are at rest")
    except TimeoutError:
        first, second = devices
        check_same(tree_of(first.folder), tree_of(second.folder), "two devices")
        raise


def _same(*devices: Device) -> bool:
    try:
        first, second = (tree_of(device.folder) for device in devices)
    except FileNotFoundError:
        return False
    return first == second


def program(name: str) -> str:
    """Where a program is that every machine of a developer has."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed"
    return found


def conflicts(device: Device) -> list[str]:
    return [name for name in device.names() if "(conflicted copy, " in name]


# git --------------------------------------------------------------------------------------------

IDENTITY = (
    "-c",
    "user.name=A",
    "-c",
    "user.email=a@example.org",
    "-c",
    "gc.auto=0",
    "-c",
    "commit.gpgsign=false",
)


def git(device: Device, *arguments: str) -> str:
    """Run git in the device's copy of the repository; without its habit of writing while it only looks."""
    done = subprocess.run(
        [program("git"), *IDENTITY, *arguments],
        cwd=device.path("repo"), capture_output=True, text=True, check=False,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_EDITOR": "true"},
    )  # fmt: skip
    assert done.returncode == 0, f"{device.name}: git {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def commit(device: Device, name: str, text: str) -> None:
    device.write(f"repo/{name}", text)
    git(device, "add", "--all")
    git(device, "commit", "--message", f"{name} by {device.name}")


def check_repositories(a: Device, b: Device) -> None:
    """At rest both repositories are sound, clean, and at the same commits."""
    rest(a, b)
    for device in (a, b):
        git(device, "fsck", "--full", "--strict")
        assert git(device, "status", "--porcelain") == ""
    assert git(a, "for-each-ref") == git(b, "for-each-ref")
    assert git(a, "rev-parse", "HEAD") == git(b, "rev-parse", "HEAD")


def test_a_git_repository_worked_on_from_two_devices_in_turn_stays_sound(two: Two) -> None:
    a, b = two
    a.path("repo").mkdir()
    with running(a, b):
        git(a, "init", "--initial-branch", "main", "--template", "")
        for number in range(5):
            commit(a, f"src/file{number}.py", f"print({number})\n" * 20)
        check_repositories(a, b)

        git(b, "switch", "--create", "work")
        commit(b, "src/file1.py", "print('work')\n")
        commit(b, "docs/readme.md", "words\n")
        git(b, "switch", "main")
        commit(b, "src/file2.py", "print('main')\n")
        check_repositories(a, b)

        git(a, "merge", "work")
        git(a, "branch", "--delete", "work")
        git(a, "gc", "--quiet", "--prune=now")
        check_repositories(a, b)

        git(b, "switch", "--create", "other", "HEAD~1")
        commit(b, "src/other.py", "print('other')\n")
        git(b, "rebase", "main")
        git(b, "repack", "-a", "-d", "--quiet")
        check_repositories(a, b)
        git(a, "stash", "list")
        git(a, "checkout", "main", "--quiet")
        git(a, "merge", "--no-ff", "other")
        check_repositories(a, b)
    assert conflicts(a) == []


# SQLite -----------------------------------------------------------------------------------------


def fill(connection: sqlite3.Connection, rounds: int) -> None:
    """Write in many transactions, with updates and deletions, so that pages are used again."""
    connection.execute("create table if not exists t (id integer primary key, x blob)")
    for number in range(rounds):
        with connection:
            connection.executemany("insert into t (x) values (?)", [(os.urandom(700),) for _ in range(20)])
            connection.execute("delete from t where id % 7 = ?", (number % 7,))


def rows(path: Path) -> list[tuple[int, bytes]]:
    """Open a copy of the database, with what lies beside it, and read everything."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        found: list[tuple[int, bytes]] = connection.execute("select id, x from t order by id").fetchall()
        return found


def copied(device: Device, to: Path) -> Path:
    """A copy of the device's database files: to open them would change them."""
    shutil.copytree(device.path("db"), to)
    return to / "data.sqlite"


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate"])
def test_a_database_that_is_written_meanwhile_is_whole_on_the_other_device(
    two: Two, tmp_path: Path, journal: str
) -> None:
    a, b = two
    a.path("db").mkdir()
    with running(a, b):
        with closing(sqlite3.connect(a.path("db/data.sqlite"))) as connection:
            connection.execute(f"pragma journal_mode = {journal}")
            fill(connection, 120)
            # It stays open, with whatever lies beside it, and rests.
            rest(a, b)
            expected = rows(copied(a, tmp_path / "open-a"))
            assert rows(copied(b, tmp_path / "open-b")) == expected
            fill(connection, 40)
        rest(a, b)
        expected = rows(copied(a, tmp_path / "a"))
        assert rows(copied(b, tmp_path / "b")) == expected
    left = {"db/data.sqlite-journal"} if journal == "truncate" else set()
    assert b.names() == {STAYS, "db", "db/data.sqlite"} | left


# Trees of files ---------------------------------------------------------------------------------


def archive(files: int) -> bytes:
    """A source archive: many small files with old times, programs, links, empty folders."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for number in range(files):
            content = f"# {number}\n".encode() * (1 + number % 50)
            entry = tarfile.TarInfo(f"pkg-1.0/src/m{number % 7}/f{number}.py")
            entry.size, entry.mtime = len(content), 1_400_000_000 + number
            entry.mode = 0o755 if number % 9 == 0 else 0o644
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("pkg-1.0/latest")
        link.type, link.linkname = tarfile.SYMTYPE, "src/m1"
        tar.addfile(link)
        folder = tarfile.TarInfo("pkg-1.0/empty")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
    return made.getvalue()


def unpack(device: Device, packed: bytes) -> None:
    subprocess.run([program("tar"), "xzf", "-", "-C", device.folder], input=packed, check=True)


def test_an_archive_unpacked_changed_unpacked_again_and_deleted_is_followed(two: Two) -> None:
    a, b = two
    packed = archive(70)
    with running(a, b):
        unpack(a, packed)
        rest(a, b)
        assert len(b.names()) == 70 + 7 + 4 + 1
        assert b.path("pkg-1.0/src/m2/f9.py").stat().st_mtime == 1_400_000_009
        # The other device changes some; unpacking again brings back the old content and the old times.
        for name in ("src/m1/f1.py", "src/m2/f2.py"):
            b.write(f"pkg-1.0/{name}", "changed")
        b.path("pkg-1.0/src/m3").rename(b.path("pkg-1.0/src/moved"))
        rest(a, b)
        unpack(a, packed)
        rest(a, b)
        assert b.read("pkg-1.0/src/m1/f1.py") == "# 1\n" * 2
        assert {"pkg-1.0/src/moved/f3.py", "pkg-1.0/src/m3/f3.py"} <= b.names()
        shutil.rmtree(a.path("pkg-1.0"))
        rest(a, b)
        assert b.names() == {STAYS}


def test_an_environment_of_python_is_followed_and_its_outer_links_are_named(two: Two) -> None:
    """`python -m venv`: links to the system's programs lead out of the folder and stay here."""
    a, b = two
    a.write(STAYS, "")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", a.path("env")], check=True)
    report = a.quick_sync(expect=5)
    assert {problem["code"] for problem in report["problems"]} == {"unsafe_symlink"}
    assert all(problem["path"].startswith("env/bin/python") for problem in report["problems"])
    b.quick_sync()
    assert b.path("env/lib64").readlink() == Path("lib")
    assert b.path("env/pyvenv.cfg").read_bytes() == a.path("env/pyvenv.cfg").read_bytes()
    shutil.rmtree(a.path("env"))
    a.quick_sync()
    b.quick_sync()
    assert a.names() == b.names() == {STAYS}


# Copying programs and logs ----------------------------------------------------------------------


def rsync(path: Path, content: bytes, mtime: int) -> None:
    """Write `.name.XXXXXX` beside it, give it the source's time, rename it over: what rsync does."""
    beside = path.with_name(f".{path.name}.aB3xYz")
    with beside.open("wb") as file:
        for start in range(0, len(content), 32 * 1024):
            file.write(content[start : start + 32 * 1024])
            file.flush()
    os.utime(beside, (mtime, mtime))
    beside.replace(path)


def test_files_copied_by_temporary_names_with_old_times_keep_their_history(two: Two) -> None:
    a, b = two
    with running(a, b):
        for turn in range(6):
            for number in range(4):
                # Always the same size, and times that go backwards: only the content tells.
                content = bytes([turn * 16 + number]) * 300_000
                rsync(a.path(f"copy{number}.bin"), content, 1_500_000_000 - turn)
        rest(a, b)
        assert b.names() == {STAYS, *(f"copy{number}.bin" for number in range(4))}
        assert b.path("copy3.bin").read_bytes() == bytes([5 * 16 + 3]) * 300_000
        assert b.path("copy3.bin").stat().st_mtime == 1_500_000_000 - 5
    assert conflicts(b) == []


def test_logs_that_grow_and_are_rotated_arrive_in_their_order(two: Two) -> None:
    a, b = two
    log = a.path("app.log")
    with running(a, b):
        for turn in range(4):
            with log.open("ab", buffering=0) as file:
                for line in range(200):
                    file.write(f"turn {turn} line {line}\n".encode())
            for number in (2, 1):
                if a.path(f"app.log.{number}").exists():
                    a.path(f"app.log.{number}").replace(a.path(f"app.log.{number + 1}"))
            log.rename(a.path("app.log.1"))
        log.write_text("turn 4 line 0\n")
        rest(a, b)
        for number, turn in ((1, 3), (2, 2), (3, 1)):
            lines = b.read(f"app.log.{number}").splitlines()
            assert lines == [f"turn {turn} line {line}" for line in range(200)]
        assert b.read("app.log") == "turn 4 line 0\n"
    assert copies(b.names(), "app.log") == set()
