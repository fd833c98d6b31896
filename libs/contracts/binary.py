"""What the binary formats have in common: the error, and integers of variable length."""

from typing import Final, NamedTuple

LARGEST: Final = 2**62
"""Offsets and sizes stay below this, so that no sum of two leaves 64 bits."""
_VARINT_BYTES: Final = 9
"""What an integer below `LARGEST` takes at most."""


class MalformedError(ValueError):
    """Bytes from outside that are not what they claim to be."""


class Number(NamedTuple):
    """An integer that was read, and where the next one begins."""

    value: int
    end: int


def put_varint(out: bytearray, value: int) -> None:
    """Append a non-negative integer: seven bits a byte, lowest first, the high bit says "more"."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def get_varint(data: bytes, at: int) -> Number:
    """Read what `put_varint` wrote. Raises `MalformedError` for any other spelling of a number."""
    value = 0
    for index in range(_VARINT_BYTES):
        if at + index >= len(data):
            raise MalformedError("A number is cut off")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= LARGEST or (byte == 0 and index):
                raise MalformedError("A number is too large or spelt too long")
            return Number(value, at + index + 1)
    raise MalformedError("A number is too large")


def zigzag(value: int) -> int:
    """Fold a signed integer into a non-negative one, small for those near zero."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """Undo `zigzag`."""
    return value >> 1 if not value & 1 else -(value + 1 >> 1)
