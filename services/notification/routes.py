"""`GET /v1/events`: the push channel as server-sent events."""

import asyncio
import time
from typing import Final

from aiohttp import web

from libs.contracts.api import PushChanges, PushHeads
from libs.contracts.cursor import Cursor
from libs.contracts.errors import LockstepError
from libs.mongo.views import Views
from libs.runtime.logs import get_logger
from libs.web.app import query_text
from libs.web.auth import caller_of, namespace_of
from services.notification.domain import HEARTBEAT, changes_frame, cursor_from, encode, missed_from, with_id
from services.notification.service import PUSHED, Connection, Hub, revoked_frame
from services.notification.settings import Settings

log = get_logger("push")

HUB: Final = web.AppKey("hub", Hub)
VIEWS: Final = web.AppKey("views", Views)
SETTINGS: Final = web.AppKey("settings", Settings)

_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


async def events(request: web.Request) -> web.StreamResponse:
    """Serve the stream until the client goes, the device is revoked or the process stops."""
    caller = await caller_of(request)
    await namespace_of(request, caller, None)
    query = query_text(request, {"cursor": None})
    cursor = cursor_from(request.headers.get("Last-Event-ID") or query["cursor"])
    hub = request.app[HUB]
    connection = await hub.join(caller)
    try:
        heads = await hub.heads(connection.namespace_id)
        missed = await _missed(request, heads, connection, cursor)
        return await _Stream(request, connection).run(heads, missed)
    finally:
        await hub.leave(connection)


async def _missed(
    request: web.Request, heads: PushHeads, connection: Connection, cursor: Cursor | None
) -> PushChanges | None:
    """Read what the reader missed, when its cursor says so, and set where it will be then."""
    namespace_id = connection.namespace_id
    head = heads.heads[namespace_id]
    connection.cursor = Cursor(heads.epoch, {namespace_id: head})
    limit = request.app[SETTINGS].push_catch_up_rows
    after = missed_from(cursor, namespace_id, epoch=heads.epoch, head=head, limit=limit)
    if after is None or after == head or after < await request.app[VIEWS].purged_seq(namespace_id):
        return None
    rows = await request.app[VIEWS].rows_between(namespace_id, after, head)
    return PushChanges(namespace_id=namespace_id, epoch=heads.epoch, from_seq=after, to_seq=head, rows=rows)


class _Stream:
    """Writes what a connection's queue holds."""

    def __init__(self, request: web.Request, connection: Connection) -> None:
        self._request = request
        self._hub = request.app[HUB]
        self._settings = request.app[SETTINGS]
        self._connection = connection
        self._response = web.StreamResponse(headers=_HEADERS)
        self._recheck_at = time.monotonic() + self._settings.push_recheck

    async def run(self, heads: PushHeads, missed: PushChanges | None) -> web.StreamResponse:
        await self._response.prepare(self._request)
        try:
            await self._write("heads", encode("heads", heads))
            if missed is not None:
                await self._write("changes", with_id(changes_frame(missed).body, self._connection.cursor))
            while not self._connection.closing and not self._connection.revoked:
                await self._round()
            if self._connection.revoked:
                await self._write("revoked", revoked_frame(self._connection.caller).body)
        except (TimeoutError, ConnectionError):
            log.info("a reader has gone", device_id=self._connection.caller.device_id)
        except LockstepError as error:  # the reader connects again and is told the heads
            log.warning("a stream ends", reason=error.detail)
        return self._response

    async def _round(self) -> None:
        if not await self._connection.wait(self._settings.push_heartbeat):
            await self._send(HEARTBEAT)
        if time.monotonic() >= self._recheck_at:
            self._recheck_at = time.monotonic() + self._settings.push_recheck
            await self._hub.recheck(self._connection)
        await self._tell_heads()
        await self._drain()

    async def _tell_heads(self) -> None:
        """Answer a gap with `heads`, an overflow with `resync`, which says: read the feed."""
        connection = self._connection
        overflowed = connection.backlog.take_overflow()
        wanted, connection.heads_wanted = connection.heads_wanted, False
        if not overflowed and not wanted:
            return
        heads = await self._hub.heads(connection.namespace_id)
        if overflowed:
            await self._write("resync", encode("resync", heads))
        else:
            await self._write("heads", encode("heads", heads))

    async def _drain(self) -> None:
        connection = self._connection
        while not connection.closing and not connection.revoked:
            frame = connection.backlog.take()
            if frame is None:
                return
            await self._write("changes" if frame.span else "upload", connection.bytes_of(frame))

    async def _write(self, event: str, body: bytes) -> None:
        await self._send(body)
        PUSHED.labels(event).inc()

    async def _send(self, body: bytes) -> None:
        await asyncio.wait_for(self._response.write(body), self._settings.push_write_timeout)
