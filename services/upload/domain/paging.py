"""The cursor of the list of sessions: where the last page ended."""

import base64
import binascii
from datetime import UTC, datetime, timedelta

from libs.contracts.errors import InvalidRequestError
from libs.contracts.ids import is_id

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MAX_MILLISECONDS = 10**14

Position = tuple[datetime, str]
"""(created at, id) of a session; lists go from the newest."""


def encode(position: Position) -> str:
    """Return the opaque form."""
    created_at, session_id = position
    text = f"{(created_at - _EPOCH) // _MILLISECOND}.{session_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(text: str) -> Position:
    """Parse `encode`'s form or raise `InvalidRequestError`."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
        number, _, session_id = raw.partition(".")
        milliseconds = int(number)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError("The cursor is malformed") from error
    if not 0 <= milliseconds < _MAX_MILLISECONDS or not is_id(session_id):
        raise InvalidRequestError("The cursor is malformed")
    return _EPOCH + milliseconds * _MILLISECOND, session_id
