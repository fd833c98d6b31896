"""rsync between two folders as over a network: two processes, its protocol over pipes, every byte counted."""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ALTERNATIVES: Final = (
    "Install it yourself: apt-get install --no-install-recommends rsync (or: brew install rsync)"
)
_SHELL: Final = """#!/bin/sh
# What a remote shell does, without a network: leave out the host.
shift
exec /bin/sh -c "$*"
"""
_TOTAL: Final = re.compile(r"^Total bytes (?:sent|received): ([\d,.]+)", re.MULTILINE)


class RsyncMissingError(RuntimeError):
    """rsync is not there and cannot be installed; the text says why."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What one run of rsync took. `total` is in bytes, both ways, all of its protocol."""

    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rsync:
    """An rsync and the script that stands for the remote shell."""

    program: str
    shell: Path

    @property
    def version(self) -> str:
        told = subprocess.run([self.program, "--version"], check=True, capture_output=True, text=True)
        return told.stdout.splitlines()[0].strip()

    def update(self, source: Path, target: Path, *options: str) -> Moved:
        """Make the file `target`, which exists, what `source` is. Its old inode is left as it was."""
        argv = [
            *(self.program, "--times", "--ignore-times", "--no-whole-file", "--stats", *options),
            *("-e", str(self.shell), str(source), f"pipe:{target}"),
        ]
        start = time.monotonic()
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=_env())
        seconds = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(f"rsync ended with {done.returncode}: {done.stderr[-2000:]}")
        return Moved(total_of(done.stdout), seconds)


def rsync_in(folder: Path) -> Rsync:
    """Return an rsync, installed first when it is missing; raise `RsyncMissingError`."""
    program = shutil.which("rsync") or _installed()
    shell = folder / "remote-shell"
    shell.write_text(_SHELL)
    shell.chmod(0o755)
    return Rsync(program, shell)


def total_of(stats: str) -> int:
    """Add up what `--stats` says was sent and received; raise `ValueError` when it does not say so."""
    totals = [int(re.sub(r"\D", "", number)) for number in _TOTAL.findall(stats)]
    if len(totals) != 2:
        raise ValueError(f"no totals in: {stats}")
    return sum(totals)


def _env() -> dict[str, str]:
    """Without the user's own RSYNC_… variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RSYNC_")}
    return kept | {"LC_ALL": "C"}


def _installed() -> str:
    apt = [*_privilege(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    print("  rsync is not installed: installing the system's package rsync", flush=True)
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "rsync"]):
        done = subprocess.run(
            [*apt, "-o", "DPkg::Lock::Timeout=120", *command], check=False, capture_output=True
        )
        if done.returncode:
            raise RsyncMissingError(f"rsync could not be installed. {ALTERNATIVES}")
    found = shutil.which("rsync")
    if found is None:
        raise RsyncMissingError(f"The package rsync was installed but has no rsync. {ALTERNATIVES}")
    return found


def _privilege() -> list[str]:
    """The prefix that makes a command run as root: nothing, or sudo when it asks for no password."""
    if shutil.which("apt-get") is None:
        raise RsyncMissingError(f"rsync is not installed, and this system has no apt-get. {ALTERNATIVES}")
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], check=False, capture_output=True).returncode == 0:
        return [sudo, "-n"]
    raise RsyncMissingError(
        f"rsync is not installed, and installing it needs root or sudo without a password. {ALTERNATIVES}"
    )
