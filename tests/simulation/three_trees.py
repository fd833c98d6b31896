"""Three random trees that need not come from any history, and the device that has them."""

import random

from agent.model import FileStat, Kind, LocalKind, RemoteNode, SyncedNode
from tests.simulation.device import Device, Habits
from tests.simulation.disk import Disk, DiskKind, join
from tests.simulation.server import ROOT, RefusedError, Server

NAMES = ("a", "b", "c", "A", "d.txt")
CONTENTS = ("x", "y", "z", "")
KINDS = (Kind.FILE, Kind.FILE, Kind.FOLDER, Kind.FOLDER, Kind.SYMLINK)


class Ticker:
    """A clock that only counts."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def random_device(rng: random.Random) -> Device:
    """Return a device whose three trees know little of each other."""
    server = random_server(rng)
    kind = DiskKind(rng.random() < 0.5, rng.random() < 0.5)
    disk = random_disk(rng, kind)
    device = Device("A", server, disk, Habits(rng.random() < 0.5, rng.random() < 0.5))
    device.memory.synced = random_synced(rng, server, disk)
    return device


def random_server(rng: random.Random) -> Server:
    server = Server()
    for _ in range(rng.randrange(8)):
        parents = [ROOT, *(n.id for n in server.live() if n.kind is Kind.FOLDER)]
        try:
            _make(rng, server, rng.choice(parents), rng.choice(NAMES))
        except RefusedError:
            continue
        if rng.random() < 0.2:
            node = rng.choice(list(server.rows.values()))
            server.delete(node.id, node.version_id, server.seq)
    return server


def _make(rng: random.Random, server: Server, parent: str, name: str) -> RemoteNode:
    match rng.choice(KINDS):
        case Kind.FOLDER:
            return server.create_folder(parent, name)
        case Kind.SYMLINK:
            return server.create_symlink(parent, name, rng.choice(CONTENTS) or "x")
        case _:
            return server.commit_new(
                parent, name, rng.choice(CONTENTS), rng.randrange(3), executable=rng.random() < 0.3
            )


def random_disk(rng: random.Random, kind: DiskKind) -> Disk:
    disk = Disk(kind, Ticker())
    for _ in range(rng.randrange(8)):
        folders = ["", *(p for p, i in disk.entries.items() if i.kind is LocalKind.FOLDER)]
        path = join(rng.choice(folders), rng.choice(NAMES))
        if path not in disk.entries:
            made = LocalKind(rng.choice(KINDS).value)
            content = "" if made is LocalKind.FOLDER else rng.choice(CONTENTS)
            disk.add(path, made, content or ("x" if made is LocalKind.SYMLINK else ""))
    return disk


def random_synced(rng: random.Random, server: Server, disk: Disk) -> dict[str, SyncedNode]:
    """Rows about some nodes of the server and about unknown ones; each in a tree of its own."""
    synced: dict[str, SyncedNode] = {}
    known = [row for row in server.rows.values() if rng.random() < 0.7]
    unknown = [
        RemoteNode(f"{0xF000 + n:024x}", ROOT, "", rng.choice(KINDS), 0) for n in range(rng.randrange(3))
    ]
    for row in (*known, *unknown):
        parents = [ROOT, *(n.id for n in synced.values() if n.kind is Kind.FOLDER)]
        keeps = row.name and row.parent_id in parents and rng.random() < 0.7
        place = (row.parent_id, row.name) if keeps else (rng.choice(parents), rng.choice(NAMES))
        if all((n.parent_id, n.name) != place for n in synced.values()):
            synced[row.id] = _synced(rng, row, place, disk)
    return synced


def _synced(rng: random.Random, row: RemoteNode, place: tuple[str, str], disk: Disk) -> SyncedNode:
    content = row.content_hash if rng.random() < 0.6 else rng.choice(CONTENTS)
    is_file, is_link = row.kind is Kind.FILE, row.kind is Kind.SYMLINK
    return SyncedNode(
        row.id,
        *place,
        row.kind,
        version_id=row.version_id if rng.random() < 0.7 else "v-unknown",
        content_hash=(content or "") if is_file else None,
        size=len(content or ""),
        mtime_ns=rng.randrange(3),
        symlink_target=rng.choice([row.symlink_target, "x", "y"]) if is_link else None,
        stat=_stat(rng, disk),
    )


def _stat(rng: random.Random, disk: Disk) -> FileStat | None:
    if not disk.entries or rng.random() < 0.3:
        return None
    return disk.look(rng.choice(list(disk.entries))).stat


def random_rows(rng: random.Random) -> dict[str, RemoteNode]:
    """Rows as no server sends them: unknown parents, rings, parents that are files, names twice."""
    ids = [f"{n + 1:024x}" for n in range(rng.randrange(1, 9))]
    parents = [ROOT, *ids, "f" * 24]
    return {
        key: RemoteNode(
            key,
            rng.choice(parents),
            rng.choice(NAMES),
            rng.choice(KINDS),
            number + 1,
            deleted=rng.random() < 0.2,
            version_id=f"v{rng.randrange(4)}",
            content_hash=rng.choice(CONTENTS),
            symlink_target=rng.choice(CONTENTS),
        )
        for number, key in enumerate(ids)
    }
