"""What large files consist of is remembered by real devices."""

import hashlib
import os

from agent.manifests import Manifests
from tests.support.devices import Device


def test_a_device_knows_the_chunks_of_the_large_files_it_has_hashed(two: tuple[Device, Device]) -> None:
    a, _ = two
    content = os.urandom(300_000)
    a.write("large", content)
    a.write("small", os.urandom(1000))
    a.quick_sync()
    cache = a.home / "manifests"
    name = hashlib.sha256(content).hexdigest()
    assert {path.name for path in cache.iterdir()} == {name, "sketches"}
    manifest = Manifests(cache).base_for(name)
    assert manifest is not None
    assert manifest.size == len(content)
    times = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert a.quick_sync()["in_step"]
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == times


def test_a_cache_that_cannot_be_written_holds_nothing_up(two: tuple[Device, Device]) -> None:
    a, b = two
    (a.home / "manifests").write_text("no folder")
    content = os.urandom(300_000)
    a.write("large", content)
    assert a.quick_sync()["in_step"]
    b.quick_sync()
    assert b.path("large").read_bytes() == content
