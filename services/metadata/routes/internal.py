"""Calls of other services: a service's token is needed, the gateway does not forward them."""

from aiohttp import web

from libs.contracts.api import Empty
from libs.contracts.internal import (
    MAX_KEYS,
    Alive,
    Check,
    Collected,
    Forgotten,
    HousedObjects,
    KeyRange,
    Known,
    KnownObjects,
    NamespaceCreation,
    NamespaceRemoval,
    ObjectIds,
    Place,
    Uses,
    Verification,
)
from libs.web.app import path_id, query_text, read_json, reply, whole_number
from libs.web.auth import AUTH, require_service
from services.metadata.routes.keys import CONSISTENCY, COSTS, HOUSEKEEPING, REMOVALS, SCHEMA
from services.metadata.service.housekeeping import Housekeeping
from services.metadata.service.removals import Removals


async def _housekeeping(request: web.Request) -> Housekeeping:
    require_service(request)
    await request.app[SCHEMA].check()
    return request.app[HOUSEKEEPING]


async def _removals(request: web.Request) -> Removals:
    require_service(request)
    await request.app[SCHEMA].check()
    return request.app[REMOVALS]


async def create_namespace(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    body = await read_json(request, NamespaceCreation)
    await housekeeping.create_namespace(body.namespace_id, body.user_id)
    request.app[AUTH].forget_namespace(body.namespace_id)
    return reply(Empty())


async def remove_namespace(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    namespace_id = path_id(request, "namespace_id")
    body = await read_json(request, NamespaceRemoval)
    await housekeeping.remove_namespace(namespace_id, body.user_id)
    request.app[AUTH].forget_namespace(namespace_id)
    return reply(Empty())


async def purge(request: web.Request) -> web.Response:
    return reply(Collected(done=await (await _removals(request)).namespaces()))


async def purge_trash(request: web.Request) -> web.Response:
    return reply(Collected(done=await (await _removals(request)).trash()))


async def expire_versions(request: web.Request) -> web.Response:
    removals = await _removals(request)
    body = await read_json(request, Place)
    return reply(await removals.versions(body.after))


async def verify(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    body = await read_json(request, Verification)
    await housekeeping.verify(path_id(request, "object_id"), ok=body.ok)
    return reply(Empty())


async def unverified(request: web.Request) -> web.Response:
    return reply(HousedObjects(items=await (await _housekeeping(request)).unverified(_limit(request))))


async def doom(request: web.Request) -> web.Response:
    return reply(Collected(done=await (await _housekeeping(request)).doom(_limit(request))))


async def doomed(request: web.Request) -> web.Response:
    return reply(HousedObjects(items=await (await _housekeeping(request)).doomed(_limit(request))))


async def forget(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    body = await read_json(request, Forgotten)
    return reply(Collected(done=await housekeeping.forget(body.ids)))


async def known(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    body = await read_json(request, KnownObjects)
    return reply(Known(keys=await housekeeping.known(body.keys)))


async def between(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    body = await read_json(request, KeyRange)
    return reply(HousedObjects(items=await housekeeping.between(body.after, body.up_to, MAX_KEYS)))


async def alive(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    body = await read_json(request, ObjectIds)
    return reply(Alive(ids=await housekeeping.alive(body.ids)))


async def uses(request: web.Request) -> web.Response:
    housekeeping = await _housekeeping(request)
    body = await read_json(request, ObjectIds)
    return reply(Uses(items=await housekeeping.uses(body.ids)))


async def check(request: web.Request) -> web.Response:
    require_service(request)
    await request.app[SCHEMA].check()
    body = await read_json(request, Check)
    return reply(await request.app[CONSISTENCY].check(body))


async def measure_usage(request: web.Request) -> web.Response:
    require_service(request)
    await request.app[SCHEMA].check()
    body = await read_json(request, Place)
    return reply(await request.app[COSTS].measure(body.after))


def _limit(request: web.Request) -> int:
    text = query_text(request, {"limit": "100"})["limit"]
    return whole_number(text, "limit", low=1, high=MAX_KEYS)


def add(app: web.Application) -> None:
    """Route the internal endpoints."""
    app.add_routes([
        web.post("/internal/namespaces", create_namespace),
        web.delete("/internal/namespaces/{namespace_id}", remove_namespace),
        web.post("/internal/namespaces/purge", purge),
        web.post("/internal/trash/purge", purge_trash),
        web.post("/internal/versions/expire", expire_versions),
        web.post("/internal/objects/{object_id}/verification", verify),
        web.get("/internal/objects/unverified", unverified),
        web.post("/internal/objects/doom", doom),
        web.get("/internal/objects/doomed", doomed),
        web.post("/internal/objects/forget", forget),
        web.post("/internal/objects/known", known),
        web.post("/internal/objects/between", between),
        web.post("/internal/objects/alive", alive),
        web.post("/internal/objects/uses", uses),
        web.post("/internal/check", check),
        web.post("/internal/usage/measure", measure_usage),
    ])  # fmt: skip
