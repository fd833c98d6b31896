"""HTTP: requests to use cases."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from libs.contracts.api import DownloadBatchReply, DownloadBatchRequest
from libs.contracts.errors import InvalidRequestError, NotFoundError
from libs.contracts.ids import is_id
from libs.contracts.limits import MAX_PARTS
from libs.web.app import (
    Handler,
    add_endpoints,
    page_limit,
    path_id,
    query_text,
    read_json,
    reply,
    whole_number,
)
from libs.web.auth import AUTH, Caller, caller_of
from services.download.domain import Page, Wanted
from services.download.service.deltas import Deltas
from services.download.service.files import CheckNamespace, Downloads

DOWNLOADS: Final = web.AppKey("downloads", Downloads)
DELTAS: Final = web.AppKey("deltas", Deltas)

_PRIVATE: Final = {"Cache-Control": "no-store"}
"""A presigned URL is a secret for as long as it is valid."""


def add_routes(app: web.Application) -> None:
    """Route the endpoints of this service."""
    add_endpoints(app, "download", HANDLERS)


async def download(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    query = query_text(request, {"version": None, "redirect": None})
    wanted = Wanted(path_id(request, "node_id"), _version_id(query["version"]))
    redirect = _flag(query["redirect"])
    found = await request.app[DOWNLOADS].one(wanted, _check(request, caller), attachment=redirect)
    if redirect:
        return web.Response(status=302, headers={"Location": found.url, **_PRIVATE})
    return reply(found, headers=_PRIVATE)


async def part_digests(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    query = query_text(request, {"version": None, "first": "1", "limit": None})
    wanted = Wanted(path_id(request, "node_id"), _version_id(query["version"]))
    first = whole_number(query["first"], "first", low=1, high=MAX_PARTS)
    page = Page(first, page_limit(query["limit"]))
    return reply(await request.app[DOWNLOADS].digests(wanted, _check(request, caller), page))


async def download_batch(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    asked = await read_json(request, DownloadBatchRequest)
    wanted = [Wanted(item.node_id, item.version_id) for item in asked.items]
    items = await request.app[DOWNLOADS].many(wanted, _check(request, caller))
    return reply(DownloadBatchReply(items=items), headers=_PRIVATE)


async def delta(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    query = query_text(request, {"from": None, "to": None, "base": None})
    node_id = path_id(request, "node_id")
    if query["from"] is None:
        raise InvalidRequestError("from is missing")
    base = Wanted(_node_id(query["base"]) or node_id, _version_id(query["from"]))
    target = Wanted(node_id, _version_id(query["to"]))
    found = await request.app[DELTAS].between(base, target, _check(request, caller))
    return reply(found, headers=_PRIVATE)


def _check(request: web.Request, caller: Caller) -> CheckNamespace:
    async def check(namespace_id: str) -> None:
        await request.app[AUTH].check_member(caller, namespace_id)

    return check


def _node_id(text: str | None) -> str | None:
    return _version_id(text)


def _version_id(text: str | None) -> str | None:
    if text is not None and not is_id(text):
        raise NotFoundError
    return text


def _flag(text: str | None) -> bool:
    if text not in {None, "0", "1"}:
        raise InvalidRequestError("redirect must be 0 or 1")
    return text == "1"


HANDLERS: Final[Mapping[str, Handler]] = {
    "download": download,
    "part_digests": part_digests,
    "download_delta": delta,
    "download_batch": download_batch,
}
