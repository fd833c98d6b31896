"""Mounting by system calls: needs root, and nothing that is installed."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_DETACH: Final = 2


def mount(source: str, target: Path, kind: str, options: str = "") -> None:
    """Mount; raises `OSError`."""
    done = _LIBC.mount(source.encode(), os.fsencode(target), kind.encode(), 0, options.encode())
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path) -> None:
    """Take a disk away at once, whoever uses it; nothing happens where none is mounted."""
    _LIBC.umount2(os.fsencode(target), _DETACH)


@contextmanager
def tmpfs(target: Path) -> Iterator[None]:
    """Mount an empty disk in memory for the body, which may unmount it itself."""
    mount("lockstep-test", target, "tmpfs")
    try:
        yield
    finally:
        unmount(target)


@cache
def why_no_mounts() -> str | None:
    """Say why nothing can be mounted here; None when it can."""
    if not sys.platform.startswith("linux"):
        return "mounts are tried on Linux only"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tmpfs(Path(folder)):
                return None
        except OSError as error:
            return f"mounting is not permitted: {error.strerror}"
