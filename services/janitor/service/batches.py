"""Cutting a stream into what one call takes."""

from collections.abc import AsyncIterator
from typing import TypeVar

from libs.contracts.internal import MAX_KEYS

T = TypeVar("T")


async def batches(items: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    """Yield lists of at most `MAX_KEYS`, none of them empty."""
    batch: list[T] = []
    async for item in items:
        batch.append(item)
        if len(batch) == MAX_KEYS:
            yield batch
            batch = []
    if batch:
        yield batch
