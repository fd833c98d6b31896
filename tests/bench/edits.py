"""Files and what is done to them between two versions. Everything but the large file is made from seeds."""

import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

MIB: Final = 1 << 20
TEXT_BYTES: Final = 10_000_000
DATABASE_BYTES: Final = 100_000_000
DOCUMENT_TEXT_BYTES: Final = 4_000_000
UPDATES: Final = 1000
WRITES_PER_GIB: Final = 100
WRITE_BYTES: Final = 4096
_WORDS: Final = 5000
_ROW_BYTES: Final = 400
_STAMP: Final = (2024, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Edit:
    """A case: how a file, that exists, becomes its next version, in place."""

    name: str
    apply: Callable[[Path], None]


# The large file of random bytes -------------------------------------------------------------------


def large_edits(size: int) -> list[Edit]:
    """What is done to the large file, one after the other; sizes in bytes."""
    writes = max(4, size * WRITES_PER_GIB >> 30)
    return [
        Edit("1 byte changed in the middle", change_a_byte),
        Edit("1,000 bytes inserted at the front", insert_at_front),
        Edit("1 MiB appended", append_a_mebibyte),
        Edit(f"{writes} random writes of 4 KiB", lambda path: write_at_random(path, writes)),
    ]


def change_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        old = file.read(1)
        file.seek(middle)
        file.write(bytes([old[0] ^ 1]))


def insert_at_front(path: Path, count: int = 1000) -> None:
    """Write the file anew, beside its place, as programs do that cannot insert."""
    beside = path.with_name(f".{path.name}.new")
    with path.open("rb") as old, beside.open("wb") as new:
        new.write(Random(1).randbytes(count))
        while piece := old.read(MIB):
            new.write(piece)
    beside.replace(path)


def append_a_mebibyte(path: Path) -> None:
    with path.open("ab") as file:
        file.write(Random(2).randbytes(MIB))


def write_at_random(path: Path, count: int) -> None:
    """Write blocks anywhere, not at multiples of their size."""
    rng, size = Random(3), path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(count):
            file.seek(rng.randrange(size - WRITE_BYTES))
            file.write(rng.randbytes(WRITE_BYTES))


# Text ---------------------------------------------------------------------------------------------


def text(size: int, seed: int) -> Iterator[str]:
    """Lines of words that are as frequent as words are, of about `size` bytes together."""
    rng = Random(seed)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(2, 11))) for _ in range(_WORDS)]
    weights = [1 / rank for rank in range(1, _WORDS + 1)]
    made = 0
    while made < size:
        line = " ".join(rng.choices(words, weights, k=rng.randint(6, 16))) + "\n"
        made += len(line)
        yield line


def write_text(path: Path, size: int = TEXT_BYTES) -> None:
    path.write_text("".join(text(size, 4)))


def edit_a_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[len(lines) // 2] = "this line has another text now, and another length\n"
    path.write_text("".join(lines))


# A database ---------------------------------------------------------------------------------------


def write_database(path: Path, size: int = DATABASE_BYTES) -> None:
    """A table of rows of text with a key and an index, about `size` bytes."""
    rng = Random(5)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, note TEXT, changed INTEGER)")
        rows = ((f"{rng.getrandbits(64):016x}", _note(rng), n) for n in range(size // _ROW_BYTES))
        database.executemany("INSERT INTO item (name, note, changed) VALUES (?, ?, ?)", rows)
        database.execute("CREATE INDEX by_name ON item (name)")


def update_rows(path: Path, count: int = UPDATES) -> None:
    """Change random rows, each in a statement of its own, as a program does in the course of a day."""
    rng = Random(6)
    with closing(sqlite3.connect(path)) as database, database:
        (rows,) = database.execute("SELECT count(*) FROM item").fetchone()
        for number in range(count):
            found = (_note(rng), number, rng.randrange(rows) + 1)
            database.execute("UPDATE item SET note = ?, changed = ? WHERE id = ?", found)


def _note(rng: Random) -> str:
    return "".join(rng.choices("etaoin shrdlu cmfwyp", k=rng.randint(200, 440)))


# A document ---------------------------------------------------------------------------------------


def write_document(path: Path, size: int = DOCUMENT_TEXT_BYTES, *, edited: bool = False) -> None:
    """What an office program saves: a zip of XML, deflated anew each time, and of pictures.

    The edit is one word near the beginning. All that deflate writes of that member after it differs.
    """
    lines = list(text(size, 7))
    if edited:
        lines[20] = f"another {lines[20]}"
    body = "<w:body>" + "".join(f"<w:p><w:t>{line.rstrip()}</w:t></w:p>" for line in lines) + "</w:body>"
    with zipfile.ZipFile(path, "w") as archive:
        _member(archive, "[Content_Types].xml", b"<Types/>" * 40, zipfile.ZIP_DEFLATED)
        _member(archive, "word/document.xml", body.encode(), zipfile.ZIP_DEFLATED)
        for number in range(3):
            picture = Random(8 + number).randbytes(MIB)
            _member(archive, f"word/media/image{number}.png", picture, zipfile.ZIP_STORED)


def edit_document(path: Path) -> None:
    write_document(path, edited=True)


def _member(archive: zipfile.ZipFile, name: str, content: bytes, method: int) -> None:
    archive.writestr(zipfile.ZipInfo(name, _STAMP), content, method)
