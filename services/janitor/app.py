"""Composition root of the janitor."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

from aiohttp import web

from libs.contracts.errors import UnavailableError
from libs.contracts.ids import new_id
from libs.messaging.rabbit import open_bus
from libs.mongo.client import Database, open_database, ping
from libs.mongo.views import Views
from libs.runtime.tasks import running
from libs.storage.s3 import S3ObjectStore, open_store
from libs.web.app import add_probe, make_app
from libs.web.auth import TokenSigner
from libs.web.client import open_client
from services.janitor.consumers import handlers
from services.janitor.service.findings import Report
from services.janitor.service.housekeeping import Housekeeping
from services.janitor.service.jobs import Jobs
from services.janitor.service.schedule import Job, Schedule
from services.janitor.service.sweep import Sweep
from services.janitor.service.verification import Verifier
from services.janitor.settings import Settings
from services.janitor.store import Leases

SERVICE = "janitor"


def build_app(settings: Settings) -> web.Application:
    """Return the application; it opens what it needs when it starts."""
    app = make_app(SERVICE, settings)
    app.cleanup_ctx.append(lambda app: _lifetime(app, settings))
    return app


async def _lifetime(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        database, store, housekeeping = await _open(settings, stack)
        verifier = Verifier(store, housekeeping)
        jobs = Jobs(settings, housekeeping, store, Views(database), verifier)
        leases = Leases(database, owner=new_id())
        stack.push_async_callback(_release, leases)
        bus = await stack.enter_async_context(open_bus(settings, service=SERVICE))
        probe = partial(ping, database)
        await bus.consume(SERVICE, handlers(verifier), probe=probe)
        for name, asked in (("database", probe), ("bus", bus.ping), ("storage", store.ping)):
            add_probe(app, name, asked)
        await stack.enter_async_context(running(*_work(settings, jobs, verifier, leases)))
        yield


async def _open(settings: Settings, stack: AsyncExitStack) -> tuple[Database, S3ObjectStore, Housekeeping]:
    """Open what every work of the janitor needs."""
    database = await stack.enter_async_context(open_database(settings))
    store = await stack.enter_async_context(open_store(settings))
    client = await stack.enter_async_context(
        open_client(TokenSigner(settings), SERVICE, timeout=settings.janitor_call_timeout)
    )
    urls = {"metadata_url": settings.metadata_url, "upload_url": settings.upload_url}
    return database, store, Housekeeping(client, **urls)


def _work(
    settings: Settings, jobs: Jobs, verifier: Verifier, leases: Leases
) -> list[Callable[[], Awaitable[None]]]:
    schedule = Schedule(leases, settings.janitor_lease)
    table = [partial(schedule.keep, job) for job in jobs_of(settings, jobs)]
    return [*table, *[verifier.run] * settings.verify_concurrency]


def jobs_of(settings: Settings, jobs: Jobs) -> list[Job]:
    """Return the table of periodic jobs."""
    return [
        Job("expire", settings.janitor_expire_interval, jobs.expire),
        Job("redrive", settings.janitor_redrive_interval, jobs.redrive),
        Job("verify", settings.janitor_verify_interval, jobs.find_unverified),
        Job("garbage", settings.janitor_garbage_interval, jobs.collect_garbage),
        Job("sweep", settings.janitor_sweep_interval, jobs.sweep),
        Job("purge", settings.janitor_purge_interval, jobs.purge),
        Job("versions", settings.janitor_versions_interval, jobs.expire_versions),
        Job("usage", settings.janitor_usage_interval, jobs.measure_usage),
        Job("dead letters", settings.janitor_dead_letter_interval, jobs.count_dead_letters, local=True),
    ]


async def sweep_once(settings: Settings, *, repair: bool) -> Report:
    """Sweep without the service around it. Raises `UnavailableError`."""
    async with AsyncExitStack() as stack:
        database, store, housekeeping = await _open(settings, stack)
        return await Sweep(settings, housekeeping, store, Views(database)).run(repair=repair)


async def _release(leases: Leases) -> None:
    with suppress(UnavailableError):  # they run out by themselves
        await leases.release_all()
