"""put, uploads: single files, without a synced folder."""

import asyncio
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.commands import places
from agent.commands.context import Context
from agent.commands.showing import shown
from agent.errors import LocalError
from agent.progress import Progress, ProgressBar
from agent.rates import Meter, age_text, seconds_left
from agent.remote import Api
from agent.status import percent, stamp
from agent.transfer import LargeSource, Transfer
from libs.contracts.api import Upload, UploadState
from libs.contracts.errors import ConflictError, InvalidRequestError, NotFoundError
from libs.contracts.limits import MIB
from libs.contracts.tree import CommitTarget, Kind, NodeRow

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
    with shown(transfer, bar, slot.path, "uploading", file.size):
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
    with shown(transfer, bar, session.path, "uploading", file.size):
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
