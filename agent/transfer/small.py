"""Many small files at once: one session, one PUT each."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agent.errors import LocalError
from agent.transfer.channel import Channel
from agent.transfer.retry import repeat, together
from agent.transfer.wire import body_of
from libs.contracts.api import SignedRequest, UploadBatchItem, UploadEntry, UrlsRequest
from libs.contracts.errors import LockstepError
from libs.contracts.limits import MAX_BATCH, PUT_BATCH_BYTES


@dataclass(frozen=True, slots=True)
class SmallSource:
    """A file to send in one PUT (at most 10 MiB).

    `read` returns all its bytes, just in time, and is called in a thread, again for each try;
    it raises `OSError`.
    """

    path: str
    size: int
    content_hash: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class SmallOutcome:
    """Whether entry `index` of the session, the source of the same index, can be completed."""

    index: int
    code: str | None = None
    """None: its bytes are in S3. "changed": look at the file again. Others say why not."""
    detail: str = ""

    @property
    def ready(self) -> bool:
        """Whether its bytes are in S3."""
        return self.code is None


@dataclass(frozen=True, slots=True)
class SmallUpload:
    """A batch session with one outcome for each source, in order.

    Complete its ready entries with `Api.complete_upload_batch`.
    """

    upload_id: str
    items: list[SmallOutcome]


def split_batches(
    sources: Sequence[SmallSource], *, items: int = MAX_BATCH, size: int = PUT_BATCH_BYTES
) -> Iterator[list[SmallSource]]:
    """Cut into batches of at most `items` files and `size` bytes, in order."""
    batch: list[SmallSource] = []
    total = 0
    for source in sources:
        if batch and (len(batch) >= items or total + source.size > size):
            yield batch
            batch, total = [], 0
        batch.append(source)
        total += source.size
    if batch:
        yield batch


class SmallUploads:
    """Sends batches; files of all batches share the same slots."""

    def __init__(self, channel: Channel, slots: asyncio.Semaphore) -> None:
        self._channel = channel
        self._slots = slots

    async def upload(self, sources: Sequence[SmallSource]) -> SmallUpload:
        """See `Transfer.upload_small`."""
        items = [
            UploadBatchItem(
                content_hash=source.content_hash, size=source.size, path=display_path(source.path)
            )
            for source in sources
        ]
        session = await self._channel.api.create_upload_batch(items)
        outcomes: dict[int, SmallOutcome] = {}

        async def send(entry: UploadEntry) -> None:
            if entry.put is None:
                self._settled(entry)
                return
            async with self._slots:
                outcomes[entry.index] = await self._outcome(session.id, entry, sources[entry.index])

        await together(*(send(entry) for entry in session.entries))
        return SmallUpload(session.id, [outcomes.get(i, SmallOutcome(i)) for i in range(len(sources))])

    def _settled(self, entry: UploadEntry) -> None:
        """The namespace has this content already."""
        self._channel.tally.settled(entry.size)
        self._channel.tally.file_done()

    async def _outcome(self, upload_id: str, entry: UploadEntry, source: SmallSource) -> SmallOutcome:
        try:
            await self._send(upload_id, entry, source)
        except LockstepError as error:
            return SmallOutcome(entry.index, error.code, error.detail)
        self._channel.tally.sent(source.size)
        self._channel.tally.file_done()
        return SmallOutcome(entry.index)

    async def _send(self, upload_id: str, entry: UploadEntry, source: SmallSource) -> None:
        signed = _required(entry.put)

        async def once() -> None:
            content = await asyncio.to_thread(read_checked, source)
            await self._channel.wire.put(signed, body_of(content))

        async def renew() -> None:
            nonlocal signed
            reply = await self._channel.api.upload_urls(upload_id, UrlsRequest(entries=[entry.index]))
            signed = reply.items[entry.index]

        await repeat(self._channel.patience, once, renew)


def read_checked(source: SmallSource) -> bytes:
    """Return the file's bytes when they are those announced.

    Raises `LocalError` "changed" or "unreadable". Blocks.
    """
    try:
        content = source.read()
    except FileNotFoundError as error:
        raise LocalError("The file is gone", code="changed") from error
    except OSError as error:
        raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error
    if len(content) != source.size or hashlib.sha256(content).hexdigest() != source.content_hash:
        raise LocalError(code="changed")
    return content


def display_path(path: str) -> str:
    """Return a path as people may read it: undecodable bytes replaced, cut to what is allowed."""
    return path.encode(errors="replace").decode()[-4096:]


def _required(signed: SignedRequest | None) -> SignedRequest:
    if signed is None:
        raise LocalError("The server sent no request to make", code="not_lockstep")
    return signed
