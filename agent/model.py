"""What the agent knows: three trees and the observations they are made of. Pure.

* remote: what the server says (`RemoteNode`, by node id)
* local: what the disk says (`LocalEntry`, by path relative to the root)
* synced: the last state both agreed on (`SyncedNode`, by node id)

The root has no node: the parent of a top-level node is `root_id`, the namespace's id.
Paths are relative to the root, with `/`, as Python text (undecodable bytes as lone surrogates).
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from libs.contracts.tree import BaseVersion, Kind, NodeRow

__all__ = ["FileStat", "Kind", "LocalEntry", "LocalKind", "RemoteNode", "SyncedNode", "Trouble", "VersionRef"]


class LocalKind(StrEnum):
    """What stands at a local path."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    OTHER = "other"
    """FIFO, socket or device: reported, never synced."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a path cannot be read or synced: a stable code and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class FileStat:
    """What the disk says of an entry without reading it.

    Two equal values do not prove equal content (a write through mmap within one tick of the
    clock changes none of them); two different ones mean that the content has to be hashed.
    """

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    """The permission bits, `stat.S_IMODE`."""
    birth_ns: int | None = None
    """Time of birth, where the file system keeps one; it tells a reused inode."""

    @property
    def executable(self) -> bool:
        """Whether the owner may execute it."""
        return bool(self.mode & 0o100)

    def same_content_signs(self, other: "FileStat") -> bool:
        """Whether nothing suggests that the content differs (a rename alone changes ctime)."""
        return (self.dev, self.ino, self.size, self.mtime_ns) == (
            other.dev, other.ino, other.size, other.mtime_ns,
        )  # fmt: skip

    def same(self, other: "FileStat") -> bool:
        """Whether size, mtime, ctime and inode are all equal: not hashed again."""
        return self.same_content_signs(other) and self.ctime_ns == other.ctime_ns


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """One path of the disk as the last scan saw it."""

    path: str
    kind: LocalKind
    stat: FileStat
    content_hash: str | None = None
    """SHA-256 of a file's bytes; None while it could not be read."""
    symlink_target: str | None = None
    trouble: Trouble | None = None
    """Set when it cannot be read or must not be synced; it counts as present and unchanged."""
    hashed_at: float = 0.0
    """When the content was last read, in seconds since 1970."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The path of the folder it is in; empty for the root."""
        return self.path.rpartition("/")[0]

    def at(self, path: str) -> "LocalEntry":
        """Return the same entry under another path."""
        return replace(self, path=path)


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A version that the server has, or had, and the hash of its content."""

    node_id: str
    version_id: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class RemoteNode:
    """One node as the server last told it."""

    id: str
    parent_id: str
    name: str
    kind: Kind
    seq: int
    deleted: bool = False
    version_id: str | None = None
    size: int = 0
    content_hash: str | None = None
    mtime_ns: int = 0
    executable: bool = False
    symlink_target: str | None = None
    epoch: int = 0
    device: str | None = None
    base: VersionRef | None = None
    """Of what the server put the content together; a hint."""

    @staticmethod
    def of(row: NodeRow) -> "RemoteNode":
        """Return a row of the feed as the agent keeps it."""
        return RemoteNode(
            id=row.id,
            parent_id=row.parent_id,
            name=row.name,
            kind=row.kind,
            seq=row.seq,
            deleted=row.deleted,
            version_id=row.version_id,
            size=row.size or 0,
            content_hash=row.content_hash,
            mtime_ns=row.mtime_ns or 0,
            executable=row.executable,
            symlink_target=row.symlink_target,
            epoch=row.epoch,
            device=row.device,
            base=_ref_of(row.base),
        )


def _ref_of(base: BaseVersion | None) -> VersionRef | None:
    return None if base is None else VersionRef(base.node_id, base.version_id, base.content_hash)


@dataclass(frozen=True, slots=True)
class SyncedNode:
    """The last state of a node that server and disk agreed on.

    `mtime_ns` and `executable` are as the server said; `stat` is as the disk read them back, and
    a local change is judged against that alone.
    """

    id: str
    parent_id: str
    name: str
    kind: Kind
    version_id: str | None = None
    content_hash: str | None = None
    size: int = 0
    mtime_ns: int = 0
    executable: bool = False
    symlink_target: str | None = None
    stat: FileStat | None = None
    epoch: int = 0
