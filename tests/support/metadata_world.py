"""The metadata service in this process, on real backends; uploads are played by the test."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import SecretStr

from libs.contracts.events import (
    CommitRejected,
    Envelope,
    EventData,
    FileCommitted,
    TreeChanged,
    UploadCompleted,
    UploadedEntry,
    UploadedObject,
    unwrap,
    wrap,
)
from libs.contracts.ids import new_id
from libs.contracts.tree import CommitTarget
from libs.messaging.rabbit import RabbitBus, open_bus
from libs.mongo.client import Database, open_database
from libs.mongo.names import DEVICES
from libs.web.auth import TokenSigner
from services.metadata.app import build_app
from services.metadata.settings import Settings
from tests.support.backends import Backends
from tests.support.waiting import eventually

Json = dict[str, Any]
Verdict = FileCommitted | CommitRejected


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Json
    headers: Mapping[str, str] = field(repr=False)

    @property
    def code(self) -> str | None:
        return self.body.get("code")


@dataclass(frozen=True, slots=True)
class Account:
    user_id: str
    namespace_id: str
    device_id: str


def entry(
    index: int,
    content: bytes,
    *,
    verified: bool = True,
    object_id: str | None = None,
    prefix: str = "t/test/",
    **target: Any,
) -> UploadedEntry:
    """One file of a completion; with `object_id` it refers to an object that is there already."""
    stored = UploadedObject(
        id=object_id or new_id(),
        key=f"{prefix}{new_id()}",
        size=len(content),
        content_hash=sha256(content),
        verified=verified,
        existing=object_id is not None,
    )
    return UploadedEntry(index=index, object=stored, target=CommitTarget(**target))


@dataclass
class World:
    """A running metadata service and everything around it."""

    settings: Settings
    url: str
    session: aiohttp.ClientSession
    database: Database
    signer: TokenSigner
    bus: RabbitBus
    seen: list[EventData]

    async def account(self) -> Account:
        """Make an account as the gateway does."""
        account = Account(new_id(), new_id(), new_id())
        device = {"_id": account.device_id, "user_id": account.user_id, "name": "laptop", "revoked_at": None}
        await self.database[DEVICES].insert_one(device)
        body = {"namespace_id": account.namespace_id, "user_id": account.user_id}
        answer = await self.internal("POST", "/namespaces", body)
        assert answer.status == 200, answer
        return account

    async def call(
        self, account: Account, method: str, path: str, body: object = None, /, **query: Any
    ) -> Answer:
        token = self.signer.access_token(account.user_id, account.device_id, account.namespace_id)
        return await self._request(method, f"{self.url}/v1{path}", body, token, query)

    async def get(self, account: Account, path: str, /, **query: Any) -> Answer:
        return await self.call(account, "GET", path, None, **query)

    async def internal(self, method: str, path: str, body: object = None, /, **query: Any) -> Answer:
        return await self._request(
            method, f"{self.url}/internal{path}", body, self.signer.service_token("test"), query
        )

    async def _request(self, method: str, url: str, body: object, token: str, query: Json) -> Answer:
        headers = {"Authorization": f"Bearer {token}"}
        params = {name: str(value) for name, value in query.items()}
        async with self.session.request(method, url, json=body, headers=headers, params=params) as answer:
            return Answer(answer.status, await answer.json(content_type=None), dict(answer.headers))

    async def folder(self, account: Account, name: str, parent_id: str | None = None, **more: Any) -> Json:
        body = {"parent_id": parent_id or account.namespace_id, "name": name, **more}
        answer = await self.call(account, "POST", "/folders", body)
        assert answer.status == 201, answer
        return answer.body

    async def batch(self, account: Account, *ops: Json) -> list[Json]:
        answer = await self.call(account, "POST", "/files/batch", {"ops": list(ops)})
        assert answer.status == 200, answer
        return list(answer.body["items"])

    # Commits --------------------------------------------------------------------------------

    def completed(
        self,
        account: Account,
        entries: Sequence[UploadedEntry],
        *,
        upload_id: str | None = None,
        attempt: int = 1,
    ) -> UploadCompleted:
        return UploadCompleted(
            namespace_id=account.namespace_id,
            user_id=account.user_id,
            device_id=account.device_id,
            upload_id=upload_id or new_id(),
            attempt=attempt,
            device_name="laptop",
            entries=list(entries),
        )

    async def publish(self, event: EventData) -> None:
        await self.bus.publish(wrap(event, source="test"), event.routing_key())

    def verdicts(self, upload_id: str) -> list[Verdict]:
        return [
            event
            for event in self.seen
            if isinstance(event, FileCommitted | CommitRejected) and event.upload_id == upload_id
        ]

    async def verdict(self, event: UploadCompleted, *, times: int = 1) -> Verdict:
        """Publish a completion and wait for its (`times`-th) end."""
        await self.publish(event)
        await eventually(_holds(lambda: len(self.verdicts(event.upload_id)) >= times), seconds=20)
        return self.verdicts(event.upload_id)[times - 1]

    async def commit(self, account: Account, content: bytes, **target: Any) -> Json:
        """Commit one file; return its row."""
        mine = entry(0, content, prefix=f"t/{account.namespace_id}/", **target)
        done = await self.verdict(self.completed(account, [mine]))
        assert isinstance(done, FileCommitted), done
        row = done.results[0].row
        assert row is not None
        return row.model_dump(mode="json")

    async def file(
        self, account: Account, name: str, content: bytes = b"content", parent_id: str | None = None
    ) -> Json:
        return await self.commit(account, content, parent_id=parent_id or account.namespace_id, name=name)

    async def refused(self, account: Account, content: bytes, **target: Any) -> Json:
        """Commit one file that must be refused; return the result."""
        done = await self.verdict(self.completed(account, [entry(0, content, **target)]))
        assert isinstance(done, CommitRejected), done
        return done.results[0].model_dump(mode="json")

    # Events and feed -------------------------------------------------------------------------

    def changes(self, account: Account) -> list[TreeChanged]:
        return [
            event
            for event in self.seen
            if isinstance(event, TreeChanged) and event.namespace_id == account.namespace_id
        ]

    async def feed(
        self, account: Account, cursor: str | None = None, limit: int = 1000
    ) -> tuple[list[Json], str]:
        """Read the feed to its end; return all rows and the last cursor."""
        rows: list[Json] = []
        while True:
            query: Json = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
            answer = await self.get(account, "/sync", **query)
            assert answer.status == 200, answer
            rows += answer.body["items"]
            cursor = str(answer.body["cursor"])
            if not answer.body["has_more"]:
                return rows, cursor


def _holds(condition: Callable[[], bool]) -> Callable[[], Any]:
    async def check() -> bool:
        return condition()

    return check


def settings_for(backends: Backends, **changed: Any) -> Settings:
    own = f"m{secrets.token_hex(6)}"
    values: Json = {
        "port": 0,
        "amqp_url": SecretStr(backends.amqp_url),
        "amqp_prefix": own,
        "mongo_url": SecretStr(backends.mongo_url),
        "mongo_database": own,
        "token_secret": SecretStr(secrets.token_hex(32)),
        "auth_cache_seconds": 0,
        "epoch_refresh_seconds": 0.05,
    }
    return Settings(**{**values, **changed})


@asynccontextmanager
async def started_app(settings: Settings) -> AsyncIterator[str]:
    """Run the service, ready or not; gives its URL."""
    runner = web.AppRunner(build_app(settings), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running_app(settings: Settings) -> AsyncIterator[str]:
    """Run the service; gives its URL once it is ready."""
    async with started_app(settings) as url:
        async with aiohttp.ClientSession() as session:
            await eventually(lambda: _ready(session, url), seconds=30)
        yield url


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(f"{url}/readyz") as answer:
        return answer.status == 200


@asynccontextmanager
async def metadata_world(backends: Backends, **changed: Any) -> AsyncIterator[World]:
    """Open everything; `changed` are settings of the service."""
    settings = settings_for(backends, **changed)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(open_bus(settings, service="test"))
        await bus.wait_ready()
        seen: list[EventData] = []
        await bus.listen(("#",), _collector(seen))
        database = await stack.enter_async_context(open_database(settings))
        stack.push_async_callback(database.client.drop_database, settings.mongo_database)
        url = await stack.enter_async_context(running_app(settings))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(settings, url, session, database, TokenSigner(settings), bus, seen)


def _collector(seen: list[EventData]) -> Callable[[Envelope], Any]:
    async def collect(envelope: Envelope) -> None:
        data = unwrap(envelope)
        if data is not None:
            seen.append(data)

    return collect
