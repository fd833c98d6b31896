"""Contents that show any corruption to their reader: a chain of records.

Each record is one line `soak <sha256> <length> <writer> <number>` and then `length` bytes. The
hash covers the record before (its whole line) and the bytes, so that a file that lost, repeated or
mixed records of two writers is found by reading it alone. An append is one more record.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Final

MARK: Final = b"soak"
_KIB: Final = 1024
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes: a device's name and the number of the step, unique in a run."""

    writer: str
    number: int
    seed: str

    def bytes(self, size: int, salt: str = "") -> bytes:
        """Return `size` bytes that only this step writes."""
        return random.Random(f"{self.seed}/{self.writer}/{self.number}/{salt}").randbytes(size)


def record(author: Author, body: bytes, before: bytes = b"") -> bytes:
    """Return one record; `before` is the line of the record that it follows."""
    digest = hashlib.sha256(before + body).hexdigest()
    return f"soak {digest} {len(body)} {author.writer} {author.number}\n".encode() + body


def compose(author: Author, size: int, records: int = 1) -> bytes:
    """Return a content of about `size` bytes in some records."""
    content, line = b"", b""
    for index in range(records):
        one = record(author, author.bytes(size // records, str(index)), line)
        line = one[: one.index(b"\n") + 1]
        content += one
    return content


def with_hole(author: Author, hole: int) -> tuple[bytes, int]:
    """Return a content with zeros in the middle, and where they begin."""
    body = b"\0" * hole + author.bytes(64)
    content = record(author, body)
    return content, len(content) - len(body)


def lines_of(content: bytes) -> list[tuple[int, bytes]]:
    """Return the offset and line of each record. Raises `ValueError` that says what is wrong."""
    found: list[tuple[int, bytes]] = []
    offset, before = 0, b""
    while offset < len(content):
        line, length = _line_at(content, offset)
        body = content[offset + len(line) : offset + len(line) + length]
        if hashlib.sha256(before + body).hexdigest().encode() != line.split(b" ")[1]:
            raise ValueError(f"the record at {offset} of {len(content)} is not what its line says: {line!r}")
        found.append((offset, line))
        offset, before = offset + len(line) + length, line
    return found


def _line_at(content: bytes, offset: int) -> tuple[bytes, int]:
    end = content.find(b"\n", offset, offset + 4 * _KIB)
    line = content[offset : end + 1]
    if end == -1 or not line.startswith(MARK + b" ") or line.count(b" ") != 4:
        raise ValueError(f"no record at {offset} of {len(content)}: {content[offset : offset + 80]!r}")
    return line, int(line.split(b" ")[2])


def fault_in(content: bytes) -> str | None:
    """Say what is wrong with a content; an empty file is right."""
    try:
        lines_of(content)
    except ValueError as error:
        return str(error)
    return None


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
