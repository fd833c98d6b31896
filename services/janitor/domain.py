"""What may be removed, and whether bytes are what was claimed. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


def is_old(at: datetime, now: datetime, grace: float) -> bool:
    """Say whether something made at `at` is past the grace time (seconds)."""
    return now - at >= timedelta(seconds=grace)


def may_sweep_objects(epoch_ms: int, now: datetime, quiet: float) -> bool:
    """Say whether unowned objects may be removed: not soon after a new epoch.

    An epoch is named by its start in milliseconds. A database restored from a backup does not
    know the objects made since; the devices will commit them again. Without any epoch this is not
    the database that the objects are of.
    """
    return epoch_ms > 0 and now.timestamp() - epoch_ms / 1000 >= quiet


def looks_elsewhere(missing: int, documents: int, at_most: int) -> bool:
    """Say whether so many objects are missing that S3 itself is suspected: emptied, or another bucket.

    More than half of all, or more than 10 % once that is many, or more than anybody could look at.
    """
    return missing > at_most or 2 * missing > documents or missing > max(100, documents // 10)


def unowned(asked: Iterable[str], *known: Collection[str]) -> list[str]:
    """Return those asked about that no service knows."""
    owned = set().union(*known)
    return [key for key in asked if key not in owned]


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading an object gave: its length in bytes and SHA-256 in hex; None: it is not there."""

    size: int
    sha256: str


def is_claimed(reading: Reading | None, *, size: int, content_hash: str) -> bool:
    """Say whether the bytes read are those that were claimed."""
    return reading == Reading(size, content_hash)
