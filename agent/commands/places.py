"""Remote paths of the command line: found, listed, and printed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from agent.errors import LocalError
from agent.remote import Api
from agent.status import mtime_text
from libs.contracts.errors import ConflictError, NotFoundError
from libs.contracts.paths import check_name, split_path
from libs.contracts.tree import Kind, NodeRow


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a node: a folder and a name in it, with the node that is there now."""

    parent_id: str
    name: str
    path: str
    row: NodeRow | None


def tidy(path: str) -> str:
    """Return a path below the root without a leading slash; the root's is empty."""
    return "/".join(split_path(path))


def join(folder: str, name: str) -> str:
    """Return the path of `name` in `folder`."""
    return f"{folder}/{name}" if folder else name


async def find(api: Api, path: str) -> NodeRow:
    """Return the node at a path that is not the root's.

    Raises `NotFoundError` that names the path, `LocalError` "usage" for the root.
    """
    place = tidy(path)
    if not place:
        raise LocalError("This cannot be done with the root", code="usage")
    try:
        return await api.node_at(place)
    except NotFoundError as error:
        raise NotFoundError(f"There is no {place}") from error


async def find_or_none(api: Api, path: str) -> NodeRow | None:
    """Return the node at a path, or None when there is none."""
    try:
        return await find(api, path)
    except NotFoundError:
        return None


async def folder_id(api: Api, path: str) -> str:
    """Return the id of the folder at a path, the namespace's for the root."""
    if not tidy(path):
        return api.credentials.namespace_id
    row = await find(api, path)
    if row.kind is not Kind.FOLDER:
        raise ConflictError(f"{tidy(path)} is not a folder", code="not_a_folder")
    return row.id


async def slot_for(api: Api, path: str, name_of_source: str) -> Slot:
    """Return where something named `name_of_source` goes when `path` is given as the target.

    As with cp and mv: into the folder at `path` when there is one (or it ends with a slash),
    else to that name in a folder that must be there.
    """
    place = tidy(path)
    row = await find_or_none(api, place) if place else None
    if not place or path.endswith("/") or (row is not None and row.kind is Kind.FOLDER):
        parent_id, folder, name = await folder_id(api, place), place, check_name(name_of_source)
        inside = join(folder, name)
        return Slot(parent_id, name, inside, await find_or_none(api, inside))
    folder, _, name = place.rpartition("/")
    parent_id = row.parent_id if row is not None else await folder_id(api, folder)
    return Slot(parent_id, name, place, row)


async def listing(api: Api, path: str) -> AsyncIterator[tuple[str, NodeRow]]:
    """Walk (path, row) of a folder's children, or of the one file at a path."""
    place = tidy(path)
    row = await find(api, place) if place else None
    if row is not None and row.kind is not Kind.FOLDER:
        yield place, row
        return
    async for child in api.children(row.id if row is not None else api.credentials.namespace_id):
        yield join(place, child.name), child


def row_json(path: str, row: NodeRow) -> dict[str, Any]:
    """Return a node as scripts read it."""
    return {
        "id": row.id,
        "path": path,
        "kind": row.kind.value,
        "size": row.size,
        "mtime": mtime_text(row.mtime_ns),
        "mtime_ns": row.mtime_ns,
        "content_hash": row.content_hash,
        "version_id": row.version_id,
        "executable": row.executable,
        "symlink_target": row.symlink_target,
        "seq": row.seq,
    }
