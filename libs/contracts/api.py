"""Requests and answers of the HTTP API `/v1` (see `endpoints.py` for the routes)."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator

from libs.contracts.base import Reply, Request
from libs.contracts.ids import Id, Sha256
from libs.contracts.limits import MAX_BATCH, MAX_FILE_BYTES
from libs.contracts.tree import CommitTarget, ItemResult, Name, NodeRow, RawName

Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$"),
]
DeviceName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
Size = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
DisplayPath = Annotated[str, StringConstraints(max_length=8192)]


class Empty(Reply):
    """An answer that says only that it was done."""


class Problem(Reply):
    """An error as RFC 9457 has it, with Lockstep's stable `code`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None
    current: NodeRow | None = None
    retry_after: float | None = None
    errors: list[dict[str, Any]] | None = None


# Accounts and devices ---------------------------------------------------------------------


class Credentials(Request):
    """Sign up or sign in, and link a device of this name."""

    email: Email
    password: SecretStr
    device_name: DeviceName


class RefreshRequest(Request):
    """Trade a refresh token for new tokens."""

    refresh_token: SecretStr


class PasswordChange(Request):
    """Change the password; other devices stay linked unless `revoke_others`."""

    old_password: SecretStr
    new_password: SecretStr
    revoke_others: bool = False


class AccountDeletion(Request):
    """Delete the account with everything in it; the password is asked again."""

    password: SecretStr


class Tokens(Reply):
    """What a linked device needs to ask for more."""

    access_token: str
    expires_in: int
    """Seconds that the access token is valid."""
    refresh_token: str
    user_id: Id
    device_id: Id
    device_name: str
    namespace_id: Id


class Device(Reply):
    """A linked device."""

    id: Id
    name: str
    current: bool
    """Whether it is the one that asks."""
    created_at: datetime
    last_seen: datetime | None
    revoked: bool


class Devices(Reply):
    """All devices of the account, revoked ones too."""

    items: list[Device]


# Uploads -----------------------------------------------------------------------------------


class DeltaOffer(Request):
    """A delta that the client could send instead of the content."""

    base_version_id: Id
    """The version that it is a difference to: any that the caller can read."""
    size: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]
    """Bytes of the delta object."""
    sha256: Sha256
    """Of the delta object."""


class UploadRequest(Request):
    """Announce bytes. The same account, namespace, hash and size give the same open session."""

    namespace_id: Id | None = None
    """The caller's root namespace when absent."""
    content_hash: Sha256
    size: Size
    path: DisplayPath = ""
    """For people to recognise the session by; it decides nothing."""
    throughput: Annotated[int, Field(ge=0)] | None = None
    """Bytes per second that the client measured, for the choice of the part size."""
    send_anyway: bool = False
    """Open a session even while an object of the same content is being verified
    (`verification_pending` otherwise)."""
    delta: DeltaOffer | None = None
    """Taken (mode `delta`) unless the content is stored, or under way, or the base cannot be read.
    `delta_under_way`, for a while, when another device sends another one in parts."""


class UploadBatchItem(Request):
    """One small file of a batch."""

    content_hash: Sha256
    size: Size
    path: DisplayPath = ""


class UploadBatchRequest(Request):
    """Announce up to 500 small files at once: one session, one commit."""

    namespace_id: Id | None = None
    items: Annotated[list[UploadBatchItem], Field(min_length=1, max_length=MAX_BATCH)]


class SignedRequest(Reply):
    """A request that the client makes to S3 itself: exactly these headers, before `expires_at`."""

    method: str
    url: str
    headers: dict[str, str] = {}
    expires_at: datetime


class UploadMode(StrEnum):
    """How the bytes of a session or of one entry get to S3."""

    STORED = "stored"
    PUT = "put"
    MULTIPART = "multipart"
    DELTA = "delta"
    """What is sent is a delta object (`libs.delta.package`), in one request or, where the session has
    a `part_size`, in parts; the server puts the content together."""


class UploadState(StrEnum):
    """Where a session stands."""

    OPEN = "open"
    COMPLETING = "completing"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ABORTED = "aborted"
    EXPIRED = "expired"
    FAILED = "failed"


