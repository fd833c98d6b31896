"""How large the file and its parts are, and whether there is room for the run."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libs.contracts.errors import QuotaError
from libs.contracts.limits import BASE_PART_BYTES, MAX_PARTS, S3_MIN_PART_BYTES
from libs.contracts.parts import part_count, part_size_for
from tests.large.source import BLOCK, MIB

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DECIMAL: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_GIB: Final = 1 << 30
_MARGIN: Final = _GIB
_IN_FLIGHT: Final = 5 * 8
"""Parts that five processes with eight lanes each may leave in S3 half sent."""
_S3_CLAIMS: Final = 7 * _GIB
"""SeaweedFS reserves seven volumes of 1 GiB for its own notes and takes no data where they would not fit."""
_S3_KEEPS_FREE: Final = 0.01
"""SeaweedFS takes nothing more once less than this share of the disk is free."""


class NoRoomError(Exception):
    """The disk is too small for the run."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A file and its parts, in bytes."""

    size: int
    part_size: int

    @property
    def parts(self) -> int:
        return part_count(self.size, self.part_size)


def bytes_of(text: str) -> int:
    """Read `50G` (2^30), `50GB` (10^9) or plain bytes; raise `ValueError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?|[KMGT]B)", text.strip().upper())
    if match is None:
        raise ValueError(f"{text} is no size such as 3G, 50GB or 512M")
    return int(float(match[1]) * (_UNITS | _DECIMAL)[match[2]])


def shape_of(size: int | None, parts: int | None, part_size: int | None) -> Shape:
    """Return the shape for what was given; raise `ValueError` for what the server would not do.

    Without a size there are exactly so many parts. With both, parts are as small as that number allows.
    """
    if parts is not None and not 1 <= parts <= MAX_PARTS:
        raise ValueError(f"a session has 1 to {MAX_PARTS} parts")
    base = part_size or (S3_MIN_PART_BYTES if parts else BASE_PART_BYTES)
    if base < S3_MIN_PART_BYTES:
        raise ValueError(f"S3 takes no parts below {S3_MIN_PART_BYTES // MIB} MiB")
    if size is None:
        size = (parts or 1) * base
    try:
        return Shape(size, part_size_for(size, base=base, max_parts=parts or MAX_PARTS))
    except QuotaError as error:
        raise ValueError(error.detail) from error


def needed(shape: Shape, folder: Path, *, download: bool) -> int:
    """Bytes that the run takes of the disk that `folder` is on, at its peak, or that must be free for it."""
    copies = 2 if download else 1
    source = -(-shape.size // MIB) * BLOCK
    lost = min(_IN_FLIGHT * shape.part_size, copies * shape.size)
    kept = int(shutil.disk_usage(folder).total * _S3_KEEPS_FREE) + _S3_CLAIMS
    return copies * shape.size + source + lost + kept + _MARGIN


def check_room(shape: Shape, folder: Path, *, download: bool) -> str:
    """Say what is needed and what is there, or raise `NoRoomError` with the same words."""
    free, need = shutil.disk_usage(folder).free, needed(shape, folder, download=download)
    size = f"{shape.size / _GIB:.1f} GiB"
    copies = f"S3's copy and the second device's: {size} each" if download else f"S3's copy: {size}"
    said = (
        f"{need / _GIB:.1f} GiB are needed in {folder} ({copies}; the rest are"
        f" the source's real blocks, what kills leave in S3, and what S3 wants to be free); "
        f"{free / _GIB:.1f} GiB are free."
    )
    if free < need:
        raise NoRoomError(f"{said} Set TMPDIR to a folder of a larger disk, or give a smaller --size.")
    return said
