"""What the simulation's files hold: bytes made of a text, so that each content can be followed.

The next edition of a content has most of its bytes in common with it, as after an edit of a real
file: a few were put in, taken out or overwritten somewhere.
"""

import hashlib
from functools import lru_cache
from itertools import count
from typing import Final

_SIZES: Final = (0, 0, 100, 100, 200, 300, 400)
"""Bytes of a file beside its text. A difference to the last two is much less than they are."""
_CHANGED: Final = 12
"""Bytes that an edition puts in, takes out or overwrites."""
_EDITION: Final = "."


@lru_cache(maxsize=4096)
def bytes_of(content: str) -> bytes:
    """Return a file's bytes: its content's text first, then as much more as the text says."""
    stem, _, edition = content.partition(_EDITION)
    size = _SIZES[hashlib.sha256(stem.encode()).digest()[0] % len(_SIZES)]
    body = hashlib.shake_256(stem.encode()).digest(size)
    return f"{content}\n".encode() + (_edited(body, content) if edition and body else body)


def _edited(body: bytes, content: str) -> bytes:
    drawn = hashlib.shake_256(content.encode()).digest(8 + _CHANGED)
    at = int.from_bytes(drawn[:4]) % len(body)
    taken, put = ((0, _CHANGED), (_CHANGED, 0), (_CHANGED, _CHANGED))[drawn[4] % 3]
    return body[:at] + drawn[8 : 8 + put] + body[at + taken :]


def content_of(data: bytes) -> str:
    """Return the text whose bytes these are; what no user wrote shows as such."""
    text = data.partition(b"\n")[0].decode(errors="replace")
    return text if bytes_of(text) == data else f"CORRUPT {data!r}"


def hash_of(content: str) -> str:
    return hashlib.sha256(bytes_of(content)).hexdigest()


def edition_of(content: str, name: str) -> str:
    """Return a content like this one, told from its other editions by a name."""
    return f"{content.partition(_EDITION)[0]}{_EDITION}{name}"


def large(name: str) -> str:
    """Return a content of the largest size, one for each name."""
    return next(text for n in count() if len(bytes_of(text := f"{name}-{n}")) > _SIZES[-1])
