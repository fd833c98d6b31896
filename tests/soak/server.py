"""What the server says, asked as a device would: the whole feed, versions, sessions."""

from collections.abc import Iterator
from typing import Any

from libs.contracts.paths import name_key
from tests.support.devices import Device

Row = dict[str, Any]


def rows_of(device: Device) -> list[Row]:
    """Return the latest state of every node, live or deleted."""
    rows: list[Row] = []
    page = device.get("/v1/sync")
    while True:
        rows += page["items"]
        if not page["has_more"]:
            return rows
        page = device.get(f"/v1/sync?cursor={page['cursor']}")


def live_rows(rows: list[Row]) -> dict[str, Row]:
    """Return the rows of what is there, by path; names in their normal form."""
    by_id = {row["id"]: row for row in rows}
    found = {}
    for row in rows:
        path = _path(row, by_id)
        if path is not None:
            found[path] = row
    return found


def _path(row: Row, by_id: dict[str, Row]) -> str | None:
    names: list[str] = []
    current: Row | None = row
    while current is not None:
        if current["deleted"]:
            return None
        names.append(name_key(current["name"]))
        parent = current["parent_id"]
        if parent == current["namespace_id"]:
            return "/".join(reversed(names))
        current = by_id.get(parent)
    return None


def tree_of_rows(rows: list[Row]) -> dict[str, str]:
    """Return path → what is there, as `tree_of` in `field` says it of a folder."""
    return {path: _described(row) for path, row in live_rows(rows).items()}


def _described(row: Row) -> str:
    match row["kind"]:
        case "symlink":
            return f"link {row['symlink_target']}"
        case "folder":
            return "folder"
        case _:
            return f"file {'x' if row['executable'] else '-'} {row['content_hash']} {row['mtime_ns']}"


def contents_of(rows: list[Row]) -> list[str]:
    """Return the live contents as the ledger knows them."""
    live = live_rows(rows).values()
    files = [row["content_hash"] for row in live if row["kind"] == "file"]
    return files + [f"-> {row['symlink_target']}" for row in live if row["kind"] == "symlink"]


def every_version(device: Device, rows: list[Row]) -> Iterator[str]:
    """Yield the contents of all versions of all files, deleted ones too, and the targets of links."""
    for row in rows:
        if row["kind"] == "symlink":
            yield f"-> {row['symlink_target']}"
        elif row["kind"] == "file":
            yield from (
                version["content_hash"] for version in device.get(f"/v1/files/{row['id']}/versions")["items"]
            )


def open_sessions(device: Device) -> list[Row]:
    """Return the upload sessions that have not ended."""
    items: list[Row] = device.get("/v1/uploads?state=all")["items"]
    return [item for item in items if item["state"] in {"open", "completing", "committing"}]
