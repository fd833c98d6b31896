"""The cursor of the change feed: epoch and the sequence number reached per namespace.

Clients treat it as opaque. Encoded as unpadded base64url of compact JSON.
"""

import base64
import binascii
import json
from dataclasses import dataclass, field

from libs.contracts.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the feed; `seqs` maps a namespace id to the last sequence number read."""

    epoch: int
    seqs: dict[str, int] = field(default_factory=dict)
    listing: dict[str, int] = field(default_factory=dict)
    """Namespaces in the middle of a full listing, with the head when it began: tombstones purged up
    to there were never missed, so such a cursor does not expire by them."""

    def encode(self) -> str:
        """Return the opaque text form."""
        fields = {"e": self.epoch, "s": self.seqs, **({"l": self.listing} if self.listing else {})}
        raw = json.dumps(fields, separators=(",", ":"), sort_keys=True)
        return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")

    def at(self, namespace_id: str, seq: int) -> "Cursor":
        """Return this cursor moved to `seq` in one namespace."""
        return Cursor(self.epoch, {**self.seqs, namespace_id: seq}, self.listing)

    @staticmethod
    def decode(text: str) -> "Cursor":
        """Parse `encode`'s form or raise `InvalidRequestError`."""
        try:
            raw = json.loads(base64.b64decode(_padded(text), altchars=b"-_", validate=True))
            return Cursor(_count(raw["e"]), _counts(raw["s"]), _counts(raw.get("l", {})))
        except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidRequestError("The cursor is malformed") from error


def _padded(text: str) -> bytes:
    return (text + "=" * (-len(text) % 4)).encode("ascii", "strict")


def _counts(value: dict[str, object]) -> dict[str, int]:
    return {str(key): _count(count) for key, count in value.items()}


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise ValueError(value)
    return value
