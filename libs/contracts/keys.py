"""How the bytes of a session are named in S3 (pure)."""


def key_of(prefix: str, index: int) -> str:
    """Return the key of an entry's object.

    All keys of a session share a prefix, so that one listing tells what S3 holds of hundreds.
    """
    return f"{prefix}-{index}"


def prefix_of(key: str) -> str:
    """Return the prefix of a key that `key_of` made."""
    return key.rpartition("-")[0]
