"""Refresh tokens and their rotation. Pure but for fresh randomness.

A token is `lockstep_rt_<device>_<turn>_<secret><tag>`: the turn of the chain at which it was
made, 32 random bytes, and a tag by which a token that was once given out is told from a made-up
one. Only SHA-256 digests are stored.

A use of one of the tokens in `pending` makes it `previous`, with one new token in `pending`. While
none of these has been used, `previous` may be used again (an answer was lost, or two asked at
once) and gives one more. Anything older is reuse: the token was copied. One that is newer than
the chain tells that the database came back from a backup: it is the device's, and is traded.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_TOKEN: Final = re.compile(r"^lockstep_rt_([0-9a-f]{24})_(\d{1,12})_([\w-]{43})([0-9a-f]{16})$", re.ASCII)
_MAX_PENDING: Final = 8
"""Answers of one rotation that may be lost."""


class Use(Enum):
    """What presenting a token means."""

    ROTATE = auto()
    REUSED = auto()
    """It was given out by us and is out of date: somebody has a copy."""
    INVALID = auto()
    """It was never given out."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The digests that a device's row holds; `turn` counts rotations (for compare-and-set)."""

    turn: int
    pending: tuple[str, ...]
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A token as presented."""

    text: str
    device_id: str
    turn: int
    genuine: bool
    """Whether the tag is right, so that we have given it out."""

    @property
    def digest(self) -> str:
        """What is stored."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def make_token(device_id: str, key: bytes, *, turn: int = 0) -> RefreshToken:
    """Return a fresh token of the device for the chain's `turn` (see `next_turn`)."""
    secret = secrets.token_urlsafe(32)
    tag = _tag(device_id, turn, secret, key)
    return RefreshToken(f"lockstep_rt_{device_id}_{turn}_{secret}{tag}", device_id, turn, genuine=True)


def read_token(text: str, key: bytes) -> RefreshToken | None:
    """Return the token, or None for what has not its form."""
    match = _TOKEN.match(text)
    if match is None:
        return None
    device_id, digits, secret, tag = match.groups()
    turn = int(digits)
    return RefreshToken(text, device_id, turn, hmac.compare_digest(tag, _tag(device_id, turn, secret, key)))


def first_chain(token: RefreshToken) -> Chain:
    """Return the chain of a device that was just linked."""
    return Chain(turn=0, pending=(token.digest,))


def judge(chain: Chain, token: RefreshToken) -> Use:
    """Say what presenting `token` means."""
    if token.digest in (*chain.pending, chain.previous):
        return Use.ROTATE
    if not token.genuine:
        return Use.INVALID
    return Use.ROTATE if token.turn > chain.turn else Use.REUSED


def next_turn(chain: Chain, used: RefreshToken) -> int:
    """Return the turn of the chain after `used` was traded."""
    return max(chain.turn, used.turn) + 1


def rotated(chain: Chain, used: RefreshToken, fresh: RefreshToken) -> Chain:
    """Return the chain after `used`, which must be valid, was traded for `fresh`."""
    turn = next_turn(chain, used)
    if used.digest == chain.previous:
        return Chain(turn, (*chain.pending, fresh.digest)[-_MAX_PENDING:], chain.previous)
    return Chain(turn, (fresh.digest,), used.digest)


def _tag(device_id: str, turn: int, secret: str, key: bytes) -> str:
    message = f"lockstep refresh {device_id} {turn} {secret}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:16]
