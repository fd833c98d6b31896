"""ls, mv, rm, versions, restore, trash: what works without bytes."""

from typing import Any, Final

from agent.commands import places
from agent.commands.context import Context
from agent.remote import Api
from agent.status import stamp
from libs.contracts.api import Version, VersionKeep
from libs.contracts.errors import ConflictError, NotFoundError, error_from_code
from libs.contracts.tree import Delete, ItemResult, Kind, Move, NodeRow, TreeOp

_TRIES: Final = 5


async def ls(context: Context, path: str) -> None:
    """List a folder, or show one node."""
    async with context.api() as api:
        items = [places.row_json(place, row) async for place, row in places.listing(api, path)]
    items.sort(key=lambda item: item["path"])
    context.table(items, ("kind", "size", "mtime", "path"))


async def mv(context: Context, source: str, target: str) -> None:
    """Move or rename, as mv does: into a folder that is there; what a file replaces goes to the trash."""
    async with context.api() as api:
        row = await places.find(api, source)
        slot = await places.slot_for(api, target, row.name)
        moved = row if slot.row is not None and slot.row.id == row.id else await _moved(api, row, slot)
    context.say(places.row_json(slot.path, moved), None)


async def _moved(api: Api, row: NodeRow, slot: places.Slot) -> NodeRow:
    ops: list[TreeOp] = []
    if slot.row is not None:
        ops.append(_replaced(slot.row, row))
    move = Move(
        node_id=row.id,
        expect_parent_id=row.parent_id,
        expect_name=row.name,
        parent_id=slot.parent_id,
        name=slot.name,
    )
    results = await api.tree_batch([*ops, move])
    return [_row_of(result) for result in results][-1]


def _replaced(there: NodeRow, row: NodeRow) -> Delete:
    """Return the deletion of what is replaced: only what is no folder, and by what is none."""
    if Kind.FOLDER in {there.kind, row.kind}:
        raise ConflictError(f"{there.name} is there already", code="name_taken")
    return _delete(there, there.seq)


async def rm(context: Context, path: str) -> None:
    """Delete a node; a folder goes with everything in it."""
    async with context.api() as api:
        row = await places.find(api, path)
        deleted = await _deleted(api, row)
    context.say(places.row_json(places.tidy(path), deleted), None)


async def _deleted(api: Api, row: NodeRow) -> NodeRow:
    """Delete what is there now: when something below changes in that moment, look again."""
    for _ in range(_TRIES - 1):
        result = await _delete_once(api, row)
        if result.code != "subtree_changed":
            return _row_of(result)
    return _row_of(await _delete_once(api, row))


async def _delete_once(api: Api, row: NodeRow) -> ItemResult:
    seen = await api.head_seq() if row.kind is Kind.FOLDER else row.seq
    return (await api.tree_batch([_delete(row, seen)]))[0]


def _delete(row: NodeRow, seen_seq: int) -> Delete:
    if row.kind is Kind.FILE:
        return Delete(node_id=row.id, version_id=row.version_id)
    return Delete(node_id=row.id, seen_seq=seen_seq)


async def versions(context: Context, path: str) -> None:
    """List the versions of a file, newest first, and for how long each is kept."""
    async with context.api() as api:
        row = await _not_deleted(api, path)
        items = [_version(version) async for version in api.versions(row.id)]
    context.table(items, ("id", "created_at", "size", "device", "current", "kept"))


def _version(version: Version) -> dict[str, Any]:
    until = None if version.kept_until is None else stamp(version.kept_until)
    return {
        **version.model_dump(mode="json", exclude={"node_id"}),
        "created_at": stamp(version.created_at),
        "kept_until": until,
        "kept": _kept(version, until),
    }


def _kept(version: Version, until: str | None) -> str:
    """Return for people why or until when a version is kept."""
    words = {
        VersionKeep.CURRENT: "it is current",
        VersionKeep.RECENT: "among the newest",
        VersionKeep.AGE: f"until {until}",
        VersionKeep.OVER: "soon to be removed",
    }
    kept = "" if version.keep is None else words[version.keep]
    return f"corrupt, {kept}".rstrip(", ") if version.corrupt else kept


async def _not_deleted(api: Api, path: str) -> NodeRow:
    """Return the node at a path; where it is in the trash, say how it comes back."""
    try:
        return await places.find(api, path)
    except NotFoundError:
        place = places.tidy(path)
        async for item in api.trash():
            lost = item.path.lstrip("/")
            if place == lost or place.startswith(f"{lost}/"):
                raise ConflictError(
                    f"{lost} is in the trash: bring it back first with `lockstep trash restore {lost}`",
                    code="node_deleted",
                ) from None
        raise


async def restore(context: Context, path: str, version_id: str) -> None:
    """Make an old version current again, as a new version."""
    async with context.api() as api:
        row = await _not_deleted(api, path)
        restored = await api.restore_version(row.id, version_id, row.version_id)
    context.say(places.row_json(places.tidy(path), restored), f"{places.tidy(path)} is restored.")


async def trash(context: Context) -> None:
    """List what was deleted, last deleted first."""
    items: list[dict[str, Any]] = []
    async with context.api() as api:
        async for item in api.trash():
            row = item.row
            items.append(
                {
                    "id": row.id,
                    "path": item.path.lstrip("/"),
                    "deleted_at": stamp(item.deleted_at),
                    "kind": row.kind.value,
                    "size": row.size,
                }
            )
    context.table(items, ("deleted_at", "kind", "size", "path"))


async def restore_trash(context: Context, path: str) -> None:
    """Bring back what was deleted last at a path."""
    place = places.tidy(path)
    async with context.api() as api:
        async for item in api.trash():
            if item.path.lstrip("/") == place:
                row = await api.restore_trash(item.row.id)
                break
        else:
            raise NotFoundError(f"There is no {place} in the trash")
    restored = places.join(place.rpartition("/")[0], row.name)
    context.say(places.row_json(restored, row), f"{restored} is back.")


def _row_of(result: ItemResult) -> NodeRow:
    if result.row is None or result.code is not None:
        extra = {} if result.current is None else {"current": result.current}
        raise error_from_code(result.code or "internal", result.detail or "", **extra)
    return result.row
