"""Whether S3 holds the bytes of every object that the tree refers to.

A missing object is looked at again twice, with time between, before anybody believes it; and when so
many are missing that the bucket or the address is more likely wrong, nothing is believed at all.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Final

from libs.contracts.errors import NotFoundError
from libs.contracts.internal import MAX_KEYS, Finding, HousedObject, Use
from libs.contracts.keys import OBJECTS_PREFIX
from libs.storage.port import ObjectStore, StoredObject
from services.janitor.domain import looks_elsewhere
from services.janitor.service.batches import batches
from services.janitor.service.findings import Report
from services.janitor.service.housekeeping import Housekeeping

_MAX_SUSPECTS: Final = 20_000
"""More than this are not looked at one by one."""


class StoredSweep:
    """Compares documents with S3's listing: both come in order of the keys."""

    def __init__(self, housekeeping: Housekeeping, store: ObjectStore, recheck_seconds: float) -> None:
        self._housekeeping = housekeeping
        self._store = store
        self._recheck_seconds = recheck_seconds

    async def run(self, report: Report, *, repair: bool) -> None:
        """Report each version whose bytes are missing or of another size; with `repair`, mark it corrupt.

        Sets `report.halted`, and repairs nothing, when this does not look like the right bucket.
        """
        suspects, looked_at = await self._compare(report)
        if looks_elsewhere(len(suspects), looked_at, _MAX_SUSPECTS):
            report.halted = (
                f"S3 lacks {len(suspects):,} of {looked_at:,} objects (it lists {report.seen['stored']:,}): "
                "is this the right bucket and address, and is it whole?"
            )
            return
        bad = await self._still_bad(suspects)
        if bad:
            await asyncio.sleep(self._recheck_seconds)
            bad = await self._still_bad(bad)
        for start in range(0, len(bad), MAX_KEYS):
            await self._settle(report, bad[start : start + MAX_KEYS], repair=repair)

    async def _compare(self, report: Report) -> tuple[list[HousedObject], int]:
        """Return objects that the listing lacks or has in another size, and how many were compared."""
        suspects: list[HousedObject] = []
        after, count = "", 0
        async for page in batches(self._store.walk(OBJECTS_PREFIX)):
            last = max(item.key for item in page)
            report.seen["stored"] += len(page)
            count += await self._compare_page(page, (after, last), suspects)
            after = max(after, last)
        return suspects, count + await self._compare_page([], (after, None), suspects)

    async def _compare_page(
        self, page: Sequence[StoredObject], keys: tuple[str, str | None], suspects: list[HousedObject]
    ) -> int:
        sizes, count = {item.key: item.size for item in page}, 0
        async for row in self._between(*keys):
            count += 1
            if sizes.get(row.key) != row.size and len(suspects) <= _MAX_SUSPECTS:
                suspects.append(row)
        return count

    async def _between(self, after: str, up_to: str | None) -> AsyncIterator[HousedObject]:
        while rows := await self._housekeeping.between(after, up_to):
            for row in rows:
                yield row
            if len(rows) < MAX_KEYS:
                return
            after = rows[-1].key

    async def _still_bad(self, suspects: Sequence[HousedObject]) -> list[HousedObject]:
        return [row for row in suspects if not await self._is_there(row)]

    async def _is_there(self, row: HousedObject) -> bool:
        found = await self._store.head(row.key)
        return found is not None and found.size == row.size

    async def _settle(self, report: Report, bad: Sequence[HousedObject], *, repair: bool) -> None:
        """Report per version; an object that none has any more is garbage, and not missed."""
        uses: dict[str, list[Use]] = {}
        for use in await self._housekeeping.uses([row.id for row in bad]):
            uses.setdefault(use.object_id, []).append(use)
        for row in bad:
            if row.id in uses:
                if repair:
                    with suppress(NotFoundError):  # it was forgotten in this instant
                        await self._housekeeping.verified(row.id, ok=False)
                detail = f"S3 lacks the {row.size:,} bytes of {row.key}"
                report.add(
                    Finding(kind="bytes_missing", id=use.version_id, detail=f"{detail}, file {use.node_id}",
                            repaired=repair)
                    for use in uses[row.id]
                )  # fmt: skip