class PartRow(Reply):
    """A part that S3 holds."""

    number: int
    size: int
    digest: Sha256 | None = None


class UploadEntry(Reply):
    """One file of a session: how it gets there and the request to make, if any is needed."""

    index: int
    mode: UploadMode
    content_hash: Sha256
    size: int
    path: str = ""
    put: SignedRequest | None = None
    result: ItemResult | None = None
    """What became of it, once committed or refused."""


class Upload(Reply):
    """An upload session. A session of one file has one entry, with index 0."""

    id: Id
    namespace_id: Id
    state: UploadState
    batch: bool
    size: int
    """Bytes of all entries."""
    entries: list[UploadEntry]
    part_size: int | None = None
    """Where something travels in parts: the content (mode `multipart`) or a delta object."""
    parts_total: int = 0
    parts_done: int = 0
    joined: bool = False
    """In the answer to opening: whether the session was open already."""
    parts: list[PartRow] = []
    """Where something travels in parts, `GET /uploads/{id}` and joining only: what S3 holds."""
    code: str | None = None
    """Why it failed, or why the last commit was refused."""
    detail: str | None = None
    path: str = ""
    device: str | None = None
    """Name of the device that touched it last."""
    created_at: datetime
    updated_at: datetime
    expires_at: datetime


class Uploads(Reply):
    """A page of sessions, newest first."""

    items: list[Upload]
    next_cursor: str | None = None


class UrlsRequest(Request):
    """Ask for presigned requests: parts by number with their digests, or entries by index."""

    parts: dict[int, Sha256] | None = None
    entries: list[int] | None = None
    delta: Sha256 | None = None
    """SHA-256 of the delta object that the parts are of; absent: they are of the content. When something else
    travels by now the answer is `upload_changed`: open the session again."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        asked = self.parts if self.parts is not None else self.entries
        if (self.parts is None) == (self.entries is None) or not asked:
            raise ValueError("give parts or entries")
        if len(asked) > MAX_BATCH:
            raise ValueError(f"at most {MAX_BATCH} at once")
        return self


class UrlsReply(Reply):
    """Presigned requests by part number or entry index."""

    items: dict[int, SignedRequest]
    done: list[int] = []
    """Parts among those asked for that a device has sent already, with the same digest: they need
    not be sent again (their URLs are given all the same)."""


class PartsRequest(Request):
    """Parts that the client has sent, by number with their digests."""

    parts: Annotated[dict[int, Sha256], Field(min_length=1, max_length=MAX_BATCH)]
    delta: Sha256 | None = None
    """As in the request for their URLs."""


class CompleteItem(CommitTarget):
    """Where one entry of a batch session goes."""

    index: Annotated[int, Field(ge=0)]


class CompleteBatch(Request):
    """Complete some or all entries of a batch session."""

    items: Annotated[list[CompleteItem], Field(min_length=1, max_length=MAX_BATCH)]


class CompleteReply(Reply):
    """The end of a completion; with state `committing` (202) ask `GET /uploads/{id}` again."""

    upload_id: Id
    state: UploadState
    results: list[ItemResult] = []
    location: str | None = None


# Downloads ---------------------------------------------------------------------------------


class DownloadItem(Request):
    """One file, in its current or a named version."""

    node_id: Id
    version_id: Id | None = None


class DownloadBatchRequest(Request):
    """Up to 500 files at once."""

    items: Annotated[list[DownloadItem], Field(min_length=1, max_length=MAX_BATCH)]


class Download(Reply):
    """Where to read the bytes of a version, directly from S3; ranges are allowed."""

    node_id: Id
    version_id: Id
    url: str
    expires_at: datetime
    size: int
    content_hash: Sha256


class PartDigests(Reply):
    """SHA-256 of each part in which a version was sent, as S3 has checked it; a page by number.

    For readers that check a large file while it arrives. Nothing is known of a file that was sent
    in one request, nor for longer than the server remembers the session that sent it: then
    `part_size` is null and there are no items. The digest of the whole is always there.
    """

    part_size: int | None = None
    """Bytes of every part but the last."""
    parts_total: int = 0
    items: list[PartRow] = []


class DownloadDelta(Download):
    """How a version is made of another: ranges of it, and what is read of the new one by `url`."""

    from_version_id: Id
    recipe: str
    """Base64 of `libs.contracts.recipe.encode`; literals are ranges of the new version itself."""


class DownloadResult(Reply):
    """One item of a batch: the download or a stable code."""

    index: int
    download: Download | None = None
    code: str | None = None
    detail: str | None = None


class DownloadBatchReply(Reply):
    """One result per item, in the order asked."""

    items: list[DownloadResult]


# The tree ----------------------------------------------------------------------------------


class FolderRequest(Request):
    """Make a folder."""

    id: Id | None = None
    parent_id: Id
    name: Name


class MoveRequest(Request):
    """Move or rename a node that is at `expect_parent_id`/`expect_name`."""

    expect_parent_id: Id
    expect_name: RawName
    parent_id: Id
    name: Name


class Page(Reply):
    """A page of rows."""

    items: list[NodeRow]
    next_cursor: str | None = None


class VersionKeep(StrEnum):
    """Why a version is kept."""

    CURRENT = "current"
    RECENT = "recent"
    """It is among the newest of its file, whatever its age."""
    AGE = "age"
    """Every version is kept for some time."""
    OVER = "over"
    """Nothing keeps it any more: the next round removes it."""


class Version(Reply):
    """One immutable state of a file's content."""

    id: Id
    node_id: Id
    parent_version_id: Id | None
    size: int
    content_hash: Sha256
    mtime_ns: int
    executable: bool
    device: str | None
    created_at: datetime
    current: bool
    corrupt: bool = False
    keep: VersionKeep | None = None
    """Why retention keeps it."""
    kept_until: datetime | None = None
    """With `age`: when the next round may remove it."""


