"""The change feed."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from aiohttp import web

from libs.contracts.cursor import Cursor
from libs.contracts.errors import InvalidRequestError
from libs.web.app import Handler, page_limit, query_text, reply
from libs.web.auth import namespace_of
from services.metadata.routes.keys import FEED, caller

_RFC3339: Final = re.compile(
    r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$", re.ASCII
)


async def sync(request: web.Request) -> web.Response:
    """All namespaces of the caller, which today is one."""
    who = await caller(request)
    query = query_text(request, {"cursor": None, "changed_since": None, "limit": None})
    limit = page_limit(query["limit"])
    cursor, since = query["cursor"], query["changed_since"]
    if cursor is not None and since is not None:
        raise InvalidRequestError("Give cursor or changed_since")
    feed, namespaces = request.app[FEED], [await namespace_of(request, who, None)]
    if since is not None:
        return reply(await feed.since(who.user_id, namespaces, parse_time(since), limit))
    place = None if cursor is None else Cursor.decode(cursor)
    return reply(await feed.page(who.user_id, namespaces, place, limit))


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time, cut to microseconds, or raise `InvalidRequestError`."""
    if _RFC3339.match(text):
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError:
            pass
    raise InvalidRequestError("changed_since must be a time as 2026-11-23T12:00:00Z (RFC 3339)")


HANDLERS: Final[Mapping[str, Handler]] = {"sync": sync}
