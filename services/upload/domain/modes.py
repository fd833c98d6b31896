"""How bytes get to S3: the choice per file, and the size of parts. Pure."""

from dataclasses import dataclass, replace
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


def by_delta(session: Session, offer: Offer) -> Session:
    """Return the session as one whose content is put together from what is offered."""
    entry = session.entries[0]
    source = DeltaSource(
        offer.base_key,
        offer.base_size,
        delta_key(entry.key, offer.sha256),
        offer.size,
        offer.sha256,
        offer.base,
    )
    changed = replace(entry, mode=UploadMode.DELTA, delta=source, sealed=False, verified=False)
    return replace(
        session, entries=(changed,), part_size=None, parts_total=0, parts_done=0, s3_upload_id=None
    )


def by_bytes(session: Session, sizes: Sizes, throughput: int | None = None) -> Session:
    """Return a session of a delta as one whose content is sent whole."""
    entry = session.entries[0]
    changed = replace(entry, mode=mode_of(entry.size, sizes), delta=None)
    return with_parts(replace(session, entries=(changed,), s3_upload_id=None), sizes, throughput)


def rewished(session: Session, offer: Offer | None, sizes: Sizes, throughput: int | None = None) -> Session:
    """Return an open session as the device that joins can go on with it: itself, or changed.

    A delta is the way as long as nothing was sent in parts; a device without the base sends all.
    """
    if offer is None:
        return by_bytes(session, sizes, throughput) if session.composed else session
    if session.entries[0].mode is UploadMode.STORED or session.parts_done:
        return session
    wished = by_delta(session, offer)
    return session if _way_of(wished) == _way_of(session) else wished


def _way_of(session: Session) -> tuple[UploadMode, DeltaSource | None]:
    entry = session.entries[0]
    return entry.mode, entry.delta


def with_parts(session: Session, sizes: Sizes, throughput: int | None = None) -> Session:
    """Return the session with its part size, if its bytes travel in parts."""
    if not session.multipart:
        return session
    part_size = part_size_of(session.size, sizes, throughput)
    return replace(session, part_size=part_size, parts_total=part_count(session.size, part_size))
