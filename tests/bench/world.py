"""What benchmarks run in: a stack of their own, one linked device, a folder, and the page cache."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.backends import LocalBackends
from tests.support.devices import Device, new_account
from tests.support.stack import Stack, running_stack


@dataclass(frozen=True, slots=True)
class World:
    """`rounds` and `size` (bytes) are what the caller wants; `cold` empties the cache before each run."""

    stack: Stack
    device: Device
    folder: Path
    rounds: int
    size: int
    cold: bool

    def random_file(self, name: str, size: int) -> Path:
        """A new file of random bytes, on disk, in the page cache."""
        path = self.folder / name
        with path.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - start)))
            file.flush()
            os.fsync(file.fileno())
        return path

    def prepare(self, *sources: Path) -> None:
        """Let nothing of an earlier run be written during the next; warm or empty its sources' cache."""
        os.sync()
        for source in sources:
            with source.open("rb") as file:
                if self.cold:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    while file.read(1 << 20):
                        pass


@contextmanager
def bench_world(*, rounds: int, size: int, cold: bool) -> Iterator[World]:
    """Start the world and remove it afterwards."""
    with (
        LocalBackends() as backends,
        running_stack(backends) as stack,
        tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder,
    ):
        device = new_account(stack.gateway_url, Path(folder)).link("bench", register=True)
        yield World(stack, device, Path(folder), rounds, size, cold)


def missing_room(size: int, runs: int) -> str | None:
    """Say what is missing when there is no room for `runs` copies in S3 and two files."""
    folder = Path(tempfile.gettempdir())
    usage = shutil.disk_usage(folder)
    need = (runs + 2) * size + usage.total // 100 + (1 << 30)
    if usage.free >= need:
        return None
    return f"{need / 2**30:.1f} GiB are needed in {folder}, {usage.free / 2**30:.1f} GiB are free"
