"""The janitor's parts on a stack whose own janitor rests, so that a test decides when what is done."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from libs.mongo.client import Database, open_database
from libs.mongo.views import Views
from libs.storage.s3 import S3ObjectStore, open_store
from libs.web.auth import TokenSigner
from libs.web.client import open_client
from services.janitor.service.findings import Report
from services.janitor.service.housekeeping import Housekeeping
from services.janitor.service.jobs import Jobs
from services.janitor.service.sweep import Sweep
from services.janitor.service.verification import Verifier
from services.janitor.settings import Settings
from tests.support.gateway_client import Api, open_api
from tests.support.stack import Stack


@dataclass
class JanitorWorld:
    """What the janitor works with, and a client of the gateway."""

    stack: Stack
    settings: Settings
    api: Api
    jobs: Jobs
    store: S3ObjectStore
    database: Database
    housekeeping: Housekeeping

    async def sweep(self, *, repair: bool = False, store: Any = None, **changed: Any) -> Report:
        """Sweep once; `store` stands in for S3, `changed` are settings."""
        settings = self.settings.model_copy(update=changed)
        views = Views(self.database)
        return await Sweep(settings, self.housekeeping, store or self.store, views).run(repair=repair)


def settings_of(stack: Stack, **changed: Any) -> Settings:
    """The janitor's settings on this stack: nothing waits for anything to grow old."""
    given = {name.removeprefix("LOCKSTEP_").lower(): value for name, value in stack.env.items()}
    now = {"port": 0, "sweep_grace": 0, "epoch_quiet": 0, "sweep_recheck": 0}
    return Settings.model_validate({**given, **now, **changed})


@asynccontextmanager
async def janitor_world(stack: Stack) -> AsyncIterator[JanitorWorld]:
    """Open everything."""
    settings = settings_of(stack)
    async with AsyncExitStack() as exits:
        database = await exits.enter_async_context(open_database(settings))
        store = await exits.enter_async_context(open_store(settings))
        client = await exits.enter_async_context(open_client(TokenSigner(settings), "janitor", timeout=60))
        api = await exits.enter_async_context(open_api(stack.gateway_url))
        housekeeping = Housekeeping(
            client, metadata_url=settings.metadata_url, upload_url=settings.upload_url
        )
        jobs = Jobs(settings, housekeeping, store, Views(database), Verifier(store, housekeeping))
        yield JanitorWorld(stack, settings, api, jobs, store, database, housekeeping)
