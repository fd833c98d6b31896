"""The composition root."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web

from libs.messaging.rabbit import open_bus
from libs.mongo.client import open_database, ping
from libs.mongo.views import Views
from libs.storage.s3 import open_store
from libs.web.app import add_probe, make_app
from libs.web.auth import AUTH, Authenticator
from services.download.routes import DELTAS, DOWNLOADS, add_routes
from services.download.service.deltas import Deltas
from services.download.service.files import Downloads
from services.download.service.manifests import Manifests
from services.download.settings import Settings
from services.download.store import Reads


def build_app(settings: Settings) -> web.Application:
    """Return the service."""
    app = make_app("download", settings)
    add_routes(app)

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(app, settings, stack)
            yield

    app.cleanup_ctx.append(lifetime)
    return app


async def _start(app: web.Application, settings: Settings, stack: AsyncExitStack) -> None:
    database = await stack.enter_async_context(open_database(settings))
    objects = await stack.enter_async_context(open_store(settings))
    bus = await stack.enter_async_context(open_bus(settings, service="download"))
    views = Views(database)
    app[AUTH] = Authenticator(settings, views)
    app[DOWNLOADS] = downloads = Downloads(Reads(views), objects)
    manifests = Manifests(
        objects, cache_bytes=settings.manifest_cache_bytes, small_bytes=settings.small_manifest_bytes
    )
    app[DELTAS] = Deltas(downloads, manifests, settings.max_recipe_bytes)
    await app[AUTH].follow(bus)
    add_probe(app, "database", lambda: ping(database))
    add_probe(app, "bus", bus.ping)
    add_probe(app, "s3", objects.ping)
