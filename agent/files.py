"""Small files that must survive a crash: written beside, flushed, renamed into place."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from agent.errors import LocalError


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, mode 0600, so that a crash leaves the old or the new whole.

    Makes the folder (mode 0700) when it is missing. Raises `LocalError` "unwritable".
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise LocalError(f"{path} cannot be written: {error.strerror}", code="unwritable") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file of mode 0600 in the folder of `path` that becomes `path` at the end.

    It is removed when the body fails. Raises `OSError`.
    """
    handle, name = tempfile.mkstemp(prefix=".lockstep-", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
