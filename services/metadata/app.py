"""Composition root of the metadata service."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

from aiohttp import web

from libs.messaging.rabbit import RabbitBus, open_bus
from libs.mongo.client import Database, open_database, ping
from libs.mongo.outbox import Outbox
from libs.mongo.schema import Schema
from libs.mongo.views import Views
from libs.runtime.tasks import running
from libs.web.app import add_probe, make_app
from libs.web.auth import AUTH, Authenticator
from services.metadata.consumers import handlers
from services.metadata.domain.model import Rules
from services.metadata.domain.retention import Retention
from services.metadata.routes import add_routes
from services.metadata.routes.keys import (
    CONSISTENCY,
    COSTS,
    FEED,
    HOUSEKEEPING,
    READING,
    REMOVALS,
    SCHEMA,
    TREE,
)
from services.metadata.service.changes import Changes
from services.metadata.service.consistency import Consistency
from services.metadata.service.costs import CostService
from services.metadata.service.feed import FeedService
from services.metadata.service.housekeeping import Housekeeping
from services.metadata.service.reading import ReadService
from services.metadata.service.removals import Removals
from services.metadata.service.tree import TreeService
from services.metadata.settings import Settings
from services.metadata.store.changes import ChangeStore
from services.metadata.store.consistency import ConsistencyStore
from services.metadata.store.costs import CostStore
from services.metadata.store.history import HistoryStore
from services.metadata.store.namespaces import EpochStore, NamespaceStore
from services.metadata.store.objects import ObjectStore
from services.metadata.store.purge import PurgeStore
from services.metadata.store.reads import ReadStore
from services.metadata.store.schema import migrations
from services.metadata.store.trash import TrashStore

SERVICE = "metadata"


def build_app(settings: Settings) -> web.Application:
    """Return the application; it opens what it needs when it starts."""
    app = make_app(SERVICE, settings)
    add_routes(app)
    app.cleanup_ctx.append(lambda app: _lifetime(app, settings))
    return app


async def _lifetime(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        bus = await stack.enter_async_context(open_bus(settings, service=SERVICE))
        outbox = Outbox(database, SERVICE, bus, settings)
        schema = app[SCHEMA] = Schema(database, SERVICE, migrations(settings.commit_record_seconds))
        _compose(app, settings, database, outbox)
        await app[AUTH].follow(bus)
        _add_probes(app, database, bus)
        await bus.consume(SERVICE, handlers(app[TREE], schema), probe=lambda: _can_commit(database, schema))
        await stack.enter_async_context(running(outbox.run, schema.bring_up))
        yield


def _compose(app: web.Application, settings: Settings, database: Database, outbox: Outbox) -> None:
    views, reads = Views(database), ReadStore(database)
    epochs = EpochStore(database, believed_seconds=settings.epoch_refresh_seconds)
    rules = Rules(settings.max_depth, settings.max_unseen_rows, settings.quota_bytes)
    changes = Changes(ChangeStore(database, outbox, rules, _now), settings.max_transaction_ops)
    retention = Retention(settings.retention_versions, timedelta(seconds=settings.retention_version_seconds))
    app[AUTH] = Authenticator(settings, views)
    app[TREE] = TreeService(changes, outbox)
    costs = app[COSTS] = CostService(settings, database, CostStore(database, _now))
    app[READING] = ReadService(reads, views, costs, retention, settings.quota_bytes)
    app[FEED] = FeedService(reads, epochs, views)
    app[HOUSEKEEPING] = Housekeeping(
        settings,
        changes,
        NamespaceStore(database, _now),
        ObjectStore(database, _now),
    )
    app[CONSISTENCY] = Consistency(database, views, changes, ConsistencyStore(database, _now))
    app[REMOVALS] = Removals(
        PurgeStore(database, _now),
        TrashStore(database, reads, timedelta(seconds=settings.retention_trash_seconds), _now),
        HistoryStore(database, retention, _now),
    )


def _now() -> datetime:
    return datetime.now(UTC)


async def _can_commit(database: Database, schema: Schema) -> None:
    await schema.check()
    await ping(database)


def _add_probes(app: web.Application, database: Database, bus: RabbitBus) -> None:
    add_probe(app, "database", lambda: ping(database))
    add_probe(app, "schema", app[SCHEMA].check)
    add_probe(app, "bus", bus.ping)
