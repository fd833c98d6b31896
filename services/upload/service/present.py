"""Sessions as the API shows them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from libs.contracts.api import PartRow, SignedRequest, Upload, UploadEntry, UploadState
from libs.storage.port import ObjectStore, Signed
from services.upload.domain.session import Entry, Session

_PRESIGN_SLICE: Final = 100
"""URLs signed in one go (some 7 ms) before other requests get their turn."""

Puts = Mapping[int, SignedRequest]
"""Entry index → the request that sends its bytes."""


async def presign_puts(objects: ObjectStore, entries: Sequence[Entry]) -> dict[int, SignedRequest]:
    """Presign the PUT of each entry."""
    puts: dict[int, SignedRequest] = {}
    for entry in entries:
        key, size, digest = entry.put_bound()
        puts[entry.index] = request_of(await objects.presign_put(key, size=size, sha256=digest))
        if len(puts) % _PRESIGN_SLICE == 0:
            await asyncio.sleep(0)
    return puts


def request_of(signed: Signed) -> SignedRequest:
    """Return a presigned request as the API shows it."""
    return SignedRequest(
        method=signed.method, url=signed.url, headers=signed.headers, expires_at=signed.expires_at
    )


def shown(session: Session, *, puts: Puts | None = None, parts: Sequence[PartRow] | None = None) -> Upload:
    """Return the session; `parts` (what S3 holds), where asked for, is the better count of them."""
    return Upload(
        id=session.id,
        namespace_id=session.namespace_id,
        state=session.state,
        batch=session.batch,
        size=session.size,
        entries=[_entry(entry, puts or {}) for entry in session.entries],
        part_size=session.part_size,
        parts_total=session.parts_total,
        parts_done=_parts_done(session, parts),
        parts=list(parts or ()),
        code=session.code,
        detail=session.detail,
        path=session.entries[0].path,
        device=session.device.name,
        created_at=session.created_at,
        updated_at=session.updated_at,
        expires_at=session.expires_at,
    )


def _entry(entry: Entry, puts: Puts) -> UploadEntry:
    return UploadEntry(
        index=entry.index,
        mode=entry.mode,
        content_hash=entry.content_hash,
        size=entry.size,
        path=entry.path,
        put=puts.get(entry.index),
        result=entry.result,
    )


def _parts_done(session: Session, parts: Sequence[PartRow] | None) -> int:
    if session.state in {UploadState.COMMITTING, UploadState.COMMITTED}:
        return session.parts_total
    return session.parts_done if parts is None else len(parts)
