"""`Transfer`: what the executor and the commands use."""

import asyncio
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import aiohttp

from agent.disk.look import Digest
from agent.remote import Api
from agent.settings import Settings
from agent.transfer.channel import Channel
from agent.transfer.download import Downloads
from agent.transfer.lanes import Lanes
from agent.transfer.large import LargeUpload, LargeUploads
from agent.transfer.retry import Patience
from agent.transfer.small import SmallSource, SmallUpload, SmallUploads
from agent.transfer.source import LargeSource
from agent.transfer.tally import Tally
from agent.transfer.wire import Wire, s3_session
from libs.contracts.api import Download, DownloadDelta
from libs.contracts.errors import ConflictError, LockstepError
from libs.contracts.tree import CommitTarget, NodeRow

_SEND_AGAIN = frozenset(
    {
        "parts_missing",
        "bytes_missing",
        "object_gone",
        "upload_not_open",
        "commit_pending",
        "delta_refused",
    }
)
_MAX_SENDS = 3


class Transfer:
    """Bytes to and from S3. All methods may run side by side; limits are shared.

    All raise `UnavailableError` when S3 or the server is away for longer than the settings
    allow, and `LocalError` with a code of `AGENT_CODES`.
    """

    def __init__(self, session: aiohttp.ClientSession, api: Api, settings: Settings) -> None:
        self.tally = Tally()
        self._api = api
        channel = Channel(api, Wire(session, settings, self.tally), Patience(settings), self.tally, settings)
        self._small = SmallUploads(channel, asyncio.Semaphore(settings.small_parallel))
        self._upload_lanes = Lanes(settings.part_parallel)
        self._large = LargeUploads(channel, self._upload_lanes)
        self._downloads = Downloads(channel)
        self._download_slots = asyncio.Semaphore(settings.small_parallel)

    @property
    def upload_rate(self) -> float | None:
        """Bytes a second that large uploads have lately brought to S3; None: not measured yet."""
        return self._upload_lanes.rate

    async def upload_small(self, sources: Sequence[SmallSource]) -> SmallUpload:
        """Send up to 500 files of up to 10 MiB each; cut longer lists with `split_batches`.

        An error of one file ("changed", "unreadable", "unavailable", …) is its outcome and does
        not stop the others. Nothing is committed: complete the ready ones.
        """
        return await self._small.upload(sources)

    async def upload_large(self, source: LargeSource) -> LargeUpload:
        """Send one file of any size, only what S3 does not hold; nothing is committed.

        Killed at any point and called again, it continues with the missing parts. Raises
        `LocalError` "changed" when the file is not, or no more, what was announced.
        """
        return await self._large.upload(source)

    async def commit_large(self, source: LargeSource, target: CommitTarget) -> NodeRow:
        """Send one file and commit it; what the server then finds missing is sent again.

        A delta that turns out not to give the content is followed by the whole.

        Raises as `upload_large`, and `ConflictError` with what the commit was refused for.
        """
        sends = 0
        while True:
            upload = await self.upload_large(source)
            sends += 1
            try:
                row = await self._api.complete_upload(upload.upload_id, target)
            except ConflictError as error:
                if error.code not in _SEND_AGAIN or sends >= _MAX_SENDS:
                    await self._let_go(upload)
                    raise
                self.tally.lost(source.size, files=1)
                source.notes.forget()  # what is not what was announced may be a note: the parts are read anew
                if upload.delta is not None:
                    source.notes_of(upload.delta).forget()
                if error.code == "delta_refused" and source.delta is not None:
                    await self._large.forget_delta(source, upload.delta)
                    source.delta.refused()
                    source = replace(source, delta=None)
            else:
                await self._large.forget_delta(source, upload.delta)
                return row

    async def keep_deltas(self, wanted: Container[str]) -> None:
        """Keep what is written down of differences only for contents with these hashes."""
        await asyncio.to_thread(self._large.keep_deltas, wanted)

    async def _let_go(self, upload: LargeUpload) -> None:
        """End a refused session that no byte was sent for.

        It can be opened again for nothing, and there may be no need to: when another device has
        committed the same content, nobody would ever end it. One that holds bytes stays for the next try.
        """
        if upload.stored:
            with suppress(LockstepError):
                await self._api.abort_upload(upload.upload_id)

    async def download(self, item: Download, fd: int, journal: int | None = None) -> str:
        """Fetch into the file `fd` (open for reading and writing) and return its SHA-256.

        What a small file holds already is taken as its beginning; a large one (see `in_ranges`)
        continues with what it lacks by its `journal`, a second such file that is kept with it. The
        result has the announced size and hash, else: once more from the start, then `LocalError`
        "corrupt_download". Not flushed to disk. "unwritable" when that is full; nothing is lost then.
        """
        async with self._download_slots:
            return await self._downloads.fetch(item, fd, journal)

    async def download_delta(
        self, delta: DownloadDelta, base: tuple[int, int], fd: int, digest: Digest
    ) -> str:
        """Put a version together in the empty file `fd`; return the SHA-256 of what that gave.

        `base` is an open file with the bytes of the version that the delta is from, and its size.
        The result counts only when its hash is the one announced: else it is to be dropped and
        the whole fetched. `digest` is given all the bytes. Raises `MalformedError` (the recipe makes no
        sense), `LocalError` "unreadable" (the base), and as `download`.
        """
        async with self._download_slots:
            return await self._downloads.by_delta(delta, base, fd, digest)


@asynccontextmanager
async def open_transfer(settings: Settings, api: Api) -> AsyncIterator[Transfer]:
    """Open transfers for the lifetime of the context."""
    async with s3_session(settings) as session:
        yield Transfer(session, api, settings)
