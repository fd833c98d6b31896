"""What the measurements of differences are made of, and that rsync really sends differences there."""

import hashlib
import os
import shutil
import socket
import sqlite3
import threading
import zipfile
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from tests.bench import edits
from tests.bench.differences import Differences, Row, Run
from tests.bench.releases import repacked
from tests.bench.rsync import Moved, rsync_in, total_of
from tests.bench.wire import Wire
from tests.support.waiting import wait_until


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def row(up: int, down: int, goal: float) -> Row:
    size = 10_000
    return Row(
        "a case", size, goal, Run(up - 10, 10, up + 50, 1.0), Run(down - 10, 10, down + 50, 1.0),
        Moved(1000, 0.5), Moved(500, 0.5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("up", "down", "goal", "reached"),
    [(500, 500, 0.5, True), (501, 100, 0.5, False), (100, 501, 0.5, False), (1100, 1100, 1.1, True)],
)
def test_a_goal_is_reached_when_both_directions_reach_it(
    up: int, down: int, goal: float, *, reached: bool
) -> None:
    measured = row(up, down, goal)
    assert measured.reached is reached
    assert ("MISSED" in Differences("edits", rows=[measured]).table()) is not reached


def test_ratios_are_of_payload_and_api_bodies_to_both_ways_of_rsync() -> None:
    ratios = row(400, 300, 0.5).as_json()["ratios"]
    assert ratios == {
        "up_to_rsync": 0.4, "down_to_rsync": 0.3, "up_to_rsync_z": 0.8, "down_to_rsync_z": 0.6
    }  # fmt: skip


def test_what_rsync_sent_and_received_is_added_up() -> None:
    told = "Literal data: 7 bytes\nTotal bytes sent: 1,234,567\nTotal bytes received: 33\n\nsent 5 bytes"
    assert total_of(told) == 1_234_600
    with pytest.raises(ValueError, match="no totals"):
        total_of("rsync: nothing\n")


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed; `make bench` installs it")
def test_rsync_sends_the_difference_and_leaves_the_old_inode(tmp_path: Path) -> None:
    source, target, kept = tmp_path / "new.bin", tmp_path / "old.bin", tmp_path / "kept"
    target.write_bytes(os.urandom(2_000_000))
    shutil.copyfile(target, source)
    os.link(target, kept)
    before = digest(kept)
    edits.change_a_byte(source)
    moved = rsync_in(tmp_path).update(source, target)
    assert digest(target) == digest(source) != before == digest(kept)
    assert 1000 < moved.total < 100_000, "signatures and a block, not the whole"


# Edits --------------------------------------------------------------------------------------------


def test_the_edits_of_the_large_file_do_what_they_are_called(tmp_path: Path) -> None:
    path = tmp_path / "large"
    content = Random(0).randbytes(3 * edits.MIB + 5)
    path.write_bytes(content)
    changed = list[bytes]()
    for edit in edits.large_edits(1 << 30):
        edit.apply(path)
        changed.append(path.read_bytes())
    one, inserted, appended, written = changed
    assert [at for at in range(len(content)) if content[at] != one[at]] == [len(content) // 2]
    assert inserted[1000:] == one
    assert (appended[: len(inserted)], len(appended)) == (inserted, len(inserted) + edits.MIB)
    differing = sum(a != b for a, b in zip(appended, written, strict=True))
    assert 0.8 * 100 * edits.WRITE_BYTES < differing <= 100 * edits.WRITE_BYTES
    assert edits.large_edits(1 << 30)[-1].name == "100 random writes of 4 KiB"


def test_one_line_of_the_text_is_edited(tmp_path: Path) -> None:
    path = tmp_path / "text"
    edits.write_text(path, 100_000)
    before = path.read_text().splitlines()
    edits.edit_a_line(path)
    after = path.read_text().splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_the_database_is_whole_after_its_updates(tmp_path: Path) -> None:
    path = tmp_path / "db"
    edits.write_database(path, 1_000_000)
    size = path.stat().st_size
    assert 0.7e6 < size < 1.3e6
    edits.update_rows(path, 50)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {entry.name for entry in tmp_path.iterdir()} == {"db"}, "no journal is left"


def test_an_edited_document_differs_from_the_edit_to_the_end_of_the_member(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    edits.write_document(old, 50_000)
    edits.write_document(new, 50_000, edited=True)
    with zipfile.ZipFile(old) as before, zipfile.ZipFile(new) as after:
        assert before.namelist() == after.namelist()
        differing = [name for name in before.namelist() if before.read(name) != after.read(name)]
    assert differing == ["word/document.xml"]


def test_material_is_the_same_each_time(tmp_path: Path) -> None:
    for number in (1, 2):
        edits.write_document(tmp_path / f"doc{number}", 50_000)
        edits.write_text(tmp_path / f"text{number}", 10_000)
        with zipfile.ZipFile(tmp_path / f"wheel{number}", "w") as wheel:
            for name in ("b", "a")[:: 1 if number == 1 else -1]:
                wheel.writestr(zipfile.ZipInfo(name, (2000 + number, 1, 1, 0, 0, 0)), name * 1000)
        repacked(tmp_path / f"wheel{number}", tmp_path / f"tar{number}")
    for kind in ("doc", "text", "tar"):
        assert digest(tmp_path / f"{kind}1") == digest(tmp_path / f"{kind}2")


# The wire -----------------------------------------------------------------------------------------


def test_every_byte_of_a_connection_is_counted_both_ways() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Wire().running() as wire:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data * 2)

        thread = threading.Thread(target=answer)
        thread.start()
        url = wire.url_to(f"http://127.0.0.1:{server.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(b"x" * 1000)
            client.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: client.recv(65536), b""))
        thread.join()
        assert received == b"x" * 2000
        wait_until(lambda: wire.total == 3000, 10, "all is counted")
