"""get, put, uploads: single files, without a synced folder."""

import asyncio
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from agent.commands import places
from agent.commands.context import Context
from agent.errors import LocalError
from agent.files import replacing
from agent.progress import Progress, ProgressBar, progress_of, short_name
from agent.rates import Meter, age_text, seconds_left
from agent.remote import Api
from agent.status import percent, stamp
from agent.transfer import Direction, LargeSource, Transfer
from libs.contracts.api import Download, Upload, UploadState
from libs.contracts.errors import ConflictError, InvalidRequestError, NotFoundError
from libs.contracts.limits import MIB
from libs.contracts.paths import check_name
from libs.contracts.tree import CommitTarget, Kind, NodeRow

_STANDARD_OUTPUT = "-"


async def get(context: Context, remote: str, local: str, version_id: str | None) -> None:
    """Fetch a file, verified, to a path (replaced as a whole), into a folder, or to `-`."""
    if local == _STANDARD_OUTPUT and context.as_json:
        raise LocalError("--json and - both want standard output", code="usage")
    async with context.transfer() as (api, transfer):
        row = await places.find(api, remote)
        if row.kind is not Kind.FILE:
            raise ConflictError(f"{places.tidy(remote)} is not a file", code="not_a_file")
        item = await api.download(row.id, version_id)
        target = await _fetch(transfer, item, row, local)
    if target is not None:
        public = item.model_dump(mode="json", include={"version_id", "size", "content_hash"})
        context.say({"id": row.id, "path": places.tidy(remote), "local": str(target), **public}, None)


async def _fetch(transfer: Transfer, item: Download, row: NodeRow, local: str) -> Path | None:
    if local == _STANDARD_OUTPUT:
        await _fetch_to_stdout(transfer, item, row.name)
        return None
    target = _target_path(local, row.name)
    with _writing(target), replacing(target) as file:
        await _fetch_shown(transfer, item, file, row.name)
        _dress(file.fileno(), row, current=item.version_id == row.version_id)
    return target


def _target_path(local: str, name: str) -> Path:
    """Return where a remote file called `name` goes: into `local` when that is a folder."""
    path = Path(local)
    return path / check_name(name) if path.is_dir() or local.endswith("/") else path


async def _fetch_to_stdout(transfer: Transfer, item: Download, name: str) -> None:
    """Only whole and verified bytes are written out."""
    with tempfile.TemporaryFile() as file:
        await _fetch_shown(transfer, item, file, name)
        file.seek(0)
        await asyncio.to_thread(shutil.copyfileobj, file, sys.stdout.buffer, MIB)
        sys.stdout.buffer.flush()


async def _fetch_shown(transfer: Transfer, item: Download, file: BinaryIO, name: str) -> None:
    with ProgressBar() as bar, _shown(transfer, bar, name, "downloading", item.size):
        await transfer.download(item, file.fileno())


@contextmanager
def _shown(transfer: Transfer, bar: ProgressBar, path: str, code: Direction, size: int) -> Iterator[None]:
    """Draw what moves in the body for one file: the line for all is the file's."""
    tally = transfer.tally

    def draw(_count: int) -> None:
        bar(replace(progress_of(tally, short_name(path), size), transfers=()))

    tally.on_change = draw
    with tally.moving(path, code, size):
        yield


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


