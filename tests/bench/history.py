"""What history costs in storage: a file that is edited again and again, each version a whole object."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from libs.contracts.keys import MANIFESTS_PREFIX, OBJECTS_PREFIX
from tests.bench.world import World
from tests.support.devices import Device, new_account
from tests.support.s3_client import s3_client

VERSIONS: Final = 20
FILE_BYTES: Final = 100_000_000
_EDIT_BYTES: Final = 1000


@dataclass(frozen=True, slots=True)
class Stored:
    """What S3 holds, in bytes."""

    objects: int = 0
    object_bytes: int = 0
    manifests: int = 0
    manifest_bytes: int = 0


@dataclass
class History:
    """What was stored and sent for the versions, and what `lockstep usage` says of them."""

    file_bytes: int
    versions: int
    stored: Stored
    sent_bytes: int
    usage: dict[str, Any]
    name: str = "history"
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The numbers for people."""
        stored, told = self.stored, self.usage["history"]
        share = stored.manifest_bytes / stored.object_bytes
        return "\n".join([
            f"history: {self.versions} versions of {self.file_bytes:,} bytes, {_EDIT_BYTES} bytes edited",
            f"  sent                      {self.sent_bytes:15,}  payload of all versions, the first whole",
            f"  in S3, {stored.objects:3} objects       {stored.object_bytes:15,}",
            f"  in S3, {stored.manifests:3} manifests     {stored.manifest_bytes:15,}  {share:.2%} of them",
            f"  usage: used_bytes         {self.usage['used_bytes']:15,}",
            f"  usage: current_bytes      {told['current_bytes']:15,}",
            f"  usage: older_bytes        {told['older_bytes']:15,}",
            f"  usage: versions, objects  {told['versions']:11,}, {told['objects']:,}",
        ])  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return asdict(self)


def run(world: World) -> History:
    """Commit the versions one after the other with `lockstep sync`, and look at what is there."""
    folder = world.folder / "history"
    folder.mkdir()
    before = _stored(world)
    device = new_account(world.stack.gateway_url, folder).link("history", register=True)
    size = min(FILE_BYTES, world.size)
    sent = _write_versions(device, world.random_file("versions", size), size)
    after = _stored(world)
    added = Stored(*(new - old for new, old in zip(_values(after), _values(before), strict=True)))
    return History(size, VERSIONS, added, sent, device.run("usage"))


def _write_versions(device: Device, made: Path, size: int) -> int:
    """Return the payload that travelled."""
    rng, path = Random(9), device.path("versions.bin")
    made.replace(path)
    sent: int = device.quick_sync()["uploaded_bytes"]
    for number in range(1, VERSIONS):
        with path.open("r+b") as file:
            file.seek(rng.randrange(size - _EDIT_BYTES))
            file.write(rng.randbytes(_EDIT_BYTES))
        sent += device.quick_sync()["uploaded_bytes"]
        print(f"  version {number + 1}: {sent:,} bytes sent so far", flush=True)
    return sent


def _stored(world: World) -> Stored:
    sizes: dict[str, list[int]] = {}
    for prefix in (OBJECTS_PREFIX, MANIFESTS_PREFIX):
        pages = s3_client(world.stack.env).get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=world.stack.env["LOCKSTEP_S3_BUCKET"], Prefix=prefix)
        sizes[prefix] = [row["Size"] for page in found for row in page.get("Contents", [])]
    objects, manifests = sizes[OBJECTS_PREFIX], sizes[MANIFESTS_PREFIX]
    return Stored(len(objects), sum(objects), len(manifests), sum(manifests))


def _values(stored: Stored) -> tuple[int, int, int, int]:
    return stored.objects, stored.object_bytes, stored.manifests, stored.manifest_bytes
