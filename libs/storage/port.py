"""The object store as the services see it. Implemented by `s3.S3ObjectStore`."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Signed:
    """A presigned request: the client sends exactly these headers before `expires_at`."""

    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that S3 holds; `size` in bytes."""

    key: str
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of a multipart upload that S3 holds."""

    number: int
    size: int
    etag: str
    sha256: str | None = None
    """In hex, where S3 lists it."""


@dataclass(frozen=True, slots=True)
class PartToJoin:
    """A part as completing names it; `sha256` in hex."""

    number: int
    etag: str
    sha256: str


class ObjectStore(Protocol):
    """What Lockstep needs of S3.

    Every method that talks to S3 raises `UnavailableError` when it does not answer or answers
    5xx. Presigning is local arithmetic.
    """

    async def presign_put(self, key: str, *, size: int, sha256: str) -> Signed:
        """Presign (without asking S3) one PUT that S3 accepts only with this length and SHA-256 (hex)."""

    async def presign_part(self, key: str, upload_id: str, number: int, *, size: int, sha256: str) -> Signed:
        """Presign one part, bound to its length and SHA-256 (hex)."""

    async def presign_get(self, key: str, *, filename: str | None = None) -> Signed:
        """Presign a read; with `filename`, answered as an attachment of that name."""

    async def head(self, key: str) -> StoredObject | None:
        """Return what S3 holds under `key`, or None."""

    def walk(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Walk all objects whose key starts with `prefix`."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Stream an object's bytes, or a range of them, in chunks of at most 1 MiB.

        Raises `NotFoundError`, and `UnavailableError` also in the middle: what ends without an error is
        all that S3 said it would send. `MalformedError` where S3 gives the whole for a range. `length` is
        at least 1; a range beyond the end gives fewer bytes.
        """

    async def put(self, key: str, body: bytes) -> None:
        """Store a small object that a service itself makes, its SHA-256 named for S3 to check.

        One that is there is replaced.
        """

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as done."""

    async def create_multipart(self, key: str) -> str:
        """Start a multipart upload and return S3's id of it."""

    async def put_part(self, key: str, upload_id: str, number: int, body: bytes) -> PartToJoin:
        """Send a part that a service itself makes. Raises `NotFoundError` without the multipart upload."""

    async def list_parts(self, key: str, upload_id: str) -> list[StoredPart] | None:
        """Return the parts in order of number, or None: no such upload.

        Of a part that was sent again with other bytes, some S3 keep and list each (the ETag decides
        which is joined): the later comes after the earlier, as far as S3's clock of seconds tells.
        """

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[PartToJoin]) -> None:
        """Join the parts into the object; done before counts as done.

        Raises `ConflictError` "parts_missing" when S3 refuses a part (it seldom says which),
        `NotFoundError` when neither the multipart upload nor the object is there. An answer of
        200 with an error in its body is an error.
        """

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Give a multipart upload up; gone before counts as done."""

    def walk_multiparts(self, prefix: str) -> AsyncIterator[tuple[str, str, datetime]]:
        """Walk the running multipart uploads: (key, S3's id, started at)."""
