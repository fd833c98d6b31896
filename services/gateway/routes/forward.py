"""Endpoints of the other services: handed on by the table of endpoints."""

import asyncio
from typing import Final

import aiohttp
from aiohttp import web

from libs.contracts.endpoints import Endpoint
from libs.contracts.errors import QuotaError
from libs.runtime.logs import current_request_id
from libs.web.app import REQUEST_ID_HEADER
from libs.web.auth import Caller
from services.gateway.routes.guard import CallerHandler
from services.gateway.routes.keys import CLOSING, FORWARDER
from services.gateway.service.forward import Outgoing, kept_request_headers, stream_headers

_LOOK_SECONDS: Final = 5.0
"""How often a quiet stream is looked at for a client that has gone."""


def forwarding(endpoint: Endpoint) -> CallerHandler:
    """Return the handler of an endpoint that another service serves."""

    async def send(request: web.Request, _caller: Caller) -> web.StreamResponse:
        answer = await request.app[FORWARDER].send(endpoint.service, await _outgoing(request))
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def stream(request: web.Request, _caller: Caller) -> web.StreamResponse:
        async with request.app[FORWARDER].stream(endpoint.service, await _outgoing(request)) as upstream:
            return await _copy(request, upstream)

    return stream if endpoint.stream else send


async def _outgoing(request: web.Request) -> Outgoing:
    headers = kept_request_headers(request.headers)
    headers[REQUEST_ID_HEADER] = current_request_id() or ""
    body = await _body(request) if request.can_read_body else None
    return Outgoing(request.method, request.rel_url.raw_path_qs, headers, body)


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise QuotaError(code="payload_too_large") from error


async def _copy(request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    """Copy as bytes come, until either side or this process ends."""
    response = web.StreamResponse(status=upstream.status, headers=stream_headers(upstream))
    await response.prepare(request)
    closing = asyncio.create_task(request.app[CLOSING].wait())
    chunks = asyncio.create_task(_pump(request, upstream, response))
    try:
        await asyncio.wait({closing, chunks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (closing, chunks):
            task.cancel()
        await asyncio.gather(closing, chunks, return_exceptions=True)
    return response


async def _pump(request: web.Request, upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    reader = asyncio.create_task(upstream.content.readany())
    try:
        while not _gone(request):
            await asyncio.wait({reader}, timeout=_LOOK_SECONDS)
            if not reader.done():
                continue
            chunk = reader.result()
            if not chunk:
                return
            await response.write(chunk)
            reader = asyncio.create_task(upstream.content.readany())
    except (aiohttp.ClientError, ConnectionError):
        return  # one of the sides went away: so does the other
    finally:
        reader.cancel()


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