class Versions(Reply):
    """The versions of a file, newest first."""

    items: list[Version]
    next_cursor: str | None = None


class RestoreVersion(Request):
    """Make an old version current again, as a new version."""

    version_id: Id
    base_version_id: Id | None = None
    """When given, the version that must be current for this to be done."""


class TrashItem(Reply):
    """A deleted node whose parents are not deleted, or not any more."""

    row: NodeRow
    path: str
    deleted_at: datetime


class Trash(Reply):
    """A page of deleted nodes, last deleted first."""

    items: list[TrashItem]
    next_cursor: str | None = None


class HistoryCosts(Reply):
    """What is kept, in bytes of stored objects: each counts once, for the first reason that holds.

    The rest of the used bytes no version has any more: they are given back after a grace time.
    """

    measured_at: datetime
    current_bytes: int
    """What files show now."""
    older_bytes: int
    """Older versions of these files."""
    deleted_bytes: int
    """Files in the trash, with their versions."""
    versions: int
    objects: int


class Usage(Reply):
    """Bytes of the account."""

    used_bytes: int
    reserved_bytes: int
    """Of open upload sessions."""
    quota_bytes: int | None
    files: int
    history: HistoryCosts | None = None
    """What history costs, as last measured; null where that has not been done yet."""


class SyncPage(Reply):
    """A page of the change feed."""

    items: list[NodeRow]
    cursor: str
    has_more: bool
    epoch: int
    uploads_changed_at: datetime | None = None


# The push channel (`GET /events`, server-sent events) --------------------------------------


class PushHeads(Reply):
    """`event: heads`, on connect and whenever pushes may have been missed."""

    epoch: int
    heads: dict[str, int]
    """Namespace id → the last sequence number given out."""


class PushChanges(Reply):
    """`event: changes`: the rows after `from_seq` up to and with `to_seq`; `id:` is the cursor."""

    namespace_id: Id
    epoch: int
    from_seq: int
    to_seq: int
    rows: list[NodeRow]


class PushUpload(Reply):
    """`event: upload`: progress of a session of this account."""

    upload_id: Id
    state: UploadState
    size: int
    parts_done: int = 0
    parts_total: int = 0
    path: str = ""
    device: str | None = None


class PushRevoked(Reply):
    """`event: revoked`: this device is no longer linked; the stream ends."""

    device_id: Id
