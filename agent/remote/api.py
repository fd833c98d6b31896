"""Every endpoint that the agent uses, as a typed method.

All raise the errors of `libs.contracts.errors` by the server's code, `UnavailableError` when the
server cannot be reached, `LocalError` for what this machine refuses itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from agent.credentials import CredentialStore, DeviceCredentials, check_server
from agent.errors import LocalError
from agent.remote.transport import Call, Transport
from agent.settings import Settings
from libs.contracts.api import (
    CompleteBatch,
    CompleteItem,
    CompleteReply,
    Devices,
    Download,
    DownloadBatchReply,
    DownloadBatchRequest,
    DownloadDelta,
    DownloadItem,
    FolderRequest,
    MoveRequest,
    Page,
    PartDigests,
    PartsRequest,
    RestoreVersion,
    SyncPage,
    Tokens,
    Trash,
    TrashItem,
    Upload,
    UploadBatchItem,
    UploadBatchRequest,
    UploadRequest,
    Uploads,
    UploadState,
    UrlsReply,
    UrlsRequest,
    Usage,
    Version,
    Versions,
)
from libs.contracts.cursor import Cursor
from libs.contracts.errors import LockstepError, UnavailableError, error_from_code
from libs.contracts.ids import new_id
from libs.contracts.limits import MAX_PAGE
from libs.contracts.tree import BatchResults, CommitTarget, ItemResult, NodeRow, TreeBatch, TreeOp
from libs.runtime.backoff import Backoff

Model = TypeVar("Model", bound=BaseModel)

_UNDER_WAY: Final = frozenset({UploadState.COMPLETING, UploadState.COMMITTING})
_END_OF_TIME: Final = "9999-01-01T00:00:00Z"
_CONNECTIONS: Final = 16


class _Calls:
    """The base of the groups of endpoints below."""

    def __init__(self, transport: Transport, settings: Settings) -> None:
        self.transport = transport
        self._settings = settings

    async def _ask(self, reply: type[Model], call: Call) -> Model:
        answer = await self.transport.send(call)
        return _parsed(reply, answer.content)


class AccountCalls(_Calls):
    """Accounts and devices."""

    async def register(self, email: str, password: str, device_name: str) -> Tokens:
        """Create an account and link this device."""
        body = _SignIn(email=email, password=password, device_name=device_name)
        return await self._ask(Tokens, Call("register", body=body))

    async def login(self, email: str, password: str, device_name: str) -> Tokens:
        """Link this device to an account."""
        body = _SignIn(email=email, password=password, device_name=device_name)
        return await self._ask(Tokens, Call("login", body=body))

    async def logout(self) -> None:
        """Unlink this device."""
        await self.transport.send(Call("logout"))

    async def devices(self) -> Devices:
        """Return all devices of the account."""
        return await self._ask(Devices, Call("list_devices"))

    async def revoke(self, device_id: str) -> None:
        """Revoke a device."""
        await self.transport.send(Call("revoke_device", {"device_id": device_id}))

    async def usage(self) -> Usage:
        """Return the bytes used."""
        return await self._ask(Usage, Call("usage"))


class TreeCalls(_Calls):
    """The tree, its feed, versions and trash."""

    async def sync(self, cursor: str | None = None, *, limit: int | None = None) -> SyncPage:
        """Return the page of the feed after `cursor`, or the first one."""
        return await self._ask(SyncPage, Call("sync", query={"cursor": cursor, "limit": limit}))

    async def head_seq(self) -> int:
        """Return the last sequence number given out in the device's own namespace.

        Asked as a feed of what changes at the end of time: no rows, and the cursor of the head.
        """
        page = await self._ask(SyncPage, Call("sync", query={"changed_since": _END_OF_TIME, "limit": 1}))
        return Cursor.decode(page.cursor).seqs.get(self.transport.credentials.namespace_id, 0)

    async def tree_batch(self, ops: Sequence[TreeOp]) -> list[ItemResult]:
        """Carry out up to 500 operations; one result for each, in order."""
        reply = await self._ask(BatchResults, Call("tree_batch", body=TreeBatch(ops=list(ops))))
        return reply.items

    async def node_at(self, path: str) -> NodeRow:
        """Return the node at a path below the root; `NotFoundError` when there is none."""
        page = await self._ask(Page, Call("list_files", query={"path": path}))
        return page.items[0]

    async def children(self, parent_id: str) -> AsyncIterator[NodeRow]:
        """Walk the live children of a folder, page by page."""
        cursor: str | None = None
        while True:
            page = await self._ask(Page, Call("list_files", query={"parent": parent_id, "cursor": cursor}))
            for row in page.items:
                yield row
            cursor = page.next_cursor
            if cursor is None:
                return

    async def node(self, node_id: str) -> NodeRow:
        """Return a node by its id."""
        return await self._ask(NodeRow, Call("get_file", {"node_id": node_id}))

    async def create_folder(self, parent_id: str, name: str) -> NodeRow:
        """Make a folder; repeated, it is the same folder."""
        body = FolderRequest(id=new_id(), parent_id=parent_id, name=name)
        return await self._ask(NodeRow, Call("create_folder", body=body))

    async def move(self, row: NodeRow, parent_id: str, name: str) -> NodeRow:
        """Move or rename a node that is still where `row` says."""
        body = MoveRequest(
            expect_parent_id=row.parent_id, expect_name=row.name, parent_id=parent_id, name=name
        )
        return await self._ask(NodeRow, Call("move_file", {"node_id": row.id}, body=body))

    async def versions(self, node_id: str) -> AsyncIterator[Version]:
        """Walk a file's versions, newest first."""
        cursor: str | None = None
        while True:
            page = await self._ask(
                Versions, Call("list_versions", {"node_id": node_id}, query={"cursor": cursor})
            )
            for version in page.items:
                yield version
            cursor = page.next_cursor
            if cursor is None:
                return

    async def restore_version(self, node_id: str, version_id: str, base_version_id: str | None) -> NodeRow:
        """Make an old version current, as a new version."""
        body = RestoreVersion(version_id=version_id, base_version_id=base_version_id)
        return await self._ask(NodeRow, Call("restore_version", {"node_id": node_id}, body=body))

    async def trash(self) -> AsyncIterator[TrashItem]:
        """Walk deleted nodes, last deleted first."""
        cursor: str | None = None
        while True:
            page = await self._ask(Trash, Call("list_trash", query={"cursor": cursor}))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    async def restore_trash(self, node_id: str) -> NodeRow:
        """Bring a deleted node back."""
        return await self._ask(NodeRow, Call("restore_trash", {"node_id": node_id}))


