"""One large file in ranges side by side, each noted as it arrives, and the whole verified with the last."""

import asyncio
from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final, Protocol

from agent.errors import LocalError
from agent.transfer.blocking import in_thread
from agent.transfer.channel import Channel
from agent.transfer.journal import Journal
from agent.transfer.lanes import Lanes
from agent.transfer.ranges import Arriving, Cut, Partial, Run, cut_in_parts, cut_of
from agent.transfer.retry import TransientError, repeat, together
from agent.transfer.wire import PIECE, Reading
from libs.contracts.api import Download, PartRow
from libs.contracts.errors import ConflictError, NotFoundError
from libs.contracts.limits import MIB

_MAX_WRONG: Final = 3
"""Answers for one range that are not it."""
RUN_BYTES: Final = 40 * MIB
"""Most bytes of one request, unless a range alone has more. A store looks up and opens what it reads for each
request: with SeaweedFS, requests of 10 MiB cost a quarter more of its processor, and of the client's."""
BATCH: Final = MIB // 2
"""Bytes that are written in one step; less where it takes long until so much is there. More do not make it
faster: they are out of the processor's cache by then."""
_BATCH_SECONDS: Final = 0.5
"""What a kill costs of a slow line."""
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

    def continues(self, number: int) -> bool:
        """Whether a range may come in one request with the one before it."""

    def accept(self, arriving: Arriving) -> None:
        """Take a range that has arrived whole."""

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
        self._left: deque[int] = deque()

    async def fetch(self) -> str:
        """Fetch what is missing and return the SHA-256 of the whole.

        Raises `LocalError` "corrupt_download", "unwritable", "refused_by_store", and
        `UnavailableError`; what is there by then is kept.
        """
        self._left.extend(self._partial.missing())
        workers = range(self._channel.settings.part_parallel)
        await together(self._follow(), *(self._work() for _ in workers))
        return self._partial.digest()

    async def _follow(self) -> None:
        """Hash the file as far as it is there, so that little is left to be hashed at the end."""
        while not self._partial.hashed:
            if self._partial.leads:
                await in_thread(self._partial.hash_next)
            else:
                self._accepted.clear()
                await self._accepted.wait()

    async def _work(self) -> None:
        while self._left:
            run = self._take()
            async with self._lanes.lane():
                await self._fetch(run)

    def _take(self) -> Run:
        """Take ranges for one request: many at first, few at the end so that all lanes end together."""
        share = len(self._left) // self._lanes.width
        taken = [self._partial.arriving(self._left.popleft())]
        room = RUN_BYTES - taken[0].length
        while self._left and len(taken) < share and self._may_join(taken[-1].number):
            following = self._partial.arriving(self._left[0])
            room -= following.length
            if room < 0:
                break
            taken.append(following)
            self._left.popleft()
        return Run(taken)

    def _may_join(self, last: int) -> bool:
        return self._left[0] == last + 1 and self._partial.continues(last + 1)

    async def _fetch(self, run: Run) -> None:
        wrong = 0
        while not run.whole:
            try:
                await self._read_on(run)
            except _WrongAnswerError:
                self._shorten(run)
                wrong += 1
                if wrong == _MAX_WRONG:
                    raise LocalError(code="corrupt_download") from None

    def _shorten(self, run: Run) -> None:
        """Go on with the range at hand where a request went wrong; the others are for whoever takes them."""
        self._left.extendleft(reversed(run.shorten()))

    async def _read_on(self, run: Run) -> None:
        link = self._link

        async def once() -> None:
            nonlocal link
            link = self._link
            await self._read_some(link.url, run)

        await repeat(self._channel.patience, once, lambda: self._renew(link))

    async def _renew(self, refused: Download) -> None:
        """Get a new URL unless another range has got one since."""
        async with self._renewing:
            if self._link is refused:
                self._link = await self._channel.api.download(refused.node_id, refused.version_id)

    async def _read_some(self, url: str, run: Run) -> None:
        """Read on; a break after progress is no failure, so a bad line only makes it slow."""
        before = run.position
        try:
            await self._read(url, run)
        except TransientError:
            self._lanes.struggled()
            self._shorten(run)
            if run.position <= before:
                raise
            await asyncio.sleep(PAUSE)

    async def _read(self, url: str, run: Run) -> None:
        first, end = run.position, run.end
        async with self._channel.wire.get(url, first, end - 1) as reading:
            self._check(reading, first, end)
            await self._drain(reading, run)
        if not run.whole:
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

    async def _drain(self, reading: Reading, run: Run) -> None:
        """Write what comes, some at a time. What came before a break is kept."""
        batch = _Batch(run.end - run.position)
        try:
            while piece := await reading.piece():
                self._channel.tally.received(len(piece))
                self._channel.patience.succeeded()
                if not batch.add(piece):
                    self._channel.tally.lost(batch.held)
                    raise _WrongAnswerError
                if batch.due:
                    await self._write(run, batch)
        except TransientError:
            await self._write(run, batch)
            raise
        await self._write(run, batch)

    async def _write(self, run: Run, batch: "_Batch") -> None:
        for arriving in await in_thread(run.write, batch.take()):
            self._partial.accept(arriving)
            self._lanes.moved(arriving.length)
            self._accepted.set()


class _Batch:
    """What has come and is not written yet, of `room` bytes that are still to come."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._pieces: list[bytes] = []
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()
        self.held = 0

    def add(self, piece: bytes) -> bool:
        """Take a piece; say no when it is more than was to come."""
        self._room -= len(piece)
        self._pieces.append(piece)
        self.held += len(piece)
        return self._room >= 0

    @property
    def due(self) -> bool:
        """Whether it is to be written."""
        return self.held >= BATCH or (self.held >= PIECE and self._clock() - self._since >= _BATCH_SECONDS)

    def take(self) -> list[bytes]:
        """Return the pieces and begin anew."""
        pieces, self._pieces, self.held = self._pieces, [], 0
        self._since = self._clock()
        return pieces
