"""Changes of the tree."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from libs.contracts.api import FolderRequest, MoveRequest, RestoreVersion
from libs.contracts.errors import InvalidRequestError
from libs.contracts.ids import is_id
from libs.contracts.tree import BatchResults, CreateFolder, Delete, Move, TreeBatch
from libs.web.app import Handler, query_text, read_json, reply, whole_number
from libs.web.auth import AUTH, namespace_of
from services.metadata.domain import model
from services.metadata.routes.keys import READING, TREE, actor_of, caller, node_of

_LAST_SEQ: Final = 2**62


async def create_folder(request: web.Request) -> web.Response:
    who = await caller(request)
    body = await read_json(request, FolderRequest)
    namespace_id = await request.app[READING].namespace_of(body.parent_id, who.namespace_id)
    await request.app[AUTH].check_member(who, namespace_id)
    op = CreateFolder(id=body.id, parent_id=body.parent_id, name=body.name)
    return reply(await request.app[TREE].one(actor_of(who), namespace_id, op), status=201)


async def move_file(request: web.Request) -> web.Response:
    who = await caller(request)
    node = await node_of(request, who)
    body = await read_json(request, MoveRequest)
    op = Move(node_id=node.id, **dict(body))
    return reply(await request.app[TREE].one(actor_of(who), node.namespace_id, op))


async def delete_file(request: web.Request) -> web.Response:
    who = await caller(request)
    query = query_text(request, {"version_id": None, "seen_seq": None})
    node = await node_of(request, who)
    seen = query["seen_seq"]
    op = Delete(
        node_id=node.id,
        version_id=_optional_id(query["version_id"]),
        seen_seq=None if seen is None else whole_number(seen, "seen_seq", low=0, high=_LAST_SEQ),
    )
    return reply(await request.app[TREE].one(actor_of(who), node.namespace_id, op))


def _optional_id(text: str | None) -> str | None:
    if text is not None and not is_id(text):
        raise InvalidRequestError("version_id must be an identifier")
    return text


async def tree_batch(request: web.Request) -> web.Response:
    """All operations are on one namespace: the caller's."""
    who = await caller(request)
    body = await read_json(request, TreeBatch)
    namespace_id = await namespace_of(request, who, None)
    return reply(BatchResults(items=await request.app[TREE].batch(actor_of(who), namespace_id, body.ops)))


async def restore_version(request: web.Request) -> web.Response:
    who = await caller(request)
    node = await node_of(request, who)
    body = await read_json(request, RestoreVersion)
    op = model.RestoreVersion(node.id, body.version_id, body.base_version_id)
    return reply(await request.app[TREE].one(actor_of(who), node.namespace_id, op))


async def restore_trash(request: web.Request) -> web.Response:
    who = await caller(request)
    node = await node_of(request, who)
    return reply(await request.app[TREE].one(actor_of(who), node.namespace_id, model.RestoreNode(node.id)))


HANDLERS: Final[Mapping[str, Handler]] = {
    "create_folder": create_folder,
    "move_file": move_file,
    "delete_file": delete_file,
    "tree_batch": tree_batch,
    "restore_version": restore_version,
    "restore_trash": restore_trash,
}
