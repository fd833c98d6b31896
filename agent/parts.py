"""What this device remembers of its unfinished large uploads: the digests of parts that S3 took.

With them a continued upload neither reads nor hashes again what it sent before. They are
observations: losing them costs one reading of the file, no byte on the wire, and what S3 holds
is always asked of the server.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from agent import clock

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS uploads (
    content_hash TEXT PRIMARY KEY, upload_id TEXT NOT NULL, part_size INTEGER NOT NULL,
    noted_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS upload_parts (
    content_hash TEXT NOT NULL, number INTEGER NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (content_hash, number)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class PartMemory:
    """The digests of parts by content hash, in the agent's SQLite file."""

    db: Any
    """The connection; its driver has its home in `state`."""
    transaction: Callable[[], AbstractContextManager[None]]

    def known(self, content_hash: str, part_size: int) -> dict[int, str]:
        """Return the digests (SHA-256, hex) noted for this content cut into parts of `part_size`."""
        with self.transaction():
            rows = self.db.execute(
                "SELECT number, digest FROM upload_parts JOIN uploads USING (content_hash)"
                " WHERE content_hash = ? AND part_size = ?",
                (content_hash, part_size),
            ).fetchall()
        return {int(number): bytes(digest).hex() for number, digest in rows}

    def note(self, content_hash: str, upload_id: str, part_size: int, digests: Mapping[int, str]) -> None:
        """Keep the digests of parts that S3 has taken; another part size begins anew."""
        with self.transaction():
            kept = self.db.execute(
                "SELECT part_size FROM uploads WHERE content_hash = ?", (content_hash,)
            ).fetchone()
            if kept is not None and kept[0] != part_size:
                self.forget(content_hash)
            self.db.execute(
                "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?)",
                (content_hash, upload_id, part_size, clock.now()),
            )
            self.db.executemany(
                "INSERT OR REPLACE INTO upload_parts VALUES (?, ?, ?)",
                [(content_hash, number, bytes.fromhex(digest)) for number, digest in digests.items()],
            )

    def forget(self, content_hash: str) -> None:
        """Drop what is noted of a content, once it is committed or given up."""
        self._forget([content_hash])

    def forget_older(self, seconds: float) -> None:
        """Drop what was noted longer ago: the server has let go of such sessions."""
        limit = clock.now() - seconds
        with self.transaction():
            rows = self.db.execute("SELECT content_hash FROM uploads WHERE noted_at < ?", (limit,)).fetchall()
            self._forget(row[0] for row in rows)

    def _forget(self, content_hashes: Iterable[str]) -> None:
        keys = [(content_hash,) for content_hash in content_hashes]
        if keys:
            with self.transaction():
                self.db.executemany("DELETE FROM uploads WHERE content_hash = ?", keys)
                self.db.executemany("DELETE FROM upload_parts WHERE content_hash = ?", keys)
