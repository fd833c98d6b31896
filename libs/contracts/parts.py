"""How a large file is cut into parts (pure arithmetic)."""

from libs.contracts.errors import QuotaError
from libs.contracts.limits import BASE_PART_BYTES, MAX_FILE_BYTES, MAX_PARTS, MIB, S3_MAX_PART_BYTES


def part_size_for(size: int, *, base: int = BASE_PART_BYTES, max_parts: int = MAX_PARTS) -> int:
    """Return the part size in bytes for a file of `size` bytes.

    It starts at `base` and grows in whole MiB so that there are at most `max_parts` parts.
    Raises `QuotaError` "file_too_large" when S3's largest part does not suffice.
    """
    needed = -(-size // max_parts)
    part = max(base, -(-needed // MIB) * MIB)
    if part > S3_MAX_PART_BYTES or size > MAX_FILE_BYTES:
        raise QuotaError("The file is larger than a session can hold", code="file_too_large")
    return part


def part_count(size: int, part_size: int) -> int:
    """Return how many parts a file of `size` bytes has; an empty file has one, empty, part."""
    return max(1, -(-size // part_size))


def part_span(size: int, part_size: int, number: int) -> tuple[int, int]:
    """Return (offset, length) in bytes of part `number`, counted from 1.

    Raises `ValueError` for a number outside 1…count.
    """
    if not 1 <= number <= part_count(size, part_size):
        raise ValueError(number)
    offset = (number - 1) * part_size
    return offset, min(part_size, size - offset)
