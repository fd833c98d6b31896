"""Composition root of the notification service."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web

from libs.messaging.rabbit import open_bus
from libs.mongo.client import open_database, ping
from libs.mongo.views import Views
from libs.web.app import add_endpoints, add_probe, make_app
from libs.web.auth import AUTH, Authenticator
from services.notification.consumers import follow
from services.notification.routes import HUB, SETTINGS, VIEWS, events
from services.notification.service import Hub
from services.notification.settings import Settings

SERVICE = "notification"


def build_app(settings: Settings) -> web.Application:
    """Return the application; it opens what it needs when it starts."""
    app = make_app(SERVICE, settings)
    app[SETTINGS] = settings
    add_endpoints(app, SERVICE, {"events": events})
    app.on_shutdown.append(_close_streams)
    app.cleanup_ctx.append(_lifetime)
    return app


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        bus = await stack.enter_async_context(open_bus(settings, service=SERVICE))
        views = app[VIEWS] = Views(database)
        auth = app[AUTH] = Authenticator(settings, views)
        hub = app[HUB] = Hub(settings, views)

        async def database_answers() -> None:
            await ping(database)

        await auth.follow(bus)
        await follow(bus, hub)
        add_probe(app, "database", database_answers)
        add_probe(app, "bus", bus.ping)
        yield


async def _close_streams(app: web.Application) -> None:
    app[HUB].close()
