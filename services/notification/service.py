"""The hub: which devices are connected here, and what each is sent.

Events reach it from one queue of this process, bound only to the namespaces of the devices
connected. A push is a hint: whatever may have been missed is answered with the heads, and the
device reads the feed.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from prometheus_client import Counter, Gauge

from libs.contracts.api import PushHeads, PushRevoked, PushUpload, UploadState
from libs.contracts.cursor import Cursor
from libs.contracts.errors import UnavailableError
from libs.contracts.events import DeviceRevoked, EventData, TreeChanged
from libs.messaging.rabbit import Listener
from libs.mongo.views import Views
from libs.runtime.logs import get_logger
from libs.web.auth import Caller
from services.notification.domain import (
    Backlog,
    Frame,
    Throttle,
    changes_frame,
    changes_of,
    encode,
    progress_of,
    with_id,
)
from services.notification.settings import Settings

log = get_logger("push")

CONNECTIONS: Final = Gauge("lockstep_push_connections", "Devices connected to the push channel")
PUSHED: Final = Counter("lockstep_pushes_total", "Events sent to devices", ["event"])
RESYNCS: Final = Counter("lockstep_push_resyncs_total", "Times that a slow reader was told to read the feed")


class Connection:
    """One device on the push channel. What happens is queued here; the request's task writes it."""

    def __init__(self, caller: Caller, settings: Settings) -> None:
        self.caller = caller
        self.namespace_id = caller.namespace_id
        self.cursor = Cursor(0)
        self.backlog = Backlog(max_events=settings.push_queue_events, max_bytes=settings.push_queue_bytes)
        self.heads_wanted = False
        self.revoked = False
        self.closing = False
        self._wake = asyncio.Event()

    def push(self, frame: Frame) -> None:
        """Queue a frame."""
        if not self.backlog.add(frame):
            RESYNCS.inc()
        self._wake.set()

    def want_heads(self) -> None:
        """Have the heads sent: events may have been missed."""
        self.heads_wanted = True
        self._wake.set()

    def revoke(self) -> None:
        """Have the device told that it is revoked, and the stream ended."""
        self.revoked = True
        self._wake.set()

    def close(self) -> None:
        """Have the stream ended."""
        self.closing = True
        self._wake.set()

    async def wait(self, seconds: float) -> bool:
        """Return True when there is something to do, False after `seconds` of silence."""
        with suppress(TimeoutError):
            # Not `wait_for`: cancelled in the instant in which it is woken, that goes on (Python 3.11).
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        happened = self._wake.is_set()
        self._wake.clear()
        return happened

    def bytes_of(self, frame: Frame) -> bytes:
        """Return the frame as this reader gets it.

        It has an id, and the reader's cursor moves, when no change before it is missing.
        """
        if frame.span is None:
            return frame.body
        after, up_to = frame.span
        seq = self.cursor.seqs.get(self.namespace_id, 0)
        if after > seq:
            return frame.body
        self.cursor = self.cursor.at(self.namespace_id, max(seq, up_to))
        return with_id(frame.body, self.cursor)


class Hub:
    """All connections of this process."""

    def __init__(self, settings: Settings, views: Views, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._views = views
        self._throttle = Throttle(settings.push_progress_interval, clock)
        self._connections: dict[str, set[Connection]] = {}
        self._bindings = asyncio.Lock()
        self._listener: Listener | None = None
        self._epoch: int | None = None
        self._closed = False

    def use(self, listener: Listener) -> None:
        """Set the listener whose bindings follow the connections."""
        self._listener = listener

    # Connections ----------------------------------------------------------------------------

    async def join(self, caller: Caller) -> Connection:
        """Add a connection; events of its namespace are queued from now on.

        Raises `UnavailableError` when the broker does not answer.
        """
        connection = Connection(caller, self._settings)
        async with self._bindings:
            present = self._connections.setdefault(caller.namespace_id, set())
            present.add(connection)
            try:
                await self._bound().bind(_key(caller.namespace_id))
            except UnavailableError:
                await self._remove(connection)
                raise
        CONNECTIONS.inc()
        if self._closed:
            connection.close()
        return connection

    async def leave(self, connection: Connection) -> None:
        """Remove a connection; the last of a namespace takes its binding away."""
        async with self._bindings:
            await self._remove(connection)
        CONNECTIONS.dec()

    async def _remove(self, connection: Connection) -> None:
        present = self._connections.get(connection.namespace_id, set())
        present.discard(connection)
        if not present:
            self._connections.pop(connection.namespace_id, None)
            with suppress(UnavailableError):  # the next connection to the broker binds only what is wanted
                await self._bound().unbind(_key(connection.namespace_id))

    def _bound(self) -> Listener:
        if self._listener is None:
            raise UnavailableError("The message broker does not answer", retry_after=2)
        return self._listener

    def close(self) -> None:
        """End all streams, present and future."""
        self._closed = True
        for connection in self._all():
            connection.close()

    def _all(self) -> list[Connection]:
        return [connection for present in self._connections.values() for connection in present]

    # Reading --------------------------------------------------------------------------------

    async def heads(self, namespace_id: str) -> PushHeads:
        """Read epoch and head. Raises `UnavailableError`."""
        epoch = await self._views.epoch()
        known, self._epoch = self._epoch, epoch
        if known not in {None, epoch}:
            self.tell_heads()
        return PushHeads(epoch=epoch, heads={namespace_id: await self._views.head(namespace_id)})

    async def recheck(self, connection: Connection) -> None:
        """Look again at the device's row and the epoch; events may have been missed."""
        device = await self._views.device(connection.caller.device_id)
        if device is None or device.revoked:
            connection.revoke()
        await self.heads(connection.namespace_id)

    # Events ---------------------------------------------------------------------------------

    def tell_heads(self) -> None:
        """Have the heads sent to every device."""
        for connection in self._all():
            connection.want_heads()

    async def on_gap(self) -> None:
        """Events may have been missed: the connection to the broker was lost."""
        self.tell_heads()

    def on_tree(self, event: TreeChanged) -> None:
        """Push changes of the tree to the devices of its namespace."""
        present = self._connections.get(event.namespace_id)
        if present:
            frame = changes_frame(changes_of(event, self._epoch or 0))
            for connection in present:
                connection.push(frame)
        self.on_upload(event)

    def on_upload(self, event: EventData) -> None:
        """Push a session's progress to the devices of its account."""
        progress = progress_of(event)
        if progress is None or not self._worth_telling(progress):
            return
        frame = Frame(encode("upload", progress), replaces=f"upload {progress.upload_id}")
        for connection in self._connections.get(event.namespace_id, set()):
            if event.user_id in {None, connection.caller.user_id}:
                connection.push(frame)

    def _worth_telling(self, progress: PushUpload) -> bool:
        between = progress.state is UploadState.OPEN and 0 < progress.parts_done < progress.parts_total
        return not between or self._throttle.allows(progress.upload_id)

    def on_revoked(self, event: DeviceRevoked) -> None:
        """End the streams of a device that was revoked."""
        for connection in self._connections.get(event.namespace_id, set()):
            if connection.caller.device_id == event.device_id:
                connection.revoke()


def revoked_frame(caller: Caller) -> Frame:
    """Return the last frame that a revoked device gets."""
    return Frame(encode("revoked", PushRevoked(device_id=caller.device_id)))


def _key(namespace_id: str) -> str:
    return f"*.*.{namespace_id}"
