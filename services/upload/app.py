"""The composition root."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web

from libs.contracts.errors import UnavailableError
from libs.messaging.rabbit import RabbitBus, open_bus
from libs.mongo.client import Database, open_database, ping
from libs.mongo.outbox import Outbox
from libs.mongo.schema import deployment_id, migrate
from libs.mongo.views import Views
from libs.runtime.backoff import Backoff
from libs.runtime.logs import get_logger
from libs.runtime.tasks import running
from libs.storage.owner import claim
from libs.storage.probe import probe
from libs.storage.s3 import S3ObjectStore, open_store
from libs.web.app import add_probe, make_app
from libs.web.auth import AUTH, Authenticator
from services.upload.consumers import handlers
from services.upload.routes import USE_CASES, UseCases, add_routes
from services.upload.service.background import Background
from services.upload.service.bases import Bases
from services.upload.service.completing import Completing
from services.upload.service.composing import Composing
from services.upload.service.deps import Deps
from services.upload.service.ending import Ending
from services.upload.service.housekeeping import Housekeeping
from services.upload.service.multiparts import Multiparts
from services.upload.service.opening import Opening
from services.upload.service.reading import Reading
from services.upload.service.sealing import Sealing
from services.upload.service.settling import Settling
from services.upload.service.transfers import Transfers
from services.upload.service.trust import Trust
from services.upload.service.wakeups import Wakeups
from services.upload.settings import Settings
from services.upload.store.parts import PartStore
from services.upload.store.schema import MIGRATIONS
from services.upload.store.sessions import SessionStore

log = get_logger("app")

_START = Backoff(0.2, 5.0)


class Preparation:
    """What must be done once before the service is ready, tried until it succeeds."""

    def __init__(self, *steps: Callable[[], Awaitable[None]]) -> None:
        self._steps = steps
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Take all steps, each again while its backend is away."""
        for step in self._steps:
            await _until_available(step)
        self._done.set()

    async def probe(self) -> None:
        """Raise `UnavailableError` while steps are left."""
        if not self._done.is_set():
            raise UnavailableError("The service is starting")


async def _until_available(step: Callable[[], Awaitable[None]]) -> None:
    tries = 0
    while True:
        try:
            await step()
        except UnavailableError as error:
            log.warning("start waits", reason=error.detail)
            await asyncio.sleep(_START.delay(tries))
            tries += 1
        else:
            return


def build_app(settings: Settings) -> web.Application:
    """Return the service."""
    app = make_app("upload", settings)
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
    bus = await stack.enter_async_context(open_bus(settings, service="upload"))
    outbox = Outbox(database, "upload", bus, settings)
    background = Background()
    stack.push_async_callback(background.close, settings.shutdown_timeout)

    deps = _deps(settings, database, outbox, objects)
    use_cases, settling = _use_cases(deps, background)
    app[USE_CASES] = use_cases
    app[AUTH] = Authenticator(settings, deps.views)
    await app[AUTH].follow(bus)
    await bus.consume("upload", handlers(settling), probe=lambda: ping(database))

    preparation = Preparation(
        lambda: migrate(database, "upload", MIGRATIONS),
        lambda: _prepare_s3(settings, objects, database),
        deps.trust.first_look,
    )
    look = partial(probe, settings, objects)
    await stack.enter_async_context(running(outbox.run, preparation.run, partial(deps.trust.find_out, look)))
    _add_probes(app, database, bus, objects, preparation)


def _deps(settings: Settings, database: Database, outbox: Outbox, objects: S3ObjectStore) -> Deps:
    sessions = SessionStore(database, outbox)
    trust = Trust(told=settings.s3_trust_checksums)
    return Deps(settings, sessions, PartStore(database, outbox, sessions), objects, Views(database), trust)


def _use_cases(deps: Deps, background: Background) -> tuple[UseCases, Settling]:
    wakeups, multiparts = Wakeups(), Multiparts(deps)
    ending = Ending(deps)
    completing = Completing(deps, Sealing(deps, multiparts, Composing(deps)), background, wakeups)
    use_cases = UseCases(
        bases=Bases(deps),
        opening=Opening(deps, multiparts),
        transfers=Transfers(deps, multiparts),
        completing=completing,
        ending=ending,
        reading=Reading(deps, multiparts),
        housekeeping=Housekeeping(deps, completing, ending),
    )
    return use_cases, Settling(deps, ending, wakeups)


async def _prepare_s3(settings: Settings, objects: S3ObjectStore, database: Database) -> None:
    await objects.ensure_bucket()
    if settings.s3_check_owner:
        await claim(objects, await deployment_id(database))
    log.info(
        "object store is ready",
        bucket=settings.s3_bucket,
        single_put_bytes=settings.single_put_bytes,
        part_bytes=settings.part_bytes,
    )


def _add_probes(
    app: web.Application, database: Database, bus: RabbitBus, objects: S3ObjectStore, preparation: Preparation
) -> None:
    add_probe(app, "start", preparation.probe)
    add_probe(app, "database", lambda: ping(database))
    add_probe(app, "bus", bus.ping)
    add_probe(app, "s3", objects.ping)