class TransferCalls(_Calls):
    """Upload sessions and presigned reads."""

    async def create_upload(self, request: UploadRequest) -> Upload:
        """Open, or join, a session of one file."""
        return await self._ask(Upload, Call("create_upload", body=request))

    async def create_upload_batch(self, items: Sequence[UploadBatchItem]) -> Upload:
        """Open a session of up to 500 small files."""
        return await self._ask(
            Upload, Call("create_upload_batch", body=UploadBatchRequest(items=list(items)))
        )

    async def upload_urls(self, upload_id: str, request: UrlsRequest) -> UrlsReply:
        """Presign parts (by number with digest) or entries (by index)."""
        return await self._ask(UrlsReply, Call("upload_urls", {"upload_id": upload_id}, body=request))

    async def record_parts(self, upload_id: str, parts: dict[int, str], delta: str | None = None) -> Upload:
        """Say which parts were sent, by number with their digests."""
        return await self._ask(
            Upload,
            Call("record_parts", {"upload_id": upload_id}, body=PartsRequest(parts=parts, delta=delta)),
        )

    async def get_upload(self, upload_id: str) -> Upload:
        """Return a session with the parts that S3 holds."""
        return await self._ask(Upload, Call("get_upload", {"upload_id": upload_id}))

    async def uploads(
        self, *, content_hash: str | None = None, state: str | None = None
    ) -> AsyncIterator[Upload]:
        """Walk sessions, newest first; open ones unless `state` is "all"."""
        cursor: str | None = None
        while True:
            query = {"content_hash": content_hash, "state": state, "cursor": cursor}
            page = await self._ask(Uploads, Call("list_uploads", query=query))
            for upload in page.items:
                yield upload
            cursor = page.next_cursor
            if cursor is None:
                return

    async def abort_upload(self, upload_id: str) -> None:
        """Give a session up."""
        await self.transport.send(Call("abort_upload", {"upload_id": upload_id}))

    async def download(self, node_id: str, version_id: str | None = None) -> Download:
        """Presign a read of a file, in its current or a named version."""
        return await self._ask(
            Download, Call("download", {"node_id": node_id}, query={"version": version_id})
        )

    async def download_delta(
        self, node_id: str, from_version_id: str, to_version_id: str | None, base: str | None = None
    ) -> DownloadDelta:
        """Return how a version is made of another; `ConflictError` "no_delta" where that saves little.

        `base` is the node of the other, when that is not the same one.
        """
        query = {"from": from_version_id, "to": to_version_id, "base": base}
        return await self._ask(DownloadDelta, Call("download_delta", {"node_id": node_id}, query=query))

    async def download_batch(self, items: Sequence[DownloadItem]) -> DownloadBatchReply:
        """Presign reads of up to 500 files; one result for each, in order."""
        return await self._ask(
            DownloadBatchReply, Call("download_batch", body=DownloadBatchRequest(items=list(items)))
        )

    async def part_digests(self, node_id: str, version_id: str, first: int) -> PartDigests:
        """Return a page of the digests of the parts in which a version was sent, from part `first` on."""
        call = Call(
            "part_digests", {"node_id": node_id}, {"version": version_id, "first": first, "limit": MAX_PAGE}
        )
        return await self._ask(PartDigests, call)

    # Completing ---------------------------------------------------------------------------

    async def complete_upload(self, upload_id: str, target: CommitTarget) -> NodeRow:
        """Commit the bytes of a session of one file and return its row, however long it takes.

        Raises what the commit was refused with; the session can then be completed again
        elsewhere. Safe to repeat after a lost answer: one version.
        """
        call = Call("complete_upload", {"upload_id": upload_id}, body=target)
        result = (await self._completed(call, upload_id, [0]))[0]
        if result.row is None or result.code is not None:
            raise _refusal(result)
        return result.row

    async def complete_upload_batch(self, upload_id: str, items: Sequence[CompleteItem]) -> list[ItemResult]:
        """Commit entries of a batch session; one result for each, in order of the items asked."""
        body = CompleteBatch(items=list(items))
        call = Call("complete_upload_batch", {"upload_id": upload_id}, body=body)
        return await self._completed(call, upload_id, [item.index for item in items])

    async def _completed(self, call: Call, upload_id: str, indices: list[int]) -> list[ItemResult]:
        answer = await self.transport.send(call)
        reply = _parsed(CompleteReply, answer.content)
        if answer.status == HTTPStatus.ACCEPTED or reply.state in _UNDER_WAY:
            return _results_of(await self.settled(upload_id), indices)
        found = {result.index: result for result in reply.results}
        return [found.get(index) or _no_result(index, None, None) for index in indices]

    async def settled(self, upload_id: str) -> Upload:
        """Return the session once it has left completing and committing.

        Raises `UnavailableError` after `commit_wait_seconds`; the commit goes on at the server.
        """
        deadline = time.monotonic() + self._settings.commit_wait_seconds
        backoff, attempt = Backoff(0.1, self._settings.commit_poll_cap), 0
        while True:
            upload = await self.get_upload(upload_id)
            if upload.state not in _UNDER_WAY:
                return upload
            if time.monotonic() > deadline:
                raise UnavailableError("The commit is still under way", retry_after=30)
            await asyncio.sleep(backoff.delay(attempt))
            attempt += 1


