"""The upload service in this process, on real backends, with whoever answers its commits under control."""

import hashlib
import io
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import SecretStr

from libs.contracts.events import (
    CommitRejected,
    Envelope,
    EventData,
    FileCommitted,
    UploadCompleted,
    unwrap,
    wrap,
)
from libs.contracts.ids import new_id
from libs.contracts.tree import ItemResult, Kind, NodeRow
from libs.messaging.rabbit import RabbitBus, open_bus
from libs.mongo.client import Database, open_database
from libs.mongo.names import DEVICES, NAMESPACES, OBJECTS
from libs.storage.s3 import S3ObjectStore, open_store
from libs.web.auth import TokenSigner
from services.upload.app import build_app
from services.upload.settings import Settings
from tests.support.backends import Backends
from tests.support.waiting import eventually

Json = dict[str, Any]
Decide = Callable[[UploadCompleted], list[ItemResult] | None]
"""Results of a commit; None: no answer for now."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Json
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Account:
    user_id: str
    namespace_id: str
    devices: list[str]


def accept(event: UploadCompleted) -> list[ItemResult]:
    """Commit every entry."""
    return [ItemResult(index=entry.index, row=row_of(event, entry.index)) for entry in event.entries]


def refuse(code: str) -> Decide:
    """Refuse every entry with this code."""

    def decide(event: UploadCompleted) -> list[ItemResult]:
        return [ItemResult(index=entry.index, code=code) for entry in event.entries]

    return decide


def row_of(event: UploadCompleted, index: int) -> NodeRow:
    entry = next(entry for entry in event.entries if entry.index == index)
    return NodeRow(
        id=entry.target.node_id or new_id(),
        namespace_id=event.namespace_id,
        parent_id=entry.target.parent_id or event.namespace_id,
        name=entry.target.name or "file",
        kind=Kind.FILE,
        version_id=new_id(),
        size=entry.object.size,
        content_hash=entry.object.content_hash,
        seq=1,
        changed_at=datetime.now(UTC),
    )


@dataclass
class Tree:
    """Stands where the tree's owner stands on the bus, and decides as the test says."""

    bus: RabbitBus
    decide: Decide = accept
    asked: list[UploadCompleted] = field(default_factory=list)

    async def on_completed(self, event: UploadCompleted) -> None:
        self.asked.append(event)
        results = self.decide(event)
        if results is not None:
            await self.publish(self.verdict(event, results))

    def verdict(self, event: UploadCompleted, results: list[ItemResult]) -> FileCommitted | CommitRejected:
        common: Json = {
            "namespace_id": event.namespace_id,
            "upload_id": event.upload_id,
            "attempt": event.attempt,
        }
        if not any(result.ok for result in results):
            return CommitRejected(**common, results=results)
        rows = [result.row for result in results if result.row is not None]
        return FileCommitted(**common, results=results, first_seq=1, last_seq=1, changes=rows)

    async def publish(self, event: EventData) -> None:
        await self.bus.publish(wrap(event, source="test"), event.routing_key())


