"""The object store as the services see it. Implemented by `s3.S3ObjectStore`."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from libs.contracts.errors import NotFoundError
from libs.contracts.recipe import Range

MAX_DELETED: Final = 1000
"""Objects that S3 deletes in one request."""


class UploadGoneError(NotFoundError):
    """The multipart upload is no more: joined, aborted, or never begun."""

    def __init__(self) -> None:
        super().__init__("The multipart upload is gone")


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
    etag: str | None = None
    """S3's name for these bytes under this key; other bytes have another. Told by `head` only."""
    copied: int = 0
    """The number that `create_multipart` was told to note. Told by `head` only."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A range of an object, as long as that has this ETag."""

    key: str
    etag: str
    range: Range


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
    """A part as completing names it; `sha256` in hex, None in an upload for copies."""

    number: int
    etag: str
    sha256: str | None = None


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

    def read(
        self, key: str, offset: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Stream an object's bytes, or a range of them, in chunks of at most 1 MiB.

        Raises `NotFoundError`, also when the object has another ETag than was given, and
        `UnavailableError`, that also in the middle: what ends without an error is all that S3 said it
        would send. `MalformedError` where S3 gives the whole for a range. `length` is at least 1; a
        range beyond the end gives fewer bytes.
        """

    async def put(self, key: str, body: bytes) -> None:
        """Store a small object that a service itself makes, its SHA-256 named for S3 to check.

        One that is there is replaced.
        """

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as done."""

    async def delete_many(self, keys: Sequence[str]) -> list[str]:
        """Delete up to `MAX_DELETED` objects in one request and return those that S3 did not say are gone.

        Those that are not there count as done. Whether S3 can is to be found out before: see `deletes_many`.
        """

    async def create_multipart(self, key: str, *, copied: int | None = None) -> str:
        """Start a multipart upload and return S3's id of it.

        With a number one into which parts can be copied; the number is noted with the object. It goes
        without SHA-256 of its parts, for which many an S3 would have to read what it copies.
        """

    async def put_part(
        self, key: str, upload_id: str, number: int, body: bytes, *, copying: bool = False
    ) -> PartToJoin:
        """Send a part that a service itself makes, `copying` into an upload for copies.

        It is bound by its SHA-256, or by its MD5 there. Raises `UploadGoneError`.
        """

    async def copy_part(self, key: str, upload_id: str, number: int, source: Slice) -> PartToJoin:
        """Have S3 copy a part from an object that it has.

        Raises `UploadGoneError`, and `NotFoundError` when the object is gone, or is another now.
        """

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