# put ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LocalFile:
    """An open file as it was when it was hashed."""

    fd: int
    size: int
    mtime_ns: int
    executable: bool
    content_hash: str

    def unchanged(self) -> bool:
        """Whether size and time are as they were. Blocks."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) == (self.size, self.mtime_ns)


async def put(context: Context, local: str, remote: str) -> None:
    """Send a file; a file that is there already gets a new version. The folder must be there."""
    with _reading(local) as fd:
        async with context.transfer() as (api, transfer):
            slot = await places.slot_for(api, remote, Path(local).name)
            if slot.row is not None and slot.row.kind is not Kind.FILE:
                raise ConflictError(f"{slot.path} is not a file", code="not_a_file")
            with ProgressBar() as bar:
                file = await asyncio.to_thread(_hashed, fd, bar)
                row = await _send(transfer, bar, file, slot)
    context.say(places.row_json(slot.path, row), None)


async def _send(transfer: Transfer, bar: ProgressBar, file: _LocalFile, slot: places.Slot) -> NodeRow:
    source = _source(file, slot.path)
    with _shown(transfer, bar, slot.path, "uploading", file.size):
        return await transfer.commit_large(source, _target(file, slot))


def _source(file: _LocalFile, path: str) -> LargeSource:
    return LargeSource(path, file.size, file.content_hash, file.fd, file.unchanged)


def _target(file: _LocalFile, slot: places.Slot) -> CommitTarget:
    if slot.row is None:
        return CommitTarget(
            parent_id=slot.parent_id, name=slot.name, mtime_ns=file.mtime_ns, executable=file.executable
        )
    return CommitTarget(
        node_id=slot.row.id,
        base_version_id=slot.row.version_id,
        mtime_ns=file.mtime_ns,
        executable=file.executable,
    )


@contextmanager
def _reading(local: str) -> Iterator[int]:
    """Open a regular file, not blocking at a FIFO."""
    try:
        fd = os.open(local, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LocalError(f"{local} cannot be read: {error.strerror}", code="unreadable") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise LocalError(f"{local} is not a file", code="usage")
        yield fd
    finally:
        os.close(fd)


def _hashed(fd: int, bar: ProgressBar) -> _LocalFile:
    """Read the whole file. Raises `LocalError` "unreadable", "changed". Blocks."""
    before, meter = os.fstat(fd), Meter()
    digest, position = hashlib.sha256(), 0
    try:
        while piece := os.pread(fd, MIB, position):
            digest.update(piece)
            position += len(piece)
            meter.add(len(piece))
            left = seconds_left(before.st_size - position, meter.rate)
            bar(Progress("reading", 0, 0, position, before.st_size, meter.rate, left))
    except OSError as error:
        raise LocalError(f"The file cannot be read: {error.strerror}", code="unreadable") from error
    file = _LocalFile(fd, position, before.st_mtime_ns, bool(before.st_mode & 0o100), digest.hexdigest())
    if not file.unchanged():
        raise LocalError(code="changed")
    return file


# uploads --------------------------------------------------------------------------------------


async def uploads(context: Context) -> None:
    """List the open upload sessions of the account, newest first."""
    async with context.api() as api:
        sessions = [session async for session in api.uploads()]
    if context.as_json:
        context.table([_upload(session) for session in sessions], ())
    else:
        now = datetime.now(UTC)
        columns = ("id", "done", "size", "device", "age", "path")
        context.table([_upload_row(session, now) for session in sessions], columns)


async def resume_upload(context: Context, upload_id: str, local: str) -> None:
    """Send what a session of one file lacks, from a file with the same content.

    It is committed at the session's path where nothing is there yet. Otherwise what the bytes are
    for is known to the device that began: its next sync finds them all there and commits.
    Raises `LocalError` "other_content", `ConflictError` "upload_not_open".
    """
    with _reading(local) as fd:
        async with context.transfer() as (api, transfer):
            session = await api.get_upload(upload_id)
            if session.state is not UploadState.OPEN or session.batch:
                raise ConflictError("It is not an open session of one file", code="upload_not_open")
            with ProgressBar() as bar:
                row = await _resume(api, transfer, bar, session, (fd, local))
    context.say(
        {
            "upload_id": upload_id,
            "committed": row is not None,
            "uploaded_bytes": transfer.tally.uploaded_bytes,
            **({"path": session.path} if row is None else row),
        },
        f"{session.path} is there."
        if row is not None
        else f"All bytes are there; the device that began {session.path} commits them at its next sync.",
    )


async def _resume(
    api: Api, transfer: Transfer, bar: ProgressBar, session: Upload, source: tuple[int, str]
) -> Mapping[str, object] | None:
    """Send the rest, and commit it when its place is free: return what is there then."""
    fd, local = source
    file = await asyncio.to_thread(_hashed, fd, bar)
    wanted = session.entries[0]
    if (file.size, file.content_hash) != (wanted.size, wanted.content_hash):
        raise LocalError(f"{local} has another content than this upload", code="other_content")
    slot = await _free_slot(api, session.path)
    if slot is not None:
        return places.row_json(slot.path, await _send(transfer, bar, file, slot))
    with _shown(transfer, bar, session.path, "uploading", file.size):
        await transfer.upload_large(_source(file, session.path))
    return None


async def _free_slot(api: Api, path: str) -> places.Slot | None:
    """Return the place for a new file at a path; None where something is, or the folder is not."""
    try:
        slot = await places.slot_for(api, path, path.rpartition("/")[2])
    except (ConflictError, InvalidRequestError, NotFoundError):
        return None
    return slot if slot.row is None else None


def _upload_row(session: Upload, now: datetime) -> dict[str, object]:
    """Return what a person wants to know; its age is that of the last part."""
    return {
        **_upload(session),
        "done": percent(session.parts_done, session.parts_total or 1),
        "age": age_text((now - session.updated_at).total_seconds()),
    }


def _upload(session: Upload) -> dict[str, object]:
    return {
        "id": session.id,
        "path": session.path,
        "size": session.size,
        "part_size": session.part_size,
        "parts_total": session.parts_total,
        "parts_done": session.parts_done,
        "device": session.device,
        "updated_at": stamp(session.updated_at),
        "state": session.state.value,
        "files": len(session.entries),
    }