class Api(AccountCalls, TreeCalls, TransferCalls):
    """All of them over one transport."""

    @property
    def credentials(self) -> DeviceCredentials:
        """The linked device."""
        return self.transport.credentials

    @property
    def api_bytes(self) -> int:
        """Bytes of request and answer bodies so far."""
        return self.transport.api_bytes


@asynccontextmanager
async def open_api(settings: Settings, *, server: str | None = None) -> AsyncIterator[Api]:
    """Open the API in the name of the linked device, or of nobody at `server` (to sign in).

    Raises `LocalError` "not_signed_in", "insecure_server".
    """
    store = CredentialStore(settings) if server is None else None
    url = check_server(server if store is None else store.require().server)  # type: ignore[arg-type]
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Api(Transport(session, url, settings, store), settings)


class _SignIn(BaseModel):
    """`api.Credentials` as it is written: a secret's own JSON form hides it."""

    email: str
    password: str
    device_name: str


def _parsed(reply: type[Model], content: bytes) -> Model:
    try:
        return reply.model_validate_json(content)
    except ValidationError as error:
        raise LocalError(code="not_lockstep") from error


def _results_of(upload: Upload, indices: list[int]) -> list[ItemResult]:
    found = {entry.index: entry.result for entry in upload.entries}
    return [found.get(index) or _no_result(index, upload.code, upload.detail) for index in indices]


def _no_result(index: int, code: str | None, detail: str | None) -> ItemResult:
    """Return the refusal of an entry of which nothing was told: the session's own reason."""
    return ItemResult(index=index, code=code or "upload_failed", detail=detail)


def _refusal(result: ItemResult) -> LockstepError:
    extra = {} if result.current is None else {"current": result.current}
    return error_from_code(result.code or "upload_failed", result.detail or "", **extra)
