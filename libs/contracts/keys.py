"""What Lockstep stores in S3, by name (pure)."""

from typing import Final

from libs.contracts.ids import new_id

OBJECTS_PREFIX: Final = "t/"
"""Objects of users: `t/<namespace>/<random>-<index>`."""
PROBE_PREFIX: Final = "probe/"
"""What a service writes to find out what S3 can do; nothing of it is worth keeping."""


def new_prefix(namespace_id: str) -> str:
    """Return a fresh random prefix for the keys of a session's objects."""
    return f"{OBJECTS_PREFIX}{namespace_id}/{new_id()}"


def key_of(prefix: str, index: int) -> str:
    """Return the key of an entry's object.

    All keys of a session share a prefix, so that one listing tells what S3 holds of hundreds.
    """
    return f"{prefix}-{index}"


def prefix_of(key: str) -> str:
    """Return the prefix of a key that `key_of` made."""
    return key.rpartition("-")[0]
