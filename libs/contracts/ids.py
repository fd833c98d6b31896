"""Identifiers: 96 random bits as 24 lower-case hex digits.

They are opaque, unguessable and may be chosen by a client for what it creates, which makes
a repeated creation recognisable.
"""

import re
import secrets
from typing import Annotated

from pydantic import StringConstraints

ID_PATTERN = r"^[0-9a-f]{24}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
"""An identifier in a request or an event."""

Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
"""A SHA-256 digest as 64 lower-case hex digits."""

_ID = re.compile(ID_PATTERN)

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The digest of no bytes at all (FIPS 180-4)."""


def new_id() -> str:
    """Return a fresh random identifier."""
    return secrets.token_hex(12)


def is_id(value: str) -> bool:
    """Say whether `value` has the form of an identifier."""
    return _ID.fullmatch(value) is not None
