"""Edited files from device to device: bytes and seconds of `lockstep sync` beside rsync, edit by edit."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import edits
from tests.bench.differences import NEVER_MORE, Differences, Row, Run
from tests.bench.releases import PAIRS, NoReleaseError, Pair, tar_of
from tests.bench.rsync import Moved, Rsync, RsyncMissingError, rsync_in
from tests.bench.wire import Wire
from tests.bench.world import World
from tests.support.devices import Device, new_account

_HALF = frozenset({"1 byte changed in the middle", "1,000 bytes inserted at the front"})
"""Cases that are to take at most half of rsync's bytes."""
COPIES = 10
"""Of the large file: its versions in S3, on both devices and beside rsync."""


def run(world: World) -> Differences:
    """Measure every case; one that cannot be is named with the reason."""
    results = Differences(
        f"delta: edits of {world.size / 2**30:.2f} GiB and of real material", notes=_notes()
    )
    folder = world.folder / "delta"
    folder.mkdir()
    try:
        rsync = rsync_in(folder)
    except RsyncMissingError as error:
        results.missing.append(str(error))
        return results
    results.notes.append(rsync.version)
    with _devices(world, folder) as (wire, a, b):
        bench = _Bench(world, folder, rsync, wire, a, b, results)
        bench.large()
        bench.small()
        for pair in PAIRS:
            bench.releases(pair)
    return results


@contextmanager
def _devices(world: World, folder: Path) -> Iterator[tuple[Wire, Device, Device]]:
    """Two devices of an account, of whose connections every byte is counted."""
    with Wire().running() as wire:
        public = {"LOCKSTEP_S3_PUBLIC_ENDPOINT": wire.url_to(world.stack.env["LOCKSTEP_S3_PUBLIC_ENDPOINT"])}
        for name in ("upload", "download"):
            world.stack.restart_with(name, public)
        account = new_account(wire.url_to(world.stack.gateway_url), folder)
        try:
            yield wire, account.link("a", register=True), account.link("b")
        finally:
            direct = {"LOCKSTEP_S3_PUBLIC_ENDPOINT": world.stack.env["LOCKSTEP_S3_PUBLIC_ENDPOINT"]}
            for name in ("upload", "download"):
                world.stack.restart_with(name, direct)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Each case: a file that both devices have is edited on one, and brought to the other."""

    world: World
    folder: Path
    rsync: Rsync
    wire: Wire
    a: Device
    b: Device
    results: Differences

    def large(self) -> None:
        made = self.world.random_file("large", self.world.size)
        name = "large.bin"
        self._share(name, lambda path: shutil.move(made, path))
        for device in (self.a, self.b):
            self.results.idle[device.name] = self._sync(device)
        for edit in edits.large_edits(self.world.size):
            self._measure(name, edit.name, edit.apply)
        self._drop(name)

    def small(self) -> None:
        self._share("text.txt", edits.write_text)
        self._measure("text.txt", "10 MB of text, one line edited", edits.edit_a_line)
        self._share("data.sqlite", edits.write_database)
        self._measure("data.sqlite", "SQLite, 100 MB, 1,000 updates", edits.update_rows)
        self._share("paper.docx", edits.write_document)
        self._measure("paper.docx", "docx, one word near its beginning", edits.edit_document)

    def releases(self, pair: Pair) -> None:
        """Two releases, one over the other, as a download of the new one under the old name would be."""
        try:
            old, new = (tar_of(pair.package, version, self.folder) for version in (pair.old, pair.new))
        except NoReleaseError as error:
            self.results.missing.append(f"{pair.name}: {error}")
            return
        name = f"{pair.package}.tar"
        self._share(name, lambda path: shutil.copyfile(old, path))
        self._measure(name, pair.name, lambda path: shutil.copyfile(new, path))

    def _share(self, name: str, write: Callable[[Path], object]) -> None:
        write(self.a.path(name))
        for device in (self.a, self.b):
            self._sync(device)

    def _drop(self, name: str) -> None:
        self.a.path(name).unlink()
        for device in (self.a, self.b):
            device.sync("--allow-mass-delete")

    def _measure(self, name: str, case: str, edit: Callable[[Path], object]) -> None:
        source, target = self.a.path(name), self.b.path(name)
        edit(source)
        self.world.prepare(source)
        plain, packed = (self._by_rsync(source, target, *options) for options in ((), ("-z",)))
        self.world.prepare(source)
        up, down = self._sync(self.a), self._sync(self.b)
        if _sha256(target) != _sha256(source):
            raise AssertionError(f"{case}: the devices differ")
        goal = 0.5 if case in _HALF else NEVER_MORE
        row = Row(case, source.stat().st_size, goal, up, down, plain, packed)
        self.results.rows.append(row)
        print(f"  {case}: {up.total:,} up, {down.total:,} down, rsync {plain.total:,}", flush=True)

    def _by_rsync(self, source: Path, old: Path, *options: str) -> Moved:
        """Bring a copy of what the other device has to the new state."""
        target = self.folder / "by-rsync" / source.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(old, target)
        self.world.prepare(source, target)
        moved = self.rsync.update(source, target, *options)
        if _sha256(target) != _sha256(source):
            raise AssertionError("rsync did not bring what was to be brought")
        target.unlink()
        return moved

    def _sync(self, device: Device) -> Run:
        before, start = self.wire.total, time.monotonic()
        report = device.sync()
        seconds = time.monotonic() - start
        payload = report["uploaded_bytes"] + report["downloaded_bytes"]
        return Run(payload, report["api_bytes"], self.wire.total - before, seconds)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _notes() -> list[str]:
    return [
        "up: `lockstep sync` on the device with the edit; down: then on the other; each is a process.",
        "bytes: payload to or from S3 and the bodies of all API calls, both ways, that of `sync` itself too.",
        "wire: all bytes of the device's connections, HTTP headers too (without TLS).",
        "rsync: sent and received of `--stats`, sender and receiver as processes that talk over pipes,",
        "  one way from a folder to another; each direction of Lockstep is compared with it.",
        "docx: deflate writes what follows an edit differently to the end of the member, for any tool.",
    ]
