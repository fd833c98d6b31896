"""The upload session as a value."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from libs.contracts.api import UploadMode, UploadState
from libs.contracts.tree import BaseVersion, CommitTarget, ItemResult

LIVE: Final = (UploadState.OPEN, UploadState.COMPLETING, UploadState.COMMITTING)
"""States in which a session counts: against limits, for joining, as owner of what is in S3."""

PENDING: Final = (UploadState.COMPLETING, UploadState.COMMITTING)


@dataclass(frozen=True, slots=True)
class DeltaSource:
    """From what the content of an entry is to be put together: a base, and a delta object."""

    base_key: str
    base_size: int
    key: str
    size: int
    sha256: str
    """Of the delta object."""
    base: BaseVersion | None = None
    """The version whose object the base is; None in sessions of before it was noted."""
    in_parts: bool = False
    """Whether the delta object travels in parts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a session."""

    index: int
    mode: UploadMode
    content_hash: str
    size: int
    path: str
    object_id: str
    key: str
    """Under which S3 holds, or will hold, the bytes."""
    verified: bool = False
    """Whether S3 has checked the hash of the whole."""
    sealed: bool = False
    """Whether the bytes were seen in S3, whole, by a completion."""
    attempt: int = 0
    """The last completion that asked for it; 0: none has."""
    target: CommitTarget | None = None
    result: ItemResult | None = None
    """What became of the last completion."""
    delta: DeltaSource | None = None
    """With mode DELTA only."""

    @property
    def committed(self) -> bool:
        """Whether the entry is in the tree."""
        return self.result is not None and self.result.ok

    def needs_put(self) -> bool:
        """Whether the client may still have to send the bytes in one request."""
        whole = self.mode is UploadMode.PUT or (self.delta is not None and not self.delta.in_parts)
        return whole and not self.committed

    def put_bound(self) -> tuple[str, int, str]:
        """Return what that request is bound to: key, length in bytes, SHA-256."""
        if self.delta is not None:
            return self.delta.key, self.delta.size, self.delta.sha256
        return self.key, self.size, self.content_hash


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the account."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asks: a device and its user."""

    user_id: str
    device: Device


@dataclass(frozen=True, slots=True)
class Lease:
    """Who drives a completing session, and until when that is believed.

    Of a committing one: when its commit, if nobody has answered, is announced again.
    """

    owner: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Travelling:
    """The object that clients send in parts: the content itself, or a delta object."""

    key: str
    size: int
    upload_id: str | None
    """Of its multipart upload at S3."""
    delta: str | None = None
    """SHA-256 of the delta object, if it is one."""


@dataclass(frozen=True, slots=True)
class Session:
    """An upload session: bytes only. A session of one file has one entry, with index 0."""

    id: str
    user_id: str
    namespace_id: str
    batch: bool
    state: UploadState
    attempt: int
    """Counts the completions, and the changes of how the bytes travel."""
    entries: tuple[Entry, ...]
    size: int
    key_prefix: str
    """What the keys of all objects made by this session start with."""
    device: Device
    """The one that touched it last."""
    devices: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    part_size: int | None = None
    parts_total: int = 0
    parts_done: int = 0
    """As clients have told; the truth is what S3 lists."""
    s3_upload_id: str | None = None
    """Of the content's own object, whether clients send its parts or it is put together here."""
    delta_upload_id: str | None = None
    """Of the delta object, where that travels in parts."""
    lease: Lease | None = None
    code: str | None = None
    detail: str | None = None
    digests_enforced: bool = False
    """Whether S3 refuses parts of another digest than theirs, as it was known when they were joined."""
    missing: tuple[int, ...] = ()
    """With code `parts_missing` or `bytes_missing`: which parts or entries."""

    @property
    def live(self) -> bool:
        """Whether the session still counts."""
        return self.state in LIVE

    @property
    def pending(self) -> bool:
        """Whether a completion is under way."""
        return self.state in PENDING

    @property
    def multipart(self) -> bool:
        """Whether the content itself travels in parts."""
        return self.entries[0].mode is UploadMode.MULTIPART

    @property
    def in_parts(self) -> Travelling | None:
        """What travels in parts; None: nothing does."""
        entry = self.entries[0]
        if self.multipart:
            return Travelling(entry.key, entry.size, self.s3_upload_id)
        delta = entry.delta
        if delta is None or not delta.in_parts:
            return None
        return Travelling(delta.key, delta.size, self.delta_upload_id, delta.sha256)

    @property
    def upload_field(self) -> str:
        """The name of the field with the multipart upload of what travels in parts."""
        return "s3_upload_id" if self.multipart else "delta_upload_id"

    def with_upload(self, upload_id: str | None) -> "Session":
        """Return the session with another multipart upload for what travels in parts."""
        if self.multipart:
            return replace(self, s3_upload_id=upload_id)
        return replace(self, delta_upload_id=upload_id)

    @property
    def composed(self) -> bool:
        """Whether the content is put together here from a delta."""
        return self.entries[0].mode is UploadMode.DELTA

    @property
    def dedupe_key(self) -> str | None:
        """By which devices of an account find the same session; none for batches."""
        only = self.entries[0]
        return (
            None if self.batch else dedupe_key(self.user_id, self.namespace_id, only.content_hash, only.size)
        )

    def asked(self) -> tuple[Entry, ...]:
        """Return the entries of the latest completion."""
        return tuple(entry for entry in self.entries if entry.attempt == self.attempt > 0)

    def with_entries(self, changed: Iterable[Entry]) -> "Session":
        """Return the session with some entries replaced, found by their index."""
        by_index = {entry.index: entry for entry in changed}
        return replace(self, entries=tuple(by_index.get(entry.index, entry) for entry in self.entries))


def dedupe_key(user_id: str, namespace_id: str, content_hash: str, size: int) -> str:
    """Return what makes two announcements the same session."""
    return f"{user_id}:{namespace_id}:{content_hash}:{size}"


def indexes(entries: Collection[Entry]) -> list[int]:
    """Return the entries' indexes."""
    return [entry.index for entry in entries]