@dataclass
class World:
    """A running upload service and everything around it."""

    settings: Settings
    url: str
    session: aiohttp.ClientSession
    database: Database
    store: S3ObjectStore
    signer: TokenSigner
    tree: Tree
    seen: list[EventData]

    async def account(self, devices: int = 1) -> Account:
        """Make an account as its owners would write it."""
        account = Account(new_id(), new_id(), [new_id() for _ in range(devices)])
        members = [{"user_id": account.user_id, "role": "owner"}]
        await self.database[NAMESPACES].insert_one({"_id": account.namespace_id, "members": members})
        rows = [
            {"_id": device, "user_id": account.user_id, "name": f"device {i}", "revoked_at": None}
            for i, device in enumerate(account.devices)
        ]
        await self.database[DEVICES].insert_many(rows)
        return account

    async def stored_object(self, account: Account, content: bytes, *, verified: bool = True) -> str:
        """Make an object as the tree's owner would write it."""
        object_id = new_id()
        key = f"t/{account.namespace_id}/{new_id()}-0"
        await self.store.put(key, content)
        row = {"_id": object_id, "namespace_id": account.namespace_id, "key": key, "size": len(content)}
        state = {"content_hash": sha256(content), "state": "live", "verified": verified}
        await self.database[OBJECTS].insert_one({**row, **state})
        return object_id

    async def call(
        self, account: Account, method: str, path: str, body: object = None, *, device: int = 0
    ) -> Answer:
        token = self.signer.access_token(account.user_id, account.devices[device], account.namespace_id)
        return await self._request(method, f"{self.url}/v1{path}", body, token)

    async def internal(self, path: str, body: object = None) -> Answer:
        return await self._request(
            "POST", f"{self.url}/internal/uploads/{path}", body, self.signer.service_token("test")
        )

    async def _request(self, method: str, url: str, body: object, token: str) -> Answer:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            content = await answer.json() if answer.content_length else {}
            return Answer(answer.status, content, dict(answer.headers))

    async def send(self, request: Json, content: bytes) -> tuple[int, str]:
        """Carry out a presigned PUT; return status and the error's text."""
        async with self.session.put(
            request["url"],
            data=io.BytesIO(content),
            headers=request["headers"],
            skip_auto_headers=["Content-Type"],
        ) as answer:
            return answer.status, await answer.text()

    async def open(self, account: Account, content: bytes, *, device: int = 0, path: str = "a.txt") -> Json:
        body = {"content_hash": sha256(content), "size": len(content), "path": path}
        answer = await self.call(account, "POST", "/uploads", body, device=device)
        assert answer.status == 201, answer
        return answer.body

    async def opened_and_sent(self, account: Account, content: bytes) -> Json:
        upload = await self.open(account, content)
        status, text = await self.send(upload["entries"][0]["put"], content)
        assert status == 200, text
        return upload

    async def send_parts(self, account: Account, upload: Json, content: bytes, numbers: list[int]) -> None:
        size = upload["part_size"]
        parts = {n: content[(n - 1) * size : n * size] for n in numbers}
        digests = {str(n): sha256(part) for n, part in parts.items()}
        urls = await self.call(account, "POST", f"/uploads/{upload['id']}/urls", {"parts": digests})
        assert urls.status == 200, urls
        for number, part in parts.items():
            status, text = await self.send(urls.body["items"][str(number)], part)
            assert status == 200, text

    async def complete(self, account: Account, upload: Json, name: str = "a.txt", **more: Any) -> Answer:
        body = {"parent_id": account.namespace_id, "name": name, **more}
        return await self.call(account, "POST", f"/uploads/{upload['id']}/complete", body)

    async def state(self, account: Account, upload: Json) -> str:
        return str((await self.call(account, "GET", f"/uploads/{upload['id']}")).body["state"])

    async def until_state(self, account: Account, upload: Json, state: str) -> None:
        async def reached() -> bool:
            return await self.state(account, upload) == state

        await eventually(reached, seconds=10)

    def events(self, kind: type[EventData], upload: Json) -> list[Any]:
        """The events of a kind about a session that were published so far."""
        return [
            one for one in self.seen if type(one) is kind and getattr(one, "upload_id", None) == upload["id"]
        ]


def settings_for(backends: Backends, **changed: Any) -> Settings:
    """Return settings of a service with a database and queues of its own.

    The bucket is one for all: keys are random, and SeaweedFS sets gigabytes aside for each bucket.
    """
    own = f"u{secrets.token_hex(6)}"
    values: Json = {
        "port": 0,
        "amqp_url": SecretStr(backends.amqp_url),
        "amqp_prefix": own,
        "mongo_url": SecretStr(backends.mongo_url),
        "mongo_database": own,
        "s3_endpoint": backends.s3_endpoint,
        "s3_bucket": "lockstep-test-uploads",
        "s3_check_owner": False,
        "s3_access_key": SecretStr(backends.s3_access_key),
        "s3_secret_key": SecretStr(backends.s3_secret_key),
        "token_secret": SecretStr(secrets.token_hex(32)),
        "part_bytes": 5 * 1024 * 1024,
        "single_put_bytes": 1024 * 1024,
        "auth_cache_seconds": 0,
    }
    return Settings(**{**values, **changed})


@asynccontextmanager
async def running_app(settings: Settings, *, wait: bool = True) -> AsyncIterator[str]:
    """Run the service; gives its URL, once it is ready unless `wait` is off."""
    runner = web.AppRunner(build_app(settings), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}"
        async with aiohttp.ClientSession() as session:
            await eventually(lambda: _ready(session, url, wait=wait), seconds=30)
        yield url
    finally:
        await runner.cleanup()


async def _ready(session: aiohttp.ClientSession, url: str, *, wait: bool) -> bool:
    async with session.get(f"{url}/{'readyz' if wait else 'healthz'}") as answer:
        return answer.status == 200


@asynccontextmanager
async def upload_world(
    backends: Backends, *, served: Mapping[str, object] | None = None, **changed: Any
) -> AsyncIterator[World]:
    """Open everything; `changed` are settings of all, `served` those that only the service has."""
    settings = settings_for(backends, **changed)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(open_bus(settings, service="test"))
        await bus.wait_ready()
        tree, seen = Tree(bus), list[EventData]()
        await bus.consume("metadata", {UploadCompleted: tree.on_completed}, probe=bus.ping)
        await bus.listen(("#",), _collector(seen))
        own = settings.model_copy(update=served or {})
        url = await stack.enter_async_context(running_app(own))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        database = await stack.enter_async_context(open_database(settings))
        stack.push_async_callback(database.client.drop_database, settings.mongo_database)
        store = await stack.enter_async_context(open_store(settings))
        yield World(settings, url, session, database, store, TokenSigner(settings), tree, seen)


def _collector(seen: list[EventData]) -> Callable[[Envelope], Any]:
    async def collect(envelope: Envelope) -> None:
        data = unwrap(envelope)
        if data is not None:
            seen.append(data)

    return collect
