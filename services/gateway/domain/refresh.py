"""Refresh tokens and their rotation. Pure but for fresh randomness.

A token is `lockstep_rt_<device>_<secret><tag>`: 32 random bytes and a tag by which a token that
was once given out is told from a made-up one. Only SHA-256 digests are stored.

A use of one of the tokens in `pending` makes it `previous`, with one new token in `pending`. While
none of these has been used, `previous` may be used again (an answer was lost, or two asked at
once) and gives one more. Anything older is reuse: the token was copied.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_TOKEN: Final = re.compile(r"^lockstep_rt_([0-9a-f]{24})_([\w-]{43})([0-9a-f]{16})$", re.ASCII)
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
    genuine: bool
    """Whether the tag is right, so that we have given it out."""

    @property
    def digest(self) -> str:
        """What is stored."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def make_token(device_id: str, key: bytes) -> RefreshToken:
    """Return a fresh token of the device."""
    secret = secrets.token_urlsafe(32)
    return RefreshToken(
        f"lockstep_rt_{device_id}_{secret}{_tag(device_id, secret, key)}", device_id, genuine=True
    )


def read_token(text: str, key: bytes) -> RefreshToken | None:
    """Return the token, or None for what has not its form."""
    match = _TOKEN.match(text)
    if match is None:
        return None
    device_id, secret, tag = match.groups()
    return RefreshToken(text, device_id, hmac.compare_digest(tag, _tag(device_id, secret, key)))


def first_chain(token: RefreshToken) -> Chain:
    """Return the chain of a device that was just linked."""
    return Chain(turn=0, pending=(token.digest,))


def judge(chain: Chain, token: RefreshToken) -> Use:
    """Say what presenting `token` means."""
    if token.digest in (*chain.pending, chain.previous):
        return Use.ROTATE
    return Use.REUSED if token.genuine else Use.INVALID


def rotated(chain: Chain, used: RefreshToken, fresh: RefreshToken) -> Chain:
    """Return the chain after `used`, which must be valid, was traded for `fresh`."""
    if used.digest in chain.pending:
        return Chain(chain.turn + 1, (fresh.digest,), used.digest)
    return Chain(chain.turn + 1, (*chain.pending, fresh.digest)[-_MAX_PENDING:], chain.previous)


def _tag(device_id: str, secret: str, key: bytes) -> str:
    message = f"lockstep refresh {device_id} {secret}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:16]
