"""HTTP: requests to use cases."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from libs.contracts import api
from libs.contracts.errors import InvalidRequestError
from libs.contracts.ids import SHA256_PATTERN
from libs.contracts.internal import CheckParts, KnownUploads
from libs.contracts.tree import CommitTarget
from libs.web.app import Handler, add_endpoints, done, page_limit, path_id, query_text, read_json, reply
from libs.web.auth import AUTH, Caller, caller_of, namespace_of, require_service
from services.upload.domain.modes import Announced
from services.upload.domain.session import Device, Owner, Session
from services.upload.service.bases import Bases
from services.upload.service.completing import Completing
from services.upload.service.ending import Ending
from services.upload.service.housekeeping import Housekeeping
from services.upload.service.opening import Opening, Wish
from services.upload.service.reading import Listing, Reading
from services.upload.service.transfers import Parts, Transfers


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the routes call."""

    bases: Bases
    opening: Opening
    transfers: Transfers
    completing: Completing
    ending: Ending
    reading: Reading
    housekeeping: Housekeeping


USE_CASES: Final = web.AppKey("use_cases", UseCases)
_SHA256: Final = re.compile(SHA256_PATTERN)


def add_routes(app: web.Application) -> None:
    """Route the endpoints of this service."""
    add_endpoints(app, "upload", HANDLERS)
    for path, handler in INTERNAL.items():
        app.router.add_post(f"/internal/uploads/{path}", handler)


# Sessions ----------------------------------------------------------------------------------


async def create_upload(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    asked = await read_json(request, api.UploadRequest)
    namespace_id = await namespace_of(request, caller, asked.namespace_id)
    file = Announced(asked.content_hash, asked.size, asked.path)
    check = partial(_check_member, request, caller)
    offer = await request.app[USE_CASES].bases.offer_of(asked.delta, asked.size, check)
    wish = Wish(asked.throughput, asked.send_anyway, offer)
    return _created(await request.app[USE_CASES].opening.single(_owner(caller), namespace_id, file, wish))


async def _check_member(request: web.Request, caller: Caller, namespace_id: str) -> None:
    await request.app[AUTH].check_member(caller, namespace_id)


async def create_upload_batch(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    asked = await read_json(request, api.UploadBatchRequest)
    namespace_id = await namespace_of(request, caller, asked.namespace_id)
    files = [Announced(item.content_hash, item.size, item.path) for item in asked.items]
    return _created(await request.app[USE_CASES].opening.batch(_owner(caller), namespace_id, files))


async def list_uploads(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    query = query_text(request, {"state": "open", "content_hash": None, "cursor": None, "limit": None})
    listing = Listing(
        live=_is_live(query["state"]),
        content_hash=_content_hash(query["content_hash"]),
        cursor=query["cursor"],
        limit=page_limit(query["limit"]),
    )
    return reply(await request.app[USE_CASES].reading.page(_owner(caller), listing))


async def get_upload(request: web.Request) -> web.Response:
    _, session = await _session_of(request)
    return reply(await request.app[USE_CASES].reading.show(session))


async def abort_upload(request: web.Request) -> web.Response:
    _, session = await _session_of(request)
    await request.app[USE_CASES].ending.give_up(session)
    return done()


# Bytes -------------------------------------------------------------------------------------


async def upload_urls(request: web.Request) -> web.Response:
    owner, session = await _session_of(request)
    asked = await read_json(request, api.UrlsRequest)
    transfers = request.app[USE_CASES].transfers
    if asked.parts is not None:
        return reply(await transfers.part_urls(session, owner.device, Parts(asked.parts, asked.delta)))
    return reply(await transfers.entry_urls(session, owner.device, asked.entries or []))


async def record_parts(request: web.Request) -> web.Response:
    owner, session = await _session_of(request)
    asked = await read_json(request, api.PartsRequest)
    parts = Parts(asked.parts, asked.delta)
    return reply(await request.app[USE_CASES].transfers.record(session, owner.device, parts))


# Completing --------------------------------------------------------------------------------


async def complete_upload(request: web.Request) -> web.Response:
    owner, session = await _session_of(request)
    target = await read_json(request, CommitTarget)
    if session.batch:
        raise InvalidRequestError("This session has many entries: use complete-batch")
    return await _complete(request, session, owner, {0: target})


async def complete_upload_batch(request: web.Request) -> web.Response:
    owner, session = await _session_of(request)
    asked = await read_json(request, api.CompleteBatch)
    if not session.batch:
        raise InvalidRequestError("This session has one entry: use complete")
    targets = {item.index: _target(item) for item in asked.items}
    if len(targets) != len(asked.items):
        raise InvalidRequestError("An index is given twice")
    return await _complete(request, session, owner, targets)


def _target(item: api.CompleteItem) -> CommitTarget:
    return CommitTarget.model_validate(item.model_dump(exclude={"index"}))


async def _complete(
    request: web.Request, session: Session, owner: Owner, targets: dict[int, CommitTarget]
) -> web.Response:
    answer = await request.app[USE_CASES].completing.complete(session, owner.device, targets)
    if answer.location is None:
        return reply(answer)
    return reply(answer, status=202, headers={"Location": answer.location, "Retry-After": "1"})


# Internal ----------------------------------------------------------------------------------


async def expire(request: web.Request) -> web.Response:
    require_service(request)
    return reply(await request.app[USE_CASES].housekeeping.expire())


async def redrive(request: web.Request) -> web.Response:
    require_service(request)
    return reply(await request.app[USE_CASES].housekeeping.redrive())


async def known(request: web.Request) -> web.Response:
    require_service(request)
    asked = await read_json(request, KnownUploads)
    return reply(await request.app[USE_CASES].housekeeping.known(asked))


async def check_parts(request: web.Request) -> web.Response:
    require_service(request)
    asked = await read_json(request, CheckParts)
    housekeeping = request.app[USE_CASES].housekeeping
    return reply(await housekeeping.check_parts(asked.after, repair=asked.repair))


# Reading requests --------------------------------------------------------------------------


async def _session_of(request: web.Request) -> tuple[Owner, Session]:
    """Return the caller and the session of the path, which must be the caller's and reachable."""
    caller = await caller_of(request)
    owner = _owner(caller)
    session = await request.app[USE_CASES].reading.mine(owner, path_id(request, "upload_id"))
    await request.app[AUTH].check_member(caller, session.namespace_id)
    return owner, session


def _owner(caller: Caller) -> Owner:
    return Owner(caller.user_id, Device(caller.device_id, caller.device_name))


def _created(upload: api.Upload) -> web.Response:
    return reply(upload, status=201, headers={"Location": f"/v1/uploads/{upload.id}"})


def _is_live(state: str | None) -> bool:
    if state not in {"open", "all"}:
        raise InvalidRequestError("state must be open or all")
    return state == "open"


def _content_hash(text: str | None) -> str | None:
    if text is not None and not _SHA256.match(text):
        raise InvalidRequestError("content_hash must be a SHA-256 in hex")
    return text


HANDLERS: Final[Mapping[str, Handler]] = {
    "create_upload": create_upload,
    "create_upload_batch": create_upload_batch,
    "list_uploads": list_uploads,
    "get_upload": get_upload,
    "upload_urls": upload_urls,
    "record_parts": record_parts,
    "complete_upload": complete_upload,
    "complete_upload_batch": complete_upload_batch,
    "abort_upload": abort_upload,
}

INTERNAL: Final[Mapping[str, Handler]] = {
    "expire": expire,
    "redrive": redrive,
    "known": known,
    "check-parts": check_parts,
}
