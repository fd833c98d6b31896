"""What holds whenever devices have come to rest, whatever happened before: the invariants, asked at once.

Convergence: all folders and the server's tree are equal. Termination: a further run does nothing and
moves no bytes. No loss: every content that a user wrote with `Device.write` is somewhere. No corruption:
every visible file is what some user wrote.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from libs.contracts.ids import EMPTY_SHA256
from tests.support.devices import Device, check_same, hash_of, tree_of

Row = dict[str, Any]


DOING = (
    "uploaded_files", "uploaded_bytes", "downloaded_files", "downloaded_bytes",
    "conflicts", "deleted", "moved",
)  # fmt: skip


def share(first: Device, *others: Device) -> None:
    """Bring what the first device has to the others, which have nothing of their own yet."""
    for device in (first, *others):
        device.quick_sync()
    for other in others:
        check_same(tree_of(first.folder), tree_of(other.folder), f"{first.name} and {other.name}")


def settle(*devices: Device, lost: Iterable[str] = ()) -> None:
    """Sync the devices in this order until they rest, and check the invariants.

    They rest when a whole round did nothing and moved no bytes. `lost`: contents that their own
    writer overwrote or removed before anything could see them.
    """
    for _ in range(6):
        done = [work for device in devices if (work := done_by(device))]
        if not done:
            break
    else:
        raise AssertionError("the devices do not come to rest")
    for device in devices:
        check_same(tree_of(device.folder), server_tree(device), f"{device.name} and the server")
    check_contents(*devices, lost=lost)


def done_by(device: Device) -> dict[str, int]:
    """Sync once; what that did, empty when nothing."""
    report = device.quick_sync()
    return {key: report[key] for key in DOING if report[key]}


def check_rest(*devices: Device) -> None:
    """A further run does nothing and moves no bytes; what the server has is what the folders have."""
    for device in devices:
        done = done_by(device)
        assert not done, f"{device.name} is not at rest: {done}"
        check_same(tree_of(device.folder), server_tree(device), f"{device.name} and the server")


def check_contents(*devices: Device, lost: Iterable[str] = ()) -> None:
    """Nothing written is lost, and nothing is there that nobody wrote."""
    written = {key: name for device in devices for key, name in device.written.items()}
    dropped = {hash_of(content.encode()) for content in lost}
    rows = feed(devices[0])
    kept = {*local_hashes(devices), *(row["content_hash"] for row in rows)}
    if not written.keys() - dropped <= kept:
        kept |= version_hashes(devices[0], rows)
    missing = [name for key, name in written.items() if key not in kept and key not in dropped]
    assert not missing, f"lost: what was written to {missing}"
    for device in devices:
        strange = [
            path for path, what in tree_of(device.folder).items()
            if what.startswith("file") and what.rpartition(" ")[2] not in {*written, EMPTY_SHA256}
        ]  # fmt: skip
        assert not strange, f"nobody wrote what is in {strange} of {device.name}"


# The server's side ----------------------------------------------------------------------------


def feed(device: Device) -> list[Row]:
    """The whole feed: each node once, deleted ones too."""
    rows: list[Row] = []
    query = ""
    while True:
        page = device.get(f"/v1/sync{query}")
        rows += page["items"]
        if not page["has_more"]:
            return rows
        query = f"?cursor={page['cursor']}"


def server_tree(device: Device) -> dict[str, str]:
    """The live tree of the server, described as `tree_of` describes a folder."""
    rows = {row["id"]: row for row in feed(device)}
    return {path: _described(row) for row in rows.values() if (path := _live_path(row, rows)) is not None}


def _live_path(row: Row, rows: dict[str, Row]) -> str | None:
    names: list[str] = []
    current: Row | None = row
    while current is not None:
        if current["deleted"]:
            return None
        names.append(current["name"])
        current = rows.get(current["parent_id"])
    return "/".join(reversed(names))


def _described(row: Row) -> str:
    if row["kind"] == "file":
        return f"file {'x' if row['executable'] else '-'} {row['content_hash']}"
    return "folder" if row["kind"] == "folder" else f"link {row['symlink_target']}"


def version_hashes(device: Device, rows: Iterable[Row]) -> set[str]:
    """The contents of all versions of all files, live or deleted."""
    found: set[str] = set()
    for row in rows:
        if row["kind"] == "file":
            found |= {item["content_hash"] for item in versions(device, row["id"])}
    return found


def versions(device: Device, node_id: str) -> list[Row]:
    """The versions of a file, the newest first."""
    items: list[Row] = device.get(f"/v1/files/{node_id}/versions")["items"]
    return items


def changes_since(device: Device, seq: int) -> list[Row]:
    """The nodes that changed after a sequence number."""
    return [row for row in feed(device) if row["seq"] > seq]


def head(device: Device) -> int:
    """The last sequence number that the server has given out."""
    return max((int(row["seq"]) for row in feed(device)), default=0)


# The folders' side ----------------------------------------------------------------------------


def local_hashes(devices: Iterable[Device]) -> set[str]:
    """The contents of all files in the folders, the agent's own trash and temporary files too."""
    return {hash_of(path.read_bytes()) for device in devices for path in files_below(device.folder)}


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file below a folder that can be read."""
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                yield path
