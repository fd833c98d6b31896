"""Composition root of the gateway."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web

from libs.contracts.endpoints import ENDPOINTS, Endpoint
from libs.messaging.rabbit import RabbitBus, open_bus
from libs.mongo.client import Database, open_database, ping
from libs.mongo.outbox import Outbox
from libs.mongo.schema import Schema
from libs.mongo.views import Views
from libs.runtime.tasks import running
from libs.web.app import Handler, add_endpoint, add_probe, make_app
from libs.web.auth import AUTH, Authenticator
from libs.web.client import open_client
from services.gateway.routes import accounts, forward
from services.gateway.routes.docs import add_docs
from services.gateway.routes.guard import Guard
from services.gateway.routes.keys import ACCOUNTS, CLOSING, FORWARDER, LINKS, SCHEMA
from services.gateway.service.accounts import Accounts
from services.gateway.service.devices import DeviceLinks
from services.gateway.service.forward import open_forwarder
from services.gateway.service.namespaces import Namespaces
from services.gateway.service.passwords import Passwords
from services.gateway.settings import Settings
from services.gateway.store import MIGRATIONS, Devices, Users

SERVICE = "gateway"


def build_app(settings: Settings) -> web.Application:
    """Return the application; it opens what it needs when it starts."""
    app = make_app(SERVICE, settings)
    guard = Guard(settings)
    for endpoint in ENDPOINTS:
        add_endpoint(app, endpoint, _handler(guard, endpoint))
    add_docs(app)
    app.on_shutdown.append(_close_streams)
    app.cleanup_ctx.append(lambda app: _lifetime(app, settings))
    return app


def _handler(guard: Guard, endpoint: Endpoint) -> Handler:
    if endpoint.service != SERVICE:
        return guard.closed(endpoint, forward.forwarding(endpoint))
    if endpoint.auth:
        return guard.closed(endpoint, accounts.CLOSED[endpoint.name])
    return guard.open(endpoint, accounts.OPEN[endpoint.name])


async def _lifetime(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    app[CLOSING] = asyncio.Event()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        bus = await stack.enter_async_context(open_bus(settings, service=SERVICE))
        outbox = Outbox(database, SERVICE, bus, settings)
        schema = app[SCHEMA] = Schema(database, SERVICE, MIGRATIONS)
        auth = app[AUTH] = Authenticator(settings, Views(database))
        await _compose(app, settings, stack, database=database, outbox=outbox)
        await auth.follow(bus)
        _add_probes(app, database, bus)
        await stack.enter_async_context(running(outbox.run, schema.bring_up))
        yield


async def _compose(
    app: web.Application, settings: Settings, stack: AsyncExitStack, *, database: Database, outbox: Outbox
) -> None:
    auth = app[AUTH]
    client = await stack.enter_async_context(open_client(auth.signer, SERVICE))
    links = app[LINKS] = DeviceLinks(
        Devices(database, outbox),
        auth,
        key=hashlib.sha256(settings.token_secret.get_secret_value().encode()).digest(),
        last_seen_interval=settings.last_seen_interval,
    )
    namespaces = Namespaces(client, settings.metadata_url)
    app[ACCOUNTS] = Accounts(Users(database), links, namespaces, Passwords(settings))
    app[FORWARDER] = await stack.enter_async_context(open_forwarder(settings))


def _add_probes(app: web.Application, database: Database, bus: RabbitBus) -> None:
    async def database_answers() -> None:
        await ping(database)

    add_probe(app, "database", database_answers)
    add_probe(app, "schema", app[SCHEMA].check)
    add_probe(app, "bus", bus.ping)


async def _close_streams(app: web.Application) -> None:
    app[CLOSING].set()
