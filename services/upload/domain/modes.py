"""How bytes get to S3: the choice per file, and the size of parts. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from libs.contracts.api import UploadMode
from libs.contracts.keys import delta_key, key_of
from libs.contracts.limits import MIB
from libs.contracts.parts import part_count, part_size_for
from libs.contracts.tree import BaseVersion
from services.upload.domain.session import DeltaSource, Entry, Session

MAX_CHOSEN_PART: Final = 64 * MIB
"""A client that is fast gets larger parts up to here; eight in flight must stay affordable."""
_SECONDS_PER_PART: Final = 1
_MIN_PARTS: Final = 16
"""Throughput never makes parts so large that a file has fewer: they are the steps of resuming."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The settings that decide."""

    single_put: int
    part: int


@dataclass(frozen=True, slots=True)
class StoredCopy:
    """A verified live object of the namespace."""

    object_id: str
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Announced:
    """A file as the client announces it."""

    content_hash: str
    size: int
    path: str = ""


def mode_of(size: int, sizes: Sizes) -> UploadMode:
    """Return how bytes that the server does not have yet will travel."""
    return UploadMode.PUT if size <= sizes.single_put else UploadMode.MULTIPART


def part_size_of(size: int, sizes: Sizes, throughput: int | None) -> int:
    """Return the part size for a file of `size` bytes; `throughput` is in bytes per second.

    About a second of sending, so that a slow line loses little when it breaks and a fast one is
    not held up by requests.
    """
    wanted = min((throughput or 0) * _SECONDS_PER_PART, size // _MIN_PARTS, MAX_CHOSEN_PART)
    base = max(sizes.part, wanted // MIB * MIB)
    return part_size_for(size, base=base)


def entry_of(
    index: int, announced: Announced, stored: StoredCopy | None, prefix: str, ids: tuple[str, UploadMode]
) -> Entry:
    """Return the entry of an announced file; `ids` are a fresh object id and the mode to fall back on.

    A stored copy is used when its size is the announced one too: a hash is only a claim.
    """
    object_id, mode = ids
    if stored is not None and stored.size == announced.size:
        return Entry(
            index, UploadMode.STORED, announced.content_hash, announced.size, announced.path,
            object_id=stored.object_id, key=stored.key, verified=True, sealed=True,
        )  # fmt: skip
    return Entry(
        index, mode, announced.content_hash, announced.size, announced.path,
        object_id=object_id, key=key_of(prefix, index),
    )  # fmt: skip


def to_be_sent(session: Session, entry: Entry, object_id: str, sizes: Sizes) -> Entry:
    """Return the entry of a stored copy that has vanished as one whose bytes must be sent."""
    key = key_of(session.key_prefix, entry.index)
    mode = mode_of(entry.size, sizes)
    return replace(entry, mode=mode, object_id=object_id, key=key, verified=False, sealed=False)


@dataclass(frozen=True, slots=True)
class Offer:
    """A delta that a client could send, its base found and readable for it."""

    base_key: str
    base_size: int
    size: int
    sha256: str
    base: BaseVersion | None = None


def by_delta(session: Session, offer: Offer, sizes: Sizes, throughput: int | None = None) -> Session:
    """Return the session as one whose content is put together from what is offered.

    The delta object travels as a file of its size does: in one PUT, or in parts.
    """
    entry = session.entries[0]
    source = DeltaSource(
        offer.base_key,
        offer.base_size,
        delta_key(entry.key, offer.sha256),
        offer.size,
        offer.sha256,
        offer.base,
        in_parts=mode_of(offer.size, sizes) is UploadMode.MULTIPART,
    )
    changed = replace(entry, mode=UploadMode.DELTA, delta=source, sealed=False, verified=False)
    return _another_way(session, changed, sizes, throughput)


def by_bytes(session: Session, sizes: Sizes, throughput: int | None = None) -> Session:
    """Return a session of a delta as one whose content is sent whole."""
    entry = session.entries[0]
    changed = replace(entry, mode=mode_of(entry.size, sizes), delta=None)
    return _another_way(session, changed, sizes, throughput)


def _another_way(session: Session, entry: Entry, sizes: Sizes, throughput: int | None) -> Session:
    """Return the session with nothing of what was sent for the way before."""
    bare = replace(
        session,
        entries=(entry,),
        part_size=None,
        parts_total=0,
        parts_done=0,
        s3_upload_id=None,
        delta_upload_id=None,
        digests_enforced=False,
    )
    return with_parts(bare, sizes, throughput)


def rewished(session: Session, offer: Offer | None, sizes: Sizes, throughput: int | None = None) -> Session:
    """Return an open session as the device that joins can go on with it: itself, or changed.

    A delta is the way as long as no part of the content was sent; a device without the base sends all.
    Of a delta object that is byte for byte the one under way nothing is void: at most its base is
    now found elsewhere.
    """
    if offer is None:
        return by_bytes(session, sizes, throughput) if session.composed else session
    if session.entries[0].mode is UploadMode.STORED or (session.multipart and session.parts_done):
        return session
    if is_offered(session, offer):
        return _with_base(session, offer)
    return by_delta(session, offer, sizes, throughput)


def is_offered(session: Session, offer: Offer | None) -> bool:
    """Whether an offer is the delta object that the session is about, byte for byte."""
    delta = session.entries[0].delta
    return (
        delta is not None and offer is not None and (delta.sha256, delta.size) == (offer.sha256, offer.size)
    )


def _with_base(session: Session, offer: Offer) -> Session:
    entry = session.entries[0]
    if entry.delta is None:
        return session
    delta = replace(entry.delta, base_key=offer.base_key, base_size=offer.base_size, base=offer.base)
    return session if delta == entry.delta else replace(session, entries=(replace(entry, delta=delta),))


def is_in_the_way(session: Session, device_id: str, offer: Offer | None, quiet_since: datetime) -> bool:
    """Whether another device is at work on a delta in parts with which this one cannot help.

    It was heard of after `quiet_since`. To join would make void what it has sent, to save it
    would have this device send what may be many times as much: it had better wait.
    """
    travelling = session.in_parts
    if travelling is None or travelling.delta is None or is_offered(session, offer):
        return False
    return session.device.id != device_id and session.updated_at > quiet_since


def with_parts(session: Session, sizes: Sizes, throughput: int | None = None) -> Session:
    """Return the session with its part size, if something of it travels in parts."""
    travelling = session.in_parts
    if travelling is None:
        return session
    part_size = part_size_of(travelling.size, sizes, throughput)
    return replace(session, part_size=part_size, parts_total=part_count(travelling.size, part_size))
