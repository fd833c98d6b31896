"""get: one file, without a synced folder. Killed or interrupted, the same command goes on with it."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.commands import places
from agent.commands.context import Context, until_interrupted
from agent.commands.output import print_error, print_note
from agent.commands.partial import Partial, partial
from agent.commands.showing import shown
from agent.errors import ExitCode, LocalError
from agent.progress import ProgressBar
from agent.status import human_size
from agent.transfer import Transfer
from libs.contracts.api import Download
from libs.contracts.errors import ConflictError, LockstepError
from libs.contracts.limits import MIB
from libs.contracts.paths import check_name
from libs.contracts.tree import Kind, NodeRow

_STANDARD_OUTPUT: Final = "-"


async def get(context: Context, remote: str, local: str, version_id: str | None) -> int | None:
    """Fetch a file, verified, to a path (replaced as a whole), into a folder, or to `-`."""
    done = await until_interrupted(_get(context, remote, local, version_id))
    return None if done else ExitCode.INTERRUPTED


async def _get(context: Context, remote: str, local: str, version_id: str | None) -> bool:
    if local == _STANDARD_OUTPUT and context.as_json:
        raise LocalError("--json and - both want standard output", code="usage")
    async with context.transfer() as (api, transfer):
        row = await places.find(api, remote)
        if row.kind is not Kind.FILE:
            raise ConflictError(f"{places.tidy(remote)} is not a file", code="not_a_file")
        item = await api.download(row.id, version_id)
        if local == _STANDARD_OUTPUT:
            await _fetch_to_stdout(transfer, item, row.name)
            return True
        target = _target_path(local, row.name)
        await _fetch(context, transfer, item, (row, target))
    public = item.model_dump(mode="json", include={"version_id", "size", "content_hash"})
    travelled = {"downloaded_bytes": transfer.tally.downloaded_bytes}
    context.say(
        {"id": row.id, "path": places.tidy(remote), "local": str(target), **public, **travelled}, None
    )
    return True


def _target_path(local: str, name: str) -> Path:
    """Return where a remote file called `name` goes: into `local` when that is a folder."""
    path = Path(local)
    return path / check_name(name) if path.is_dir() or local.endswith("/") else path


async def _fetch_to_stdout(transfer: Transfer, item: Download, name: str) -> None:
    """Only whole and verified bytes are written out. Nothing is kept of a try that fails."""
    with tempfile.TemporaryFile() as file:
        with ProgressBar() as bar, shown(transfer, bar, name, "downloading", item.size):
            await transfer.download(item, file.fileno())
        file.seek(0)
        await asyncio.to_thread(shutil.copyfileobj, file, sys.stdout.buffer, MIB)
        sys.stdout.buffer.flush()


async def _fetch(context: Context, transfer: Transfer, item: Download, what: tuple[NodeRow, Path]) -> None:
    """Fetch into the partial file beside the target and make it that one."""
    row, target = what
    with _writing(target), partial(target, item) as file, _telling(context, file, item.size):
        with ProgressBar() as bar, shown(transfer, bar, row.name, "downloading", item.size):
            if await transfer.download(item, file.fd, file.journal) != item.content_hash:
                raise LocalError(code="corrupt_download")
        _dress(file.fd, row, current=item.version_id == row.version_id)
        file.install()


@contextmanager
def _telling(context: Context, file: Partial, size: int) -> Iterator[None]:
    """Say what is kept of a file that did not come to its end."""
    try:
        yield
    except asyncio.CancelledError:
        print_error("interrupted", _kept(file, size) or "Interrupted", as_json=context.as_json)
        raise
    except (LockstepError, OSError):
        kept = _kept(file, size)
        if kept is not None and not context.as_json:
            print_note(kept)
        raise


def _kept(file: Partial, size: int) -> str | None:
    held = file.held()
    if not held:
        return None
    have = f"{human_size(held)} of {human_size(size)}"
    return f"{have} are kept in {file.path}; the same command goes on from there"


def _dress(fd: int, row: NodeRow, *, current: bool) -> None:
    """Give the file the mode and, for the current version, the time of the remote one."""
    umask = os.umask(0)
    os.umask(umask)
    os.fchmod(fd, (0o777 if row.executable else 0o666) & ~umask)
    if current and row.mtime_ns is not None:
        os.utime(fd, ns=(row.mtime_ns, row.mtime_ns))


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalError(f"{target} cannot be written: {error.strerror}", code="unwritable") from error
