"""What tests start is gone afterwards, however they end.

A small process reads from a pipe what there is to clean up. When the other end of the pipe is closed (the
tests are done, were interrupted, or were killed) it kills, tidies up and ends. There is no other way out to
maintain, and a `kill -9` of the tests leaves nothing behind either.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Reaper:
    """The end of the pipe that the tests hold."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.reaper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            text=True,
        )

    def kill_group(self, leader: int) -> None:
        """Kill this process group in the end."""
        self._send({"group": leader})

    def forget_group(self, leader: int) -> None:
        """The group has ended; its number may soon be someone else's."""
        self._send({"forget": leader})

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Run this once everything is killed."""
        self._send({"run": list(argv), "env": dict(env)})

    def remove(self, folder: Path) -> None:
        """Remove this folder last."""
        self._send({"remove": str(folder)})

    def close(self) -> None:
        """Clean up now and wait until it is done."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()

    def _send(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


def clean_up(orders: list[dict[str, Any]]) -> None:
    gone = {order["forget"] for order in orders if "forget" in order}
    for order in orders:
        if "group" in order and order["group"] not in gone:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(order["group"], signal.SIGKILL)
    # The port mapper refuses to stop while it still believes its node to be alive.
    time.sleep(0.2)
    for order in orders:
        if "run" in order:
            subprocess.run(order["run"], env=order["env"], check=False, capture_output=True, timeout=10)
    for order in orders:
        if "remove" in order:
            shutil.rmtree(order["remove"], ignore_errors=True)


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    clean_up([json.loads(line) for line in sys.stdin])


if __name__ == "__main__":
    main()
