"""Bytes a second, as people and scripts write them. Pure."""

import re
from typing import Final

from agent.errors import LocalError

LEAST: Final = 1024.0
"""Bytes a second: below it S3 cuts connections as idle, so that nothing would ever end."""
_RATE: Final = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*([kmgt]?)(i?b)?(?:/s)?", re.IGNORECASE
)
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
