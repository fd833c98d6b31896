"""Endpoints of accounts and devices."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from libs.contracts import api
from libs.web.app import Handler, done, path_id, read_json, reply
from libs.web.auth import Caller
from services.gateway.routes.guard import CallerHandler
from services.gateway.routes.keys import ACCOUNTS, LINKS

_NO_STORE: Final = {"Cache-Control": "no-store"}


async def register(request: web.Request) -> web.Response:
    tokens = await request.app[ACCOUNTS].register(await read_json(request, api.Credentials))
    return reply(tokens, status=201, headers=_NO_STORE)


async def login(request: web.Request) -> web.Response:
    tokens = await request.app[ACCOUNTS].login(await read_json(request, api.Credentials))
    return reply(tokens, headers=_NO_STORE)


async def refresh(request: web.Request) -> web.Response:
    body = await read_json(request, api.RefreshRequest)
    tokens = await request.app[LINKS].refresh(body.refresh_token.get_secret_value())
    return reply(tokens, headers=_NO_STORE)


async def logout(request: web.Request, caller: Caller) -> web.Response:
    await request.app[LINKS].revoke(caller, caller.device_id)
    return done()


async def change_password(request: web.Request, caller: Caller) -> web.Response:
    await request.app[ACCOUNTS].change_password(caller, await read_json(request, api.PasswordChange))
    return done()


async def delete_account(request: web.Request, caller: Caller) -> web.Response:
    body = await read_json(request, api.AccountDeletion)
    await request.app[ACCOUNTS].delete(caller, body.password.get_secret_value())
    return done()


async def list_devices(request: web.Request, caller: Caller) -> web.Response:
    return reply(await request.app[LINKS].listed(caller))


async def revoke_device(request: web.Request, caller: Caller) -> web.Response:
    await request.app[LINKS].revoke(caller, path_id(request, "device_id"))
    return done()


OPEN: Final[Mapping[str, Handler]] = {"register": register, "login": login, "refresh": refresh}
"""Endpoints that need no token."""

CLOSED: Final[Mapping[str, CallerHandler]] = {
    "logout": logout,
    "change_password": change_password,
    "delete_account": delete_account,
    "list_devices": list_devices,
    "revoke_device": revoke_device,
}
