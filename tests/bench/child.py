"""One measured run of a program: seconds, processor time and memory of the child itself."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.memory import Peak


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took. `began` and `ended` are seconds since the epoch."""

    seconds: float
    cpu_seconds: float
    """User and system time of the program and of the children it has waited for."""
    peak_bytes: int
    """By VmHWM; `ru_maxrss` would begin with what this process holds."""
    began: float
    ended: float


def measured(argv: Sequence[str | Path], env: Mapping[str, str], log: Path) -> Cost:
    """Run a program to its end; what it prints goes to `log`. Raises `RuntimeError` when it fails."""
    peak = Peak()
    with log.open("wb") as output:
        began, start = time.time(), time.monotonic()
        process = subprocess.Popen(argv, env=dict(env), stdout=output, stderr=output)
        with peak.watching(process.pid):
            _, status, usage = os.wait4(process.pid, 0)
        seconds, ended = time.monotonic() - start, time.time()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak.bytes, began, ended)


def seconds_to_flush(path: Path) -> float:
    """Have a file written to the disk; near nothing where a tool has done it itself."""
    start = time.monotonic()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return time.monotonic() - start
