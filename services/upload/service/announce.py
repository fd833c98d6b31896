"""The events that tell of a session's changes."""

from libs.contracts.api import UploadMode
from libs.contracts.events import (
    UploadAborted,
    UploadCompleted,
    UploadedEntry,
    UploadedObject,
    UploadExpired,
    UploadStarted,
)
from libs.contracts.keys import namespace_of
from libs.contracts.tree import BaseVersion
from services.upload.domain.session import Entry, Session


def started(session: Session) -> UploadStarted:
    """The session was opened."""
    only = None if session.batch else session.entries[0]
    return UploadStarted(
        namespace_id=session.namespace_id,
        user_id=session.user_id,
        device_id=session.device.id,
        device_name=session.device.name,
        upload_id=session.id,
        size=session.size,
        entries=len(session.entries),
        content_hash=only.content_hash if only else None,
        part_size=session.part_size,
        parts_total=session.parts_total,
        path=session.entries[0].path,
    )


def completed(session: Session) -> UploadCompleted:
    """The bytes of the entries asked for are in S3; the same text for each repeat of an attempt."""
    return UploadCompleted(
        namespace_id=session.namespace_id,
        user_id=session.user_id,
        device_id=session.device.id,
        device_name=session.device.name,
        upload_id=session.id,
        attempt=session.attempt,
        entries=[entry for asked in session.asked() if (entry := _uploaded(session, asked)) is not None],
    )


def _uploaded(session: Session, entry: Entry) -> UploadedEntry | None:
    if entry.target is None:
        return None
    stored = UploadedObject(
        id=entry.object_id,
        key=entry.key,
        size=entry.size,
        content_hash=entry.content_hash,
        verified=entry.verified,
        existing=entry.mode is UploadMode.STORED,
    )
    return UploadedEntry(index=entry.index, object=stored, target=entry.target, base=_base(session, entry))


def _base(session: Session, entry: Entry) -> BaseVersion | None:
    """Return of what a content was put together, where all who will see the row may know that."""
    source = entry.delta
    if source is None or namespace_of(source.base_key) != session.namespace_id:
        return None
    return source.base


def aborted(session: Session) -> UploadAborted:
    """The session was given up."""
    return UploadAborted(
        namespace_id=session.namespace_id,
        user_id=session.user_id,
        device_id=session.device.id,
        upload_id=session.id,
    )


def expired(session: Session) -> UploadExpired:
    """The session was left alone for too long."""
    return UploadExpired(namespace_id=session.namespace_id, user_id=session.user_id, upload_id=session.id)
