"""Reads of the tree."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from libs.contracts.errors import InvalidRequestError, NotFoundError
from libs.contracts.ids import is_id
from libs.web.app import Handler, page_limit, query_text, reply
from libs.web.auth import Caller, namespace_of
from services.metadata.routes.keys import READING, caller, node_of
from services.metadata.service.reading import PageOf

_PAGE: Final[Mapping[str, str | None]] = {"cursor": None, "limit": None}


async def list_files(request: web.Request) -> web.Response:
    """The node at `path`, or the folder `parent`; the root when neither is given."""
    who = await caller(request)
    query = query_text(request, {"path": None, "parent": None, "namespace_id": None, **_PAGE})
    namespace_id = await _namespace(request, who, query["namespace_id"])
    page = _page(query)
    path, parent = query["path"], query["parent"]
    if path is not None and parent is not None:
        raise InvalidRequestError("Give path or parent")
    if path is not None:
        return reply(await request.app[READING].at_path(namespace_id, path))
    return reply(await request.app[READING].folder(namespace_id, _known_id(parent or namespace_id), page))


async def get_file(request: web.Request) -> web.Response:
    who = await caller(request)
    query_text(request, {})
    return reply((await node_of(request, who)).row())


async def list_versions(request: web.Request) -> web.Response:
    who = await caller(request)
    page = _page(query_text(request, _PAGE))
    return reply(await request.app[READING].versions(await node_of(request, who), page))


async def list_trash(request: web.Request) -> web.Response:
    who = await caller(request)
    query = query_text(request, {"namespace_id": None, **_PAGE})
    namespace_id = await _namespace(request, who, query["namespace_id"])
    return reply(await request.app[READING].trash(namespace_id, _page(query)))


async def usage(request: web.Request) -> web.Response:
    who = await caller(request)
    query_text(request, {})
    namespace_id = await namespace_of(request, who, None)
    return reply(await request.app[READING].usage(who.user_id, namespace_id))


async def _namespace(request: web.Request, who: Caller, namespace_id: str | None) -> str:
    return await namespace_of(request, who, None if namespace_id is None else _known_id(namespace_id))


def _known_id(text: str) -> str:
    """What has not the form of an identifier is simply not there."""
    if not is_id(text):
        raise NotFoundError
    return text


def _page(query: Mapping[str, str | None]) -> PageOf:
    return PageOf(query["cursor"], page_limit(query["limit"]))


HANDLERS: Final[Mapping[str, Handler]] = {
    "list_files": list_files,
    "get_file": get_file,
    "list_versions": list_versions,
    "list_trash": list_trash,
    "usage": usage,
}
