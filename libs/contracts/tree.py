"""The tree as it crosses borders: rows, operations on it, their results.

A row is a node in its latest state. The root of a namespace is no node: the parent of a
top-level node is the namespace's own id.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from libs.contracts.base import Reply, Request
from libs.contracts.ids import Id, Sha256
from libs.contracts.limits import MAX_BATCH, MAX_SYMLINK_BYTES
from libs.contracts.paths import check_name

MtimeNs = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""Modification time in nanoseconds since the epoch of 1970, signed 64 bits."""

RawName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""A name that is only compared with what is there."""

Name = Annotated[RawName, AfterValidator(check_name)]
"""A name that a node is to have."""


class Kind(StrEnum):
    """What a node is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"


class BaseVersion(Reply):
    """The version that a content was put together from when its difference was sent.

    A hint, never a promise: it tells a device that has that content, or a later one of that file, of
    what the new one is best made. The version may be gone by now.
    """

    node_id: Id
    version_id: Id
    content_hash: Sha256


class NodeRow(Reply):
    """One node in its latest state, as the feed, listings, results and events carry it."""

    id: Id
    namespace_id: Id
    parent_id: Id
    name: str
    kind: Kind
    version_id: Id | None = None
    size: int | None = None
    """Bytes; files only."""
    content_hash: Sha256 | None = None
    mtime_ns: int | None = None
    executable: bool = False
    symlink_target: str | None = None
    seq: int
    """Position of the latest change in the namespace's feed, from 1."""
    changed_at: datetime
    deleted: bool = False
    epoch: int = 0
    """The server's epoch in which the current version (or the node) was made."""
    device: str | None = None
    """Name of the device that made the latest change."""
    damaged: list[Sha256] = []
    """Contents that it showed until their bytes turned out to be damaged or gone, the latest last: a
    device that has one of them sends it again instead of replacing it."""
    base: BaseVersion | None = None
    """Of what the current content was put together; None where it came whole."""


class CommitTarget(Request):
    """Where uploaded bytes go: a new version of `node_id`, or a new file `name` in `parent_id`."""

    node_id: Id | None = None
    base_version_id: Id | None = None
    """The version that the new content was made from; required with `node_id`."""
    undelete: bool = False
    """With `node_id`: bring a node back that was itself deleted (an edit beats a deletion)."""
    parent_id: Id | None = None
    name: Name | None = None
    mtime_ns: MtimeNs = 0
    executable: bool = False

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        by_node = self.node_id is not None and self.base_version_id is not None
        by_name = self.parent_id is not None and self.name is not None
        if by_node == by_name or (by_name and (self.node_id or self.base_version_id)):
            raise ValueError("give node_id and base_version_id, or parent_id and name")
        return self


class CreateFolder(Request):
    """Make a folder. Repeating it with the same `id` gives the same folder."""

    op: Literal["create_folder"] = "create_folder"
    id: Id | None = None
    """Chosen by the client, so that a batch can fill a folder it makes; random when absent."""
    parent_id: Id
    name: Name


class CreateSymlink(Request):
    """Make a symbolic link. Repeating it with the same `id` gives the same link."""

    op: Literal["create_symlink"] = "create_symlink"
    id: Id | None = None
    parent_id: Id
    name: Name
    target: Annotated[str, StringConstraints(min_length=1)]
    mtime_ns: MtimeNs = 0

    @field_validator("target")
    @classmethod
    def _target_is_text(cls, target: str) -> str:
        return check_symlink_target(target)


class Move(Request):
    """Move or rename a node that is where the caller says; done already counts as done."""

    op: Literal["move"] = "move"
    node_id: Id
    expect_parent_id: Id
    expect_name: RawName
    parent_id: Id
    name: Name


class Delete(Request):
    """Delete a file the caller saw at `version_id`, or a folder or link it saw up to `seen_seq`."""

    op: Literal["delete"] = "delete"
    node_id: Id
    version_id: Id | None = None
    seen_seq: Annotated[int, Field(ge=0)] | None = None


class SetAttributes(Request):
    """Change what is kept beside the content of a file or the target of a link."""

    op: Literal["set"] = "set"
    node_id: Id
    version_id: Id | None = None
    """Files: the version the caller saw. Links: `seen_seq` instead."""
    seen_seq: Annotated[int, Field(ge=0)] | None = None
    mtime_ns: MtimeNs | None = None
    executable: bool | None = None
    symlink_target: str | None = None

    @field_validator("symlink_target")
    @classmethod
    def _target_is_text(cls, target: str | None) -> str | None:
        return None if target is None else check_symlink_target(target)


TreeOp = Annotated[CreateFolder | CreateSymlink | Move | Delete | SetAttributes, Field(discriminator="op")]


class TreeBatch(Request):
    """Operations carried out in order, each with its own preconditions and result."""

    ops: Annotated[list[TreeOp], Field(min_length=1, max_length=MAX_BATCH)]


class ItemResult(Reply):
    """The result of one item: the row it led to, or a stable code.

    With a code, `current` is the row that stood in the way, where there is one the caller may
    see.
    """

    index: int
    row: NodeRow | None = None
    code: str | None = None
    detail: str | None = None
    current: NodeRow | None = None

    @property
    def ok(self) -> bool:
        """Whether the item was carried out."""
        return self.code is None

    def error_extra(self) -> dict[str, Any]:
        """Return what a problem document of this result says beside code and detail."""
        return {} if self.current is None else {"current": self.current.model_dump(mode="json")}


class BatchResults(Reply):
    """One result per operation, in the order asked."""

    items: list[ItemResult]


def check_symlink_target(target: str) -> str:
    """Return the target or raise `ValueError`: no NUL, valid Unicode, at most 4,095 bytes."""
    if "\0" in target:
        raise ValueError("a link's target cannot hold NUL")
    try:
        size = len(target.encode())
    except UnicodeEncodeError as error:
        raise ValueError("a link's target must be valid Unicode") from error
    if size > MAX_SYMLINK_BYTES:
        raise ValueError(f"a link's target is longer than {MAX_SYMLINK_BYTES} bytes")
    return target
