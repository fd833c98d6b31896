"""What the rules speak of: nodes, versions, objects, who changes them and what is wanted."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from libs.contracts.events import UploadedEntry
from libs.contracts.paths import name_key
from libs.contracts.tree import (
    BaseVersion,
    CreateFolder,
    CreateSymlink,
    Delete,
    Kind,
    Move,
    NodeRow,
    SetAttributes,
)

Slot = tuple[str, str]
"""A place for one live node: (parent id, name key)."""

_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Return a time as whole microseconds since 1970."""
    return (moment - _EPOCH_START) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return microseconds since 1970 as a time in UTC."""
    return _EPOCH_START + timedelta(microseconds=micros)


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or symbolic link. `changed_us` rises with `seq` in a namespace."""

    id: str
    namespace_id: str
    parent_id: str
    name: str
    kind: Kind
    version_id: str | None = None
    size: int | None = None
    content_hash: str | None = None
    mtime_ns: int | None = None
    executable: bool = False
    symlink_target: str | None = None
    seq: int = 0
    changed_us: int = 0
    deleted: bool = False
    epoch: int = 0
    """The epoch in which the current version, or a node without versions, was made."""
    device: str | None = None
    damaged: tuple[str, ...] = ()
    """Hashes of the contents that it went back from, because their bytes are not what was claimed."""
    base: BaseVersion | None = None
    """Of what the current version's content was put together."""
    purging: bool = False
    """A deleted node whose time is over: it and all below it are being removed, nothing brings it back."""

    @property
    def slot(self) -> Slot:
        """The place it takes while it is live."""
        return (self.parent_id, name_key(self.name))

    @property
    def counts(self) -> bool:
        """Whether it is one of the files of `usage`: not deleted itself."""
        return self.kind is Kind.FILE and not self.deleted

    @property
    def is_file(self) -> bool:
        """Whether it is a file, deleted or not."""
        return self.kind is Kind.FILE

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, deleted or not."""
        return self.kind is Kind.FOLDER

    def row(self) -> NodeRow:
        """Return it as it crosses borders."""
        return NodeRow(
            id=self.id,
            namespace_id=self.namespace_id,
            parent_id=self.parent_id,
            name=self.name,
            kind=self.kind,
            version_id=self.version_id,
            size=self.size,
            content_hash=self.content_hash,
            mtime_ns=self.mtime_ns,
            executable=self.executable,
            symlink_target=self.symlink_target,
            seq=self.seq,
            changed_at=from_micros(self.changed_us),
            deleted=self.deleted,
            epoch=self.epoch,
            device=self.device,
            damaged=list(self.damaged),
            base=self.base,
        )


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable state of a file's content. `seq` is that of the change which made it."""

    id: str
    node_id: str
    namespace_id: str
    object_id: str
    size: int
    content_hash: str
    mtime_ns: int
    executable: bool
    parent_version_id: str | None
    user_id: str | None
    device_id: str | None
    device: str | None
    upload_id: str | None
    entry: int | None
    epoch: int
    seq: int
    created_us: int
    corrupt: bool = False
    base: BaseVersion | None = None
    """Of what its content was put together; None where it came whole."""


@dataclass(frozen=True, slots=True)
class Object:
    """One S3 object."""

    id: str
    namespace_id: str
    key: str
    size: int
    content_hash: str
    live: bool = True
    verified: bool = False
    corrupt: bool = False
    """Its bytes were read and are not what was claimed."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change; all None for the server itself."""

    user_id: str | None = None
    device_id: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class UploadRef:
    """The completion of an upload session that asks for a commit."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CommitFile:
    """Commit one entry of a completion."""

    upload: UploadRef
    entry: UploadedEntry

    @property
    def version_id(self) -> str:
        """The id that its version gets: one per entry of a session, however often it is asked for."""
        text = f"{self.upload.id}/{self.entry.index}".encode()
        return hashlib.sha256(text).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class RestoreVersion:
    """Make an old version of a file current, as a new version."""

    node_id: str
    version_id: str
    base_version_id: str | None


@dataclass(frozen=True, slots=True)
class RestoreNode:
    """Bring a deleted node back."""

    node_id: str


@dataclass(frozen=True, slots=True)
class CondemnObject:
    """The object's bytes are not what was claimed: files go back to their last good version."""

    object_id: str


@dataclass(frozen=True, slots=True)
class MendNode:
    """A node's version or parent is not there: show the last good version, hang it into the root."""

    node_id: str


TreeOp = CreateFolder | CreateSymlink | Move | Delete | SetAttributes
Op = TreeOp | CommitFile | RestoreVersion | RestoreNode | CondemnObject | MendNode


@dataclass(frozen=True, slots=True)
class Job:
    """Changes asked for together: each has its own result, nothing comes between them."""

    actor: Actor
    ops: tuple[Op, ...]
    upload: UploadRef | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits that the checks apply."""

    max_depth: int
    max_unseen: int
    """Rows that a deletion of a folder may have missed before it must read the feed first."""
    quota_bytes: int | None = None
