"""The rolling re-hash: which files that look unchanged are read all the same. Pure.

Stats can lie, so within the window every file is read again. What was read at one moment is not
read again at one moment: files fall due one after the other over half of the window, and
one scan reads only a share.
"""

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from agent.model import LocalEntry, LocalKind

_SHARES: Final = 48
"""In so many scans all is read: with a scan an hour, well within the half of a week."""
_FEW: Final = 256
_LITTLE: Final = 64 * 1024 * 1024
"""A share is never less than so many files, or bytes."""
_PARTS: Final = 2**32
_FIRST: Final = 0.4
_LAST: Final = 0.9
"""Between these parts of the window files fall due; the rest is for a device that sleeps."""


def chosen_to_read(known: Mapping[str, LocalEntry], now: float, window: float) -> frozenset[str]:
    """Return the paths to read again in this scan, those read longest ago first.

    `window`: seconds within which each file is to be read again.
    """
    files = [entry for entry in known.values() if entry.kind is LocalKind.FILE and entry.trouble is None]
    due = sorted((e for e in files if _is_due(e, now, window)), key=lambda e: _last_read(e, now))
    room = max(_LITTLE, sum(entry.stat.size for entry in files) // _SHARES)
    return frozenset(_within(due[: max(_FEW, math.ceil(len(files) / _SHARES))], room))


def _is_due(entry: LocalEntry, now: float, window: float) -> bool:
    if entry.content_hash is None:
        return False
    place = zlib.crc32(entry.path.encode(errors="surrogateescape")) / _PARTS
    return _last_read(entry, now) <= now - window * (_FIRST + place * (_LAST - _FIRST))


def _last_read(entry: LocalEntry, now: float) -> float:
    """Return when a file was last read. A moment to come says that a clock was set back: long ago."""
    return entry.hashed_at if entry.hashed_at <= now else -math.inf


def _within(due: Iterable[LocalEntry], room: int) -> Iterable[str]:
    """Yield what fits in so many bytes; the first always does."""
    taken = 0
    for entry in due:
        if taken and taken + entry.stat.size > room:
            return
        taken += entry.stat.size
        yield entry.path
