"""Sessions as documents and back."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from libs.contracts.api import UploadMode, UploadState
from libs.contracts.tree import BaseVersion, CommitTarget, ItemResult
from libs.mongo.client import Document
from services.upload.domain.session import DeltaSource, Device, Entry, Lease, Session


def to_document(session: Session) -> Document:
    """Return the session's document; `dedupe_key` only while it is live."""
    return {**_head(session), "entries": [_entry_document(entry) for entry in session.entries]}


def _head(session: Session) -> Document:
    """Return all but the entries."""
    document: Document = {
        "_id": session.id,
        "user_id": session.user_id,
        "namespace_id": session.namespace_id,
        "batch": session.batch,
        "state": session.state.value,
        "attempt": session.attempt,
        "size": session.size,
        "key_prefix": session.key_prefix,
        "part_size": session.part_size,
        "parts_total": session.parts_total,
        "parts_done": session.parts_done,
        "s3_upload_id": session.s3_upload_id,
        "delta_upload_id": session.delta_upload_id,
        "lease": _lease_document(session.lease),
        "device_id": session.device.id,
        "device": session.device.name,
        "devices": list(session.devices),
        "code": session.code,
        "detail": session.detail,
        "digests_enforced": session.digests_enforced,
        "missing": list(session.missing),
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "expires_at": session.expires_at,
    }
    if session.live and session.dedupe_key is not None:
        document["dedupe_key"] = session.dedupe_key
    return document


def to_session(document: Document) -> Session:
    """Return a document as the session it holds."""
    return Session(
        id=document["_id"],
        user_id=document["user_id"],
        namespace_id=document["namespace_id"],
        batch=document["batch"],
        state=UploadState(document["state"]),
        attempt=document["attempt"],
        entries=tuple(_entry(row) for row in document["entries"]),
        size=document["size"],
        key_prefix=document["key_prefix"],
        part_size=document["part_size"],
        parts_total=document["parts_total"],
        parts_done=document["parts_done"],
        s3_upload_id=document["s3_upload_id"],
        delta_upload_id=document.get("delta_upload_id"),
        lease=_lease(document["lease"]),
        device=Device(document["device_id"], document["device"]),
        devices=tuple(document["devices"]),
        code=document["code"],
        detail=document["detail"],
        digests_enforced=document.get("digests_enforced", False),
        missing=tuple(document["missing"]),
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        expires_at=document["expires_at"],
    )


def difference(before: Session, after: Session) -> Document:
    """Return the update that leads from one state of a session to the other."""
    old, new = _head(before), _head(after)
    changed = {name: value for name, value in new.items() if name not in old or old[name] != value}
    if before.entries != after.entries:
        changed["entries"] = [_entry_document(entry) for entry in after.entries]
    gone = {name: "" for name in old if name not in new}
    return {operator: fields for operator, fields in (("$set", changed), ("$unset", gone)) if fields}


def _entry_document(entry: Entry) -> Document:
    return {
        "index": entry.index,
        "mode": entry.mode.value,
        "content_hash": entry.content_hash,
        "size": entry.size,
        "path": entry.path,
        "object_id": entry.object_id,
        "key": entry.key,
        "verified": entry.verified,
        "sealed": entry.sealed,
        "attempt": entry.attempt,
        "target": None
        if entry.target is None
        else entry.target.model_dump(mode="json", exclude_defaults=True),
        "result": None if entry.result is None else entry.result.model_dump(mode="json", exclude_none=True),
        **({} if entry.delta is None else _delta_fields(entry.delta)),
    }


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        index=row["index"],
        mode=UploadMode(row["mode"]),
        content_hash=row["content_hash"],
        size=row["size"],
        path=row["path"],
        object_id=row["object_id"],
        key=row["key"],
        verified=row["verified"],
        sealed=row["sealed"],
        attempt=row["attempt"],
        target=None if row["target"] is None else CommitTarget.model_validate(row["target"]),
        result=None if row["result"] is None else ItemResult.model_validate(row["result"]),
        delta=None if row.get("delta") is None else _delta(row),
    )


def _delta_fields(source: DeltaSource) -> Document:
    """Return the source as it is kept: as it always was, where it has nothing that came later."""
    fields = asdict(replace(source, base=None))
    del fields["base"]
    if not source.in_parts:
        del fields["in_parts"]
    return {"delta": fields, **({} if source.base is None else {"base": source.base.model_dump()})}


def _delta(row: dict[str, Any]) -> DeltaSource:
    base = row.get("base")
    return DeltaSource(**row["delta"], base=None if base is None else BaseVersion.model_validate(base))


def _lease_document(lease: Lease | None) -> dict[str, str | datetime] | None:
    return None if lease is None else {"owner": lease.owner, "until": lease.until}


def _lease(row: dict[str, Any] | None) -> Lease | None:
    return None if row is None else Lease(row["owner"], row["until"])
