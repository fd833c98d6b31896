"""What Lockstep stores in S3, by name (pure)."""

from typing import Final

from libs.contracts.ids import new_id

OBJECTS_PREFIX: Final = "t/"
"""Objects of users: `t/<namespace>/<random>-<index>`."""
MANIFESTS_PREFIX: Final = "m/"
"""What is known of an object's chunks: `m/<namespace>/<object id>`, owned while its document lives."""
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


def delta_key(key: str, sha256: str) -> str:
    """Return the key of a delta object from which the object with this key is to be made."""
    return f"{key}.{sha256[:16]}.delta"


def prefix_of(key: str) -> str:
    """Return the prefix of a key that `key_of` made."""
    return key.rpartition("-")[0]


def namespace_of(key: str) -> str:
    """Return the namespace that the key of an object or a manifest names."""
    return key.split("/")[1]


def manifest_key(namespace_id: str, object_id: str) -> str:
    """Return the key of an object's manifest."""
    return f"{MANIFESTS_PREFIX}{namespace_id}/{object_id}"


def object_of_manifest(key: str) -> str:
    """Return the id of the object whose manifest has this key."""
    return key.rpartition("/")[2]
