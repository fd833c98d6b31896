"""Bytes a second: as people write and read them, and as they are measured."""

import math
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from agent.errors import LocalError

LEAST: Final = 1024.0
"""Bytes a second: below it S3 cuts connections as idle, so that nothing would ever end."""
_RATE: Final = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*([kmgt]?)(i?b)?(?:/s)?", re.IGNORECASE
)
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP: Final = 1024
_TWO_DIGITS: Final = 10
_MINUTE: Final = 60
_HOUR: Final = 3600
_TWO_DAYS: Final = 172_800
WINDOW: Final = 10.0
"""Seconds over which a rate is measured."""
_SLOT: Final = 0.5
_LEAST_SPAN: Final = 1.0
"""Seconds that the first bytes are taken to have needed at least: one piece is no rate yet."""
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_rate(text: str) -> float:
    """Return a limit in bytes a second; 0.0 is no limit.

    "500k", "2M", "1.5MiB", "2M/s" in binary units, as rsync and rclone read them; "MB" is a million
    bytes, as in rsync; a number alone is bytes; "0" and "off" are no limit. Raises `LocalError` "usage".
    """
    if text.strip().lower() == "off":
        return 0.0
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise LocalError(
            f"{text!r} is no rate: write 500k, 2M or 1.5MiB (bytes a second), or 0 for no limit", code="usage"
        )
    number, letter, suffix = match.groups()
    unit = 1000 if letter and (suffix or "").lower() == "b" else 1024
    rate = float(number) * float(unit ** _POWERS[letter.lower()])
    if 0.0 < rate < LEAST:
        raise LocalError(f"{text!r} is less than 1 KiB a second; write 500k for 500 KiB", code="usage")
    return rate


def scaled(size: float) -> tuple[float, str]:
    """Return a size in bytes as an amount of the binary unit in which it is read best."""
    amount = float(size)
    for unit in _UNITS[:-1]:
        if amount < _STEP:
            return amount, unit
        amount /= _STEP
    return amount, _UNITS[-1]


def rate_text(rate: float) -> str:
    """Return bytes a second as a person reads them."""
    amount, unit = scaled(rate)
    digits = 1 if unit != "B" and amount < _TWO_DIGITS else 0
    return f"{amount:.{digits}f} {unit}/s"


def left_text(seconds: float | None) -> str:
    """Return how long it takes still, in the largest unit that tells enough; nothing when unknown."""
    if seconds is None:
        return ""
    if seconds < _MINUTE:
        return f"{math.ceil(seconds)} s left"
    if seconds < _HOUR:
        return f"{math.ceil(seconds / _MINUTE)} min left"
    if seconds < _TWO_DAYS:
        hours, rest = divmod(math.ceil(seconds / _MINUTE), 60)
        return f"{hours} h {rest} min left"
    return f"{math.ceil(seconds / _TWO_DAYS * 2)} days left"


def age_text(seconds: float) -> str:
    """Return how long ago something was, in the largest unit that tells enough."""
    for limit, length, unit in ((_MINUTE, 1, "s"), (_HOUR, _MINUTE, "min"), (_TWO_DAYS, _HOUR, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds / length))} {unit}"
    return f"{int(seconds * 2 / _TWO_DAYS)} days"


def seconds_left(missing: int, rate: float) -> float | None:
    """Return how long `missing` bytes take at `rate`; None: nothing moves, so nobody knows."""
    if missing <= 0:
        return 0.0
    return missing / rate if rate > 0 else None


class Meter:
    """Bytes a second over the last ten seconds, or since the first byte after a silence of ten."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or _monotonic
        self._slots: deque[list[int]] = deque()
        """Number of a slot of time, bytes in it."""
        self._sum = 0
        self._since = 0.0

    def add(self, count: int) -> None:
        """Count bytes that travelled now."""
        now = self._now()
        if not self._slots:
            self._since = now
        slot = int(now / _SLOT)
        if self._slots and self._slots[-1][0] == slot:
            self._slots[-1][1] += count
        else:
            self._slots.append([slot, count])
        self._sum += count

    @property
    def rate(self) -> float:
        """Bytes a second; 0.0 when nothing moves."""
        now = self._now()
        if not self._slots:
            return 0.0
        begin = max(self._since, _oldest(now) * _SLOT)
        return self._sum / max(now - begin, _LEAST_SPAN)

    def _now(self) -> float:
        now = self._clock()
        while self._slots and self._slots[0][0] < _oldest(now):
            self._sum -= self._slots.popleft()[1]
        return now


def _oldest(now: float) -> int:
    """Return the first slot that still counts."""
    return int((now - WINDOW) / _SLOT)


def _monotonic() -> float:
    return time.monotonic()
