"""Which bytes a request for a file means, and whether they may be read. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.contracts.errors import ConflictError, NotFoundError
from libs.contracts.recipe import Recipe
from libs.contracts.tree import Kind

Row = Mapping[str, Any]
"""A node's, version's or object's document, as its owner wrote it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file in its current version, or in a named one."""

    node_id: str
    version_id: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Parts by number: `limit` of them from `first` (counted from 1)."""

    first: int
    limit: int

    def numbers(self, total: int) -> range:
        """Return the numbers of the page's parts, of `total` in all."""
        return range(self.first, min(self.first + self.limit - 1, total) + 1)


@dataclass(frozen=True, slots=True)
class Readable:
    """The object to read for a file."""

    node_id: str
    version_id: str
    name: str
    key: str
    size: int
    content_hash: str
    object_id: str


def worth_it(recipe: Recipe, size: int) -> bool:
    """Say whether less than half of a content of `size` bytes has to be fetched."""
    return 2 * recipe.literal_bytes < size


def parts_known(session: Row | None, key: str) -> bool:
    """Say whether a session has joined the object at `key` out of parts whose digests S3 had checked.

    Only then are the digests that its rows name those of the bytes: without S3's check they are
    what the sender claimed.
    """
    if session is None or not session.get("digests_enforced"):
        return False
    return any(entry["key"] == key and entry["sealed"] for entry in session["entries"])


def version_wanted(wanted: Wanted, node: Row | None, *, hidden: bool) -> str:
    """Return the id of the version to read.

    `hidden`: the node or a folder above it is deleted. Then its named versions can still be
    read, until they are purged. Raises `NotFoundError`, and `ConflictError` "not_a_file".
    """
    if node is None:
        raise NotFoundError
    if wanted.version_id is None and hidden:
        raise NotFoundError
    if node["kind"] != Kind.FILE:
        raise ConflictError(code="not_a_file")
    version_id = wanted.version_id or node.get("version_id")
    if version_id is None:
        raise NotFoundError
    return str(version_id)


def readable(node: Row, version: Row | None, stored: Row | None) -> Readable:
    """Return what to read.

    Raises `NotFoundError` when the version is not one of the node's, and `ConflictError`
    "object_gone" when its bytes are not what they were said to be, or are being removed.
    """
    if version is None or version["node_id"] != node["_id"]:
        raise NotFoundError
    bad = version.get("corrupt") or stored is None or stored.get("corrupt")
    if bad or stored is None or stored["state"] != "live":
        raise ConflictError("The bytes of this version are not there", code="object_gone")
    return Readable(
        node_id=node["_id"],
        version_id=version["_id"],
        name=node["name"],
        key=stored["key"],
        size=version["size"],
        content_hash=version["content_hash"],
        object_id=stored["_id"],
    )
