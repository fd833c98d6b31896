"""The events on the bus: the one definition, from which `docs/asyncapi.yaml` is generated.

CloudEvents 1.0 in structured JSON. The type is `com.lockstep.<noun>.<verb>.v1`, the routing key
`<noun>.<verb>.<namespace_id>`. Events carry ids, sizes, hashes and rows; never URLs, tokens or
secrets. Fields and types are added, never changed or removed.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal
from uuid import uuid4

from pydantic import ConfigDict, Field

from libs.contracts.api import UploadState
from libs.contracts.base import Reply
from libs.contracts.ids import Id, Sha256
from libs.contracts.limits import MAX_BATCH
from libs.contracts.tree import BaseVersion, CommitTarget, ItemResult, NodeRow

TYPE_PREFIX: Final = "com.lockstep."


class EventData(Reply):
    """The base of every event's data. `subject` names what it is about: `<noun>.<verb>`."""

    topic: ClassVar[str]
    namespace_id: Id
    """For device events: the root namespace of the device's user."""
    user_id: Id | None = None
    device_id: Id | None = None

    @classmethod
    def type_name(cls) -> str:
        """Return the CloudEvents type."""
        return f"{TYPE_PREFIX}{cls.topic}.v1"

    def routing_key(self) -> str:
        """Return the key under which the event is published."""
        return f"{self.topic}.{self.namespace_id}"


class UploadStarted(EventData):
    """A session was opened."""

    topic = "upload.started"
    upload_id: Id
    size: int
    entries: int = 1
    content_hash: Sha256 | None = None
    """Sessions of one file only."""
    part_size: int | None = None
    parts_total: int = 0
    path: str = ""
    device_name: str | None = None


class PartCompleted(EventData):
    """A part of a multipart session is in S3."""

    topic = "part.completed"
    upload_id: Id
    number: int
    size: int
    digest: Sha256
    parts_done: int
    parts_total: int
    total_size: int
    path: str = ""
    device_name: str | None = None


class UploadedObject(Reply):
    """An S3 object that a commit refers to."""

    id: Id
    key: str
    size: int
    content_hash: Sha256
    verified: bool
    """Whether S3 or a service has checked the hash of the whole."""
    existing: bool = False
    """Whether it is an object that the namespace has already ("stored")."""


class UploadedEntry(Reply):
    """One file to commit."""

    index: int
    object: UploadedObject
    target: CommitTarget
    base: BaseVersion | None = None
    """Of what the content was put together; None where it was sent whole, or is there already."""


class UploadCompleted(EventData):
    """The bytes are in S3 and a commit is wanted."""

    topic = "upload.completed"
    upload_id: Id
    attempt: int
    """Counts the completions of a session, from 1; a lower one than seen is out of date."""
    device_name: str
    entries: Annotated[list[UploadedEntry], Field(max_length=MAX_BATCH)]


class UploadAborted(EventData):
    """A session was given up."""

    topic = "upload.aborted"
    upload_id: Id
    state: UploadState = UploadState.ABORTED


class UploadExpired(EventData):
    """A session was left alone for too long."""

    topic = "upload.expired"
    upload_id: Id
    state: UploadState = UploadState.EXPIRED


class TreeChanged(EventData):
    """The base of all changes of the tree: rows with sequence numbers first_seq … last_seq."""

    first_seq: int
    last_seq: int
    changes: list[NodeRow]


class FileCommitted(TreeChanged):
    """Files have a new version."""

    topic = "file.committed"
    upload_id: Id | None = None
    """The session they came from; None for a restored version."""
    attempt: int = 0
    results: list[ItemResult] = []
    """Per entry of the session: committed or refused."""
    objects: list[UploadedObject] = []
    """The objects that are new with this commit."""


class CommitRejected(EventData):
    """No entry of a completion could be committed."""

    topic = "commit.rejected"
    upload_id: Id
    attempt: int
    results: list[ItemResult]


class FileMoved(TreeChanged):
    """Nodes were moved or renamed (folders too)."""

    topic = "file.moved"


class FileDeleted(TreeChanged):
    """Nodes were deleted; a folder's row stands for everything below it."""

    topic = "file.deleted"


class FileRestored(TreeChanged):
    """Nodes came back from the trash; a folder's row stands for everything below it."""

    topic = "file.restored"


class FileUpdated(TreeChanged):
    """Attributes of nodes changed, or links: no new content."""

    topic = "file.updated"


class FolderCreated(TreeChanged):
    """Folders were made."""

    topic = "folder.created"


class DeviceLinked(EventData):
    """A device was linked to an account."""

    topic = "device.linked"
    device_name: str


class DeviceRevoked(EventData):
    """A device was revoked: its tokens are refused from now on."""

    topic = "device.revoked"


EVENTS: Final[tuple[type[EventData], ...]] = (
    UploadStarted,
    PartCompleted,
    UploadCompleted,
    FileCommitted,
    CommitRejected,
    FileMoved,
    FileDeleted,
    FileRestored,
    FileUpdated,
    FolderCreated,
    UploadAborted,
    UploadExpired,
    DeviceLinked,
    DeviceRevoked,
)

EVENT_TYPES: Final[dict[str, type[EventData]]] = {event.type_name(): event for event in EVENTS}

TREE_EVENTS: Final[tuple[type[TreeChanged], ...]] = (
    FileCommitted,
    FileMoved,
    FileDeleted,
    FileRestored,
    FileUpdated,
    FolderCreated,
)


class Envelope(Reply):
    """A CloudEvent 1.0 in structured mode, with `requestid` as an extension attribute."""

    model_config = ConfigDict(extra="allow", frozen=True)

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    requestid: str | None = None
    data: dict[str, Any]

    def to_json(self) -> bytes:
        """Return the structured JSON form."""
        return self.model_dump_json(exclude_none=True).encode()


def wrap(
    data: EventData, *, source: str, request_id: str | None = None, now: datetime | None = None
) -> Envelope:
    """Put an event into its envelope with a fresh id."""
    return Envelope(
        id=str(uuid4()),
        source=f"lockstep/{source}",
        type=data.type_name(),
        subject=data.namespace_id,
        time=now or datetime.now(UTC),
        requestid=request_id,
        data=data.model_dump(mode="json", exclude_none=True),
    )


def unwrap(envelope: Envelope) -> EventData | None:
    """Return the typed data, or None for a type that this version does not know.

    Raises `pydantic.ValidationError` when the data does not fit its type.
    """
    model = EVENT_TYPES.get(envelope.type)
    return None if model is None else model.model_validate(envelope.data)
