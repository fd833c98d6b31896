"""S3 by aioboto3: the only module that imports it.

Presigned URLs carry the public address that clients use (see `sigv4`), the services' own calls
the inner one. Headers that a signature binds must be sent as they are given.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import md5, sha256
from typing import Any, Final
from urllib.parse import quote

import aioboto3
from aiohttp import ClientError as LineError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import parse_timestamp

from libs.contracts.binary import MalformedError
from libs.contracts.errors import ConflictError, UnavailableError
from libs.contracts.limits import MAX_PAGE, MIB
from libs.runtime.settings import S3Settings
from libs.storage.port import PartToJoin, Signed, Slice, StoredObject, StoredPart, UploadGoneError
from libs.storage.s3_errors import BAD_PART, BEYOND_END, GONE, NO_UPLOAD, code_of, translate, translated
from libs.storage.sigv4 import Presigner

_PARTIAL: Final = 206
_COPIED: Final = "lockstep-copied"
"""The name of the metadata with the number that `create_multipart` is told."""
_MANY: Final = 1_000_000


@asynccontextmanager
async def open_store(settings: S3Settings) -> AsyncIterator["S3ObjectStore"]:
    """Open the store for the lifetime of the context."""
    session = aioboto3.Session(
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        region_name=settings.s3_region,
    )
    _read_times_fast(session)
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(_client(session, settings.s3_endpoint, settings.s3_timeout))
        slow = await stack.enter_async_context(
            _client(session, settings.s3_endpoint, settings.s3_complete_timeout)
        )
        yield S3ObjectStore(settings, inner=inner, slow=slow)


def _read_times_fast(session: aioboto3.Session) -> None:
    """Have the driver read times by the standard library where they are ISO 8601.

    Its own reader takes 0.1 ms for each: a listing of 9,500 parts would hold up the event loop for
    more than a second, with this for a third of that.
    """
    parsers = session._session.get_component("response_parser_factory")  # noqa: SLF001 there is no public way
    parsers.set_parser_defaults(timestamp_parser=_time)


def _time(value: Any) -> datetime:
    if isinstance(value, str):
        with suppress(ValueError):
            return datetime.fromisoformat(value)
    found: datetime = parse_timestamp(value)
    return found


def _client(session: Any, endpoint: str, timeout: float) -> Any:
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        connect_timeout=5,
        read_timeout=timeout,
        max_pool_connections=32,
        retries={"total_max_attempts": 3, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", endpoint_url=endpoint, config=config)


def _presigner(settings: S3Settings) -> Presigner:
    return Presigner(
        endpoint=settings.s3_public_endpoint or settings.s3_endpoint,
        region=settings.s3_region,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
    )


class S3ObjectStore:
    """`port.ObjectStore` on an S3 bucket."""

    def __init__(self, settings: S3Settings, *, inner: Any, slow: Any) -> None:
        self._settings = settings
        self._bucket = settings.s3_bucket
        self._inner = inner
        self._slow = slow
        self._presigner = _presigner(settings)

    async def ensure_bucket(self) -> None:
        """Create the bucket when it is missing."""
        try:
            await self._inner.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if code_of(error) not in GONE | {"NoSuchBucket"}:
                raise translated(error) from error
            await self._create_bucket()
        except BotoCoreError as error:
            raise translated(error) from error

    async def _create_bucket(self) -> None:
        try:
            await self._inner.create_bucket(Bucket=self._bucket)
        except ClientError as error:
            if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise translated(error) from error

    async def ping(self) -> None:
        """Raise `UnavailableError` unless the bucket answers."""
        await translate(self._inner.head_bucket)(Bucket=self._bucket)

    # Presigning ---------------------------------------------------------------------------

    async def presign_put(self, key: str, *, size: int, sha256: str) -> Signed:
        """See the port."""
        return self._presign("PUT", key, {}, bound_headers(size, sha256))

    async def presign_part(self, key: str, upload_id: str, number: int, *, size: int, sha256: str) -> Signed:
        """See the port."""
        query = {"uploadId": upload_id, "partNumber": str(number)}
        return self._presign("PUT", key, query, bound_headers(size, sha256))

    async def presign_get(self, key: str, *, filename: str | None = None) -> Signed:
        """See the port."""
        query: dict[str, str] = {}
        if filename is not None:
            query["response-content-disposition"] = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
        return self._presign("GET", key, query, {})

    def _presign(self, method: str, key: str, query: dict[str, str], headers: dict[str, str]) -> Signed:
        seconds = self._settings.s3_url_seconds
        now = datetime.now(UTC)
        url = self._presigner.url(method, key, query=query, headers=headers, now=now, seconds=seconds)
        return Signed(method, url, headers, now + timedelta(seconds=seconds))

    # Objects ------------------------------------------------------------------------------

    async def head(self, key: str) -> StoredObject | None:
        """See the port."""
        try:
            answer = await self._inner.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if code_of(error) in GONE:
                return None
            raise translated(error) from error
        except BotoCoreError as error:
            raise translated(error) from error
        copied = _count(answer.get("Metadata", {}).get(_COPIED))
        return StoredObject(key, answer["ContentLength"], answer["LastModified"], answer["ETag"], copied)

    async def walk(self, prefix: str) -> AsyncIterator[StoredObject]:
        """See the port."""
        token: dict[str, str] = {}
        while True:
            page = await translate(self._inner.list_objects_v2)(Bucket=self._bucket, Prefix=prefix, **token)
            for item in page.get("Contents", []):
                yield StoredObject(item["Key"], item["Size"], item["LastModified"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def read(
        self, key: str, offset: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See the port."""
        end = "" if length is None else str(offset + length - 1)
        asked = {} if offset == 0 and length is None else {"Range": f"bytes={offset}-{end}"}
        if etag is not None:
            asked["IfMatch"] = etag
        try:
            answer = await self._inner.get_object(Bucket=self._bucket, Key=key, **asked)
            if offset and answer["ResponseMetadata"]["HTTPStatusCode"] != _PARTIAL:
                answer["Body"].close()
                raise MalformedError("S3 gave the whole for a range")
            async with answer["Body"] as body:
                async for chunk in body.content.iter_chunked(MIB):
                    yield chunk
        except ClientError as error:
            if code_of(error) not in BEYOND_END:
                raise translated(error) from error
        except (TimeoutError, BotoCoreError, LineError, OSError) as error:
            raise translated(error) from error

    async def put(self, key: str, body: bytes) -> None:
        """See the port."""
        digest = (await asyncio.to_thread(sha256, body)).hexdigest()
        put = translate(self._inner.put_object)
        await put(Bucket=self._bucket, Key=key, Body=body, ChecksumSHA256=_b64(digest))

    async def delete(self, keys: Sequence[str]) -> None:
        """See the port."""
        for key in keys:
            await translate(self._inner.delete_object)(Bucket=self._bucket, Key=key)

    async def delete_many(self, keys: Sequence[str]) -> list[str]:
        """See the port."""
        answer = await translate(self._slow.delete_objects)(
            Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys]}
        )
        gone = {item.get("Key") for item in answer.get("Deleted", [])}
        gone |= {item.get("Key") for item in answer.get("Errors", []) if item.get("Code") in GONE}
        return [key for key in keys if key not in gone]

    # Multipart ----------------------------------------------------------------------------

    async def create_multipart(self, key: str, *, copied: int | None = None) -> str:
        """See the port."""
        how: dict[str, Any] = {"Metadata": {_COPIED: str(copied)}}
        if copied is None:
            how = {"ChecksumAlgorithm": "SHA256"}
        answer = await translate(self._inner.create_multipart_upload)(Bucket=self._bucket, Key=key, **how)
        return str(answer["UploadId"])

    async def put_part(
        self, key: str, upload_id: str, number: int, body: bytes, *, copying: bool = False
    ) -> PartToJoin:
        """See the port."""
        digest = await asyncio.to_thread(_md5 if copying else sha256, body)
        bound = {"ContentMD5" if copying else "ChecksumSHA256": base64.b64encode(digest.digest()).decode()}
        answer = await translate(self._inner.upload_part)(
            Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body, **bound
        )
        return PartToJoin(number, answer["ETag"], None if copying else digest.hexdigest())

    async def copy_part(self, key: str, upload_id: str, number: int, source: Slice) -> PartToJoin:
        """See the port."""
        answer = await translate(self._inner.upload_part_copy)(
            Bucket=self._bucket,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            CopySource={"Bucket": self._bucket, "Key": source.key},
            CopySourceRange=f"bytes={source.range.offset}-{source.range.end - 1}",
            CopySourceIfMatch=source.etag,
        )
        etag = answer.get("CopyPartResult", {}).get("ETag")
        if etag is None:
            raise UnavailableError("S3 did not confirm that a part was copied")
        return PartToJoin(number, etag)

    async def list_parts(self, key: str, upload_id: str) -> list[StoredPart] | None:
        """See the port."""
        try:
            items = [item async for item in self._walk_parts(key, upload_id)]
        except ClientError as error:
            if code_of(error) in NO_UPLOAD:
                return None
            raise translated(error) from error
        except BotoCoreError as error:
            raise translated(error) from error
        items.sort(key=lambda item: (item["PartNumber"], item["LastModified"]))
        return list(dict.fromkeys(map(_part, items)))

    async def _walk_parts(self, key: str, upload_id: str) -> AsyncIterator[dict[str, Any]]:
        """Walk pages of the size that Amazon S3 has, so that reading one does not hold up others."""
        marker, more = 0, True
        while more:
            page = await self._inner.list_parts(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MaxParts=MAX_PAGE, PartNumberMarker=marker
            )
            for item in page.get("Parts", []):
                yield item
            before, more = marker, bool(page.get("IsTruncated"))
            marker = page["NextPartNumberMarker"] if more else marker
            if more and marker <= before:
                raise UnavailableError("S3 lists the same parts again")

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[PartToJoin]) -> None:
        """See the port."""
        joined = {"Parts": [_named(part) for part in parts]}
        try:
            answer = await self._slow.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload=joined
            )
        except ClientError as error:
            await self._settle_failed_complete(error, key)
            return
        except BotoCoreError as error:
            raise translated(error) from error
        if "ETag" not in answer:
            raise UnavailableError("S3 did not confirm that the parts were joined")

    async def _settle_failed_complete(self, error: ClientError, key: str) -> None:
        code = code_of(error)
        if code in BAD_PART:
            raise ConflictError("S3 refused a part", code="parts_missing") from error
        if code not in NO_UPLOAD | GONE:
            raise translated(error) from error
        if await self.head(key) is None:
            raise UploadGoneError from error

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """See the port."""
        try:
            await self._inner.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) not in NO_UPLOAD | GONE:
                raise translated(error) from error
        except BotoCoreError as error:
            raise translated(error) from error

    async def walk_multiparts(self, prefix: str) -> AsyncIterator[tuple[str, str, datetime]]:
        """See the port."""
        marker: dict[str, str] = {}
        while True:
            list_uploads = translate(self._inner.list_multipart_uploads)
            page = await list_uploads(Bucket=self._bucket, Prefix=prefix, **marker)
            for item in page.get("Uploads", []):
                yield item["Key"], item["UploadId"], item["Initiated"]
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _part(item: dict[str, Any]) -> StoredPart:
    return StoredPart(item["PartNumber"], item["Size"], item["ETag"], _hex(item.get("ChecksumSHA256")))


def _named(part: PartToJoin) -> dict[str, Any]:
    named = {"PartNumber": part.number, "ETag": part.etag}
    return named if part.sha256 is None else {**named, "ChecksumSHA256": _b64(part.sha256)}


def _count(noted: str | None) -> int:
    """Return a number as it was noted; many when it is none: then it is not ours."""
    if noted is None:
        return 0
    return int(noted) if noted.isdecimal() and len(noted) <= len(str(_MANY)) else _MANY


def _md5(body: bytes) -> Any:
    return md5(body, usedforsecurity=False)


def bound_headers(size: int, sha256: str) -> dict[str, str]:
    """Return the headers that bind a presigned PUT to a length and a SHA-256 (hex)."""
    return {"content-length": str(size), "x-amz-checksum-sha256": _b64(sha256)}


def _b64(sha256_hex: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256_hex)).decode()


def _hex(checksum: str | None) -> str | None:
    return None if checksum is None else base64.b64decode(checksum).hex()
