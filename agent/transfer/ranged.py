"""One large file in ranges side by side, each verified as it arrives, and the whole with the last one."""

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final, Protocol

from agent.errors import LocalError
from agent.transfer.blocking import in_thread
from agent.transfer.channel import Channel
from agent.transfer.lanes import Lanes
from agent.transfer.ranges import Arriving, Cut, Journal, Partial, cut_in_parts, cut_of
from agent.transfer.retry import TransientError, repeat, together
from agent.transfer.wire import PIECE, Reading
from libs.contracts.api import Download, PartRow
from libs.contracts.errors import ConflictError, NotFoundError

_MAX_WRONG: Final = 3
"""Of one range: answers that are not it, or whose bytes are not."""
PAUSE: Final = 0.1
"""Seconds before a body that broke off is read on."""


class _WrongAnswerError(Exception):
    """What the store answered is not the range, whatever else it is."""


async def opened(channel: Channel, item: Download, fd: int, journal_fd: int | None) -> Partial:
    """Return the partial download in a file, with what an earlier try left of it."""
    journal = Journal(journal_fd, item)
    noted = await in_thread(journal.read)
    partial = Partial(fd, journal, item, await _cut_known(channel, item) or cut_of(item.size, noted))
    await in_thread(partial.open, noted)
    there = 0
    for number in partial.recallable():
        recalled = await in_thread(partial.recall, number)
        channel.tally.settled(recalled)
        there += recalled
    channel.tally.resumes(there)
    return partial


async def _cut_known(channel: Channel, item: Download) -> Cut | None:
    """Return how the file was sent, with the digests; None when the server does not know (any more)."""
    rows: list[PartRow] = []
    try:
        while True:
            page = await channel.api.part_digests(item.node_id, item.version_id, len(rows) + 1)
            rows += page.items
            if not page.items or len(rows) >= page.parts_total:
                break
    except (ConflictError, NotFoundError):
        return None  # the bytes may be there all the same
    if page.part_size is None or [row.number for row in rows] != list(range(1, page.parts_total + 1)):
        return None
    known = {row.number: bytes.fromhex(row.digest) for row in rows if row.digest is not None}
    return cut_in_parts(item.size, page.part_size, known)


class Filled(Protocol):
    """A file that ranges are fetched into: see `Partial`."""

    item: Download

    @property
    def hashed(self) -> bool:
        """Whether all of it is hashed."""

    @property
    def leads(self) -> bool:
        """Whether the next range to be hashed is there."""

    def hash_next(self) -> None:
        """Hash it. Blocks."""

    def missing(self) -> Iterator[int]:
        """Walk the numbers of the ranges that are not there."""

    def arriving(self, number: int) -> Arriving:
        """Return a range to be filled."""

    def accept(self, arriving: Arriving) -> bool:
        """Take a range that has arrived whole; say no when it is not right."""

    def digest(self) -> str:
        """Return the SHA-256 of the whole."""


class RangedDownload:
    """Fetches the ranges that are missing. Lanes are shared by all downloads of the process."""

    def __init__(self, channel: Channel, lanes: Lanes, partial: Filled) -> None:
        self._channel = channel
        self._lanes = lanes
        self._partial = partial
        self._link = partial.item
        self._renewing = asyncio.Lock()
        self._accepted = asyncio.Event()

    async def fetch(self) -> str:
        """Fetch what is missing and return the SHA-256 of the whole.

        Raises `LocalError` "corrupt_download", "unwritable", "refused_by_store", and
        `UnavailableError`; what is there by then is kept.
        """
        numbers = self._partial.missing()
        workers = range(self._channel.settings.part_parallel)
        await together(self._follow(), *(self._work(numbers) for _ in workers))
        return self._partial.digest()

    async def _follow(self) -> None:
        """Hash the file as far as it is there, so that nothing is left to be hashed at the end."""
        while not self._partial.hashed:
            if self._partial.leads:
                await in_thread(self._partial.hash_next)
            else:
                self._accepted.clear()
                await self._accepted.wait()

    async def _work(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            async with self._lanes.lane():
                await self._fetch_range(self._partial.arriving(number))

    async def _fetch_range(self, arriving: Arriving) -> None:
        for _ in range(_MAX_WRONG):
            try:
                await self._read_all(arriving)
            except _WrongAnswerError:
                continue
            if self._partial.accept(arriving):
                self._lanes.moved(arriving.length)
                self._accepted.set()
                return
            arriving.restart()
            self._channel.tally.lost(arriving.length)
        raise LocalError(code="corrupt_download")

    async def _read_all(self, arriving: Arriving) -> None:
        link = self._link

        async def once() -> None:
            nonlocal link
            link = self._link
            await self._read_some(link.url, arriving)

        while not arriving.whole:
            await repeat(self._channel.patience, once, lambda: self._renew(link))

    async def _renew(self, refused: Download) -> None:
        """Get a new URL unless another range has got one since."""
        async with self._renewing:
            if self._link is refused:
                self._link = await self._channel.api.download(refused.node_id, refused.version_id)

    async def _read_some(self, url: str, arriving: Arriving) -> None:
        """Read on; a break after progress is no failure, so a bad line only makes it slow."""
        before = arriving.done
        try:
            await self._read(url, arriving)
        except TransientError:
            self._lanes.struggled()
            if arriving.done <= before:
                raise
            await asyncio.sleep(PAUSE)

    async def _read(self, url: str, arriving: Arriving) -> None:
        first, end = arriving.offset + arriving.done, arriving.offset + arriving.length
        async with self._channel.wire.get(url, first, end - 1) as reading:
            self._check(reading, first, end)
            await self._drain(reading, arriving)
        if not arriving.whole:
            raise TransientError("the answer ended early")

    def _check(self, reading: Reading, first: int, end: int) -> None:
        """Refuse an answer that is not exactly the range that was asked for."""
        size = self._partial.item.size
        if reading.status == HTTPStatus.PARTIAL_CONTENT:
            right = reading.content_range == f"bytes {first}-{end - 1}/{size}"
        else:
            right = (first, end) == (0, size)
        if not right or reading.length not in {None, end - first}:
            raise _WrongAnswerError

    async def _drain(self, reading: Reading, arriving: Arriving) -> None:
        """Write what comes, some at a time. What came before a break is kept."""
        batch: list[bytes] = []
        room = arriving.length - arriving.done
        held = 0
        try:
            while piece := await reading.piece():
                room -= len(piece)
                if room < 0:
                    self._channel.tally.lost(held)
                    raise _WrongAnswerError
                self._channel.tally.received(len(piece))
                self._channel.patience.succeeded()
                batch.append(piece)
                held += len(piece)
                if held >= PIECE:
                    full, batch, held = batch, [], 0
                    await in_thread(arriving.write, full)
        except TransientError:
            await in_thread(arriving.write, batch)
            raise
        await in_thread(arriving.write, batch)
