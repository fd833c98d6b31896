"""The most memory that processes have held at once, by the kernel's own count."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 1_000_000
_EVERY = 0.2


def peak_of(pid: int) -> int:
    """Bytes of a process's VmHWM; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


class Peak:
    """The highest of what was looked at."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        """Look again and again while the body runs; a high-water mark needs no dense looks."""
        done = threading.Event()

        def look() -> None:
            while True:
                self.bytes = max(self.bytes, peak_of(pid))
                if done.wait(_EVERY):
                    return

        watcher = threading.Thread(target=look, name="memory")
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
