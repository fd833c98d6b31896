"""Cursors of lists: opaque to clients, a kind and a place inside."""

import base64
import binascii
import json
from typing import TypeVar

from libs.contracts.errors import InvalidRequestError

Place = TypeVar("Place", str, int)


def encode_place(kind: str, place: str | int) -> str:
    """Return the text form of a place in a list of this kind."""
    raw = json.dumps([kind, place], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_place(kind: str, text: str | None, start: Place) -> Place:
    """Return the place in a cursor, or `start` without one. Raises `InvalidRequestError`."""
    if text is None:
        return start
    try:
        padded = (text + "=" * (-len(text) % 4)).encode("ascii")
        found_kind, place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidRequestError("The cursor is malformed") from error
    if found_kind != kind or type(place) is not type(start):
        raise InvalidRequestError("The cursor is of another list")
    return place
