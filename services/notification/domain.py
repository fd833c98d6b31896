"""What is pushed and how it is written down. Pure."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel

from libs.contracts.api import PushChanges, PushUpload, UploadState
from libs.contracts.cursor import Cursor
from libs.contracts.errors import InvalidRequestError
from libs.contracts.events import (
    EventData,
    FileCommitted,
    PartCompleted,
    TreeChanged,
    UploadAborted,
    UploadCompleted,
    UploadExpired,
    UploadStarted,
)

HEARTBEAT: Final = b":\n\n"
_MAX_THROTTLED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event, encoded once for all readers.

    Changes carry the sequence numbers they span, so that a reader's cursor moves only over
    what it was sent without a gap. `replaces` marks frames of which the last one says it all.
    """

    body: bytes
    span: tuple[int, int] | None = None
    replaces: str | None = None


def encode(event: str, model: BaseModel) -> bytes:
    """Return a server-sent event without its id."""
    return b"event: " + event.encode() + b"\ndata: " + model.model_dump_json().encode() + b"\n\n"


def with_id(body: bytes, cursor: Cursor) -> bytes:
    """Return the event with `id:`, which clients hand back as `Last-Event-ID`."""
    return b"id: " + cursor.encode().encode() + b"\n" + body


def changes_frame(changes: PushChanges) -> Frame:
    """Return changes as a frame."""
    return Frame(encode("changes", changes), span=(changes.from_seq, changes.to_seq))


def changes_of(event: TreeChanged, epoch: int) -> PushChanges:
    """Return a change of the tree as it is pushed."""
    return PushChanges(
        namespace_id=event.namespace_id,
        epoch=epoch,
        from_seq=event.first_seq - 1,
        to_seq=event.last_seq,
        rows=event.changes,
    )


def progress_of(event: EventData) -> PushUpload | None:
    """Return what an event says about a session, or None when it is about none."""
    match event:
        case UploadStarted():
            return PushUpload(
                upload_id=event.upload_id, state=UploadState.OPEN, size=event.size,
                parts_total=event.parts_total, path=event.path, device=event.device_name,
            )  # fmt: skip
        case PartCompleted():
            return PushUpload(
                upload_id=event.upload_id, state=UploadState.OPEN, size=event.total_size,
                parts_done=event.parts_done, parts_total=event.parts_total, path=event.path,
                device=event.device_name,
            )  # fmt: skip
        case UploadCompleted():
            size = sum(entry.object.size for entry in event.entries)
            return PushUpload(
                upload_id=event.upload_id, state=UploadState.COMMITTING, size=size, device=event.device_name
            )
        case FileCommitted(upload_id=str() as upload_id):
            size = sum(row.size or 0 for row in event.changes)
            return PushUpload(upload_id=upload_id, state=UploadState.COMMITTED, size=size)
        case UploadAborted() | UploadExpired():
            return PushUpload(upload_id=event.upload_id, state=event.state, size=0)
        case _:
            return None


def cursor_from(text: str | None) -> Cursor | None:
    """Return the reader's cursor; one that cannot be read counts as none: it gets the heads."""
    if not text:
        return None
    try:
        return Cursor.decode(text)
    except InvalidRequestError:
        return None


def missed_from(cursor: Cursor | None, namespace_id: str, *, epoch: int, head: int, limit: int) -> int | None:
    """Return the sequence number after which rows are to be sent, or None: the heads must do.

    They must when the cursor is of another epoch, ahead of the head, or too far behind it.
    """
    if cursor is None or cursor.epoch != epoch:
        return None
    seq = cursor.seqs.get(namespace_id, 0)
    return seq if seq <= head <= seq + limit else None


class Backlog:
    """Frames that wait for one reader, bounded by number and bytes.

    When it is full everything in it is dropped and `overflowed` is set until it is taken:
    the reader is then told to read the feed.
    """

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._overflowed = False

    def add(self, frame: Frame) -> bool:
        """Queue a frame; False when that made the backlog overflow."""
        if self._overflowed or self._superseded(frame):
            return True
        self._frames.append(frame)
        self._bytes += len(frame.body)
        if len(self._frames) <= self._max_events and self._bytes <= self._max_bytes:
            return True
        self._frames.clear()
        self._bytes = 0
        self._overflowed = True
        return False

    def _superseded(self, frame: Frame) -> bool:
        """Put the frame in the place of the one before it when it says the same, but later."""
        last = self._frames[-1] if self._frames else None
        if last is None or frame.replaces is None or last.replaces != frame.replaces:
            return False
        self._bytes += len(frame.body) - len(last.body)
        self._frames[-1] = frame
        return True

    def take(self) -> Frame | None:
        """Return the oldest frame, or None."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._bytes -= len(frame.body)
        return frame

    def take_overflow(self) -> bool:
        """Say whether frames were dropped since the last call."""
        overflowed, self._overflowed = self._overflowed, False
        return overflowed


@dataclass(slots=True)
class Throttle:
    """Lets one report per key through in `interval` seconds; memory is bounded."""

    interval: float
    clock: Callable[[], float]
    _last: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def allows(self, key: str) -> bool:
        """Say whether a report may be sent now, and remember it if so."""
        now = self.clock()
        if now < self._last.get(key, float("-inf")) + self.interval:
            return False
        self._last[key] = now
        self._last.move_to_end(key)
        if len(self._last) > _MAX_THROTTLED:
            self._last.popitem(last=False)
        return True
