"""Finding out what an S3 does by trying it, on a key of its own that is removed afterwards.

Requests go the way clients' go, by presigned URLs, but to the inner address: the public one may
not be reachable from the services.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import aiohttp
from yarl import URL

from libs.contracts.errors import LockstepError, NotFoundError, UnavailableError
from libs.contracts.ids import new_id
from libs.contracts.keys import PROBE_PREFIX
from libs.contracts.limits import S3_MIN_PART_BYTES
from libs.contracts.recipe import Range
from libs.runtime.settings import S3Settings
from libs.storage.capabilities import Capabilities
from libs.storage.port import ObjectStore, PartToJoin, Slice
from libs.storage.s3 import bound_headers
from libs.storage.sigv4 import Presigner

_SENT: Final = b"lockstep"
_OTHER: Final = b"LOCKSTEP"
_LONGER: Final = b"lockstep+"
_ORIGIN: Final = "https://any.example"
_PARTS: Final = (1, 2, 10)
_WRONG_PART: Final = 3
_SMALL: Final = bytes(S3_MIN_PART_BYTES)
"""Amazon S3 copies ranges of objects that are larger than this alone."""
_COPIED: Final = Range(len(_SMALL) + 2, 4)
_URL_SECONDS: Final = 300
_REQUEST_SECONDS: Final = 10.0
_AWAY: Final = {429, 500, 502, 503, 504}
"""Answers that say nothing; 501 says that it cannot."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        return 400 <= self.status < 500


async def probe(settings: S3Settings, store: ObjectStore, *, seconds: float = 20.0) -> Capabilities:
    """Return what the S3 of `settings` does.

    Raises `UnavailableError` when it does not answer within `seconds`, answers 5xx, or refuses
    what is right, too: then nothing was found out.
    """
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    try:
        async with asyncio.timeout(seconds), aiohttp.ClientSession(timeout=timeout) as session:
            return await _Probe(_presigner(settings), store, session).run()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UnavailableError("S3 does not answer", retry_after=2) from error


def _presigner(settings: S3Settings) -> Presigner:
    return Presigner(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
    )


class _Probe:
    """One look at one S3."""

    def __init__(self, presigner: Presigner, store: ObjectStore, session: aiohttp.ClientSession) -> None:
        self._presigner = presigner
        self._store = store
        self._session = session
        self._key = f"{PROBE_PREFIX}{new_id()}"

    async def run(self) -> Capabilities:
        """Try everything. What was made is removed; what a crash leaves is for the sweep."""
        try:
            await self._control()
            async with self._multipart() as upload_id:
                parts = await self._parts(upload_id)
            gone = await self._store.list_parts(self._key, upload_id) is None
            return Capabilities(
                put_checksums=await self._refuses_other_bytes(),
                lengths=await self._refuses_other_length(),
                conditional_writes=await self._refuses_replacing(),
                ranges=await self._answers_ranges(),
                cors=await self._allows_any_page(),
                cors_etag=await self._shows_etag_to_pages(),
                abort=gone,
                joining=await self._joins(),
                copying=await self._copies(),
                multi_delete=await deletes_many(self._store),
                **parts,
            )
        finally:
            with suppress(LockstepError):
                await self._store.delete([self._key, f"{self._key}-other", f"{self._key}-copy"])

    async def _control(self) -> None:
        """Do what is right: an S3 that refuses everything has no checks worth the name."""
        if not (await self._put(_SENT, bound_headers(len(_SENT), _sha256(_SENT)))).ok:
            raise UnavailableError("S3 refuses a correct presigned PUT")

    @asynccontextmanager
    async def _multipart(self) -> AsyncIterator[str]:
        upload_id = await self._store.create_multipart(self._key)
        try:
            yield upload_id
        finally:
            with suppress(LockstepError):
                await self._store.abort_multipart(self._key, upload_id)

    async def _parts(self, upload_id: str) -> dict[str, bool]:
        for number in _PARTS:
            if not (await self._put_part(upload_id, number, _SENT)).ok:
                raise UnavailableError("S3 refuses a correct part")
        wrong = await self._put_part(upload_id, _WRONG_PART, _OTHER)
        expected = set(_PARTS) if wrong.refused else {*_PARTS, _WRONG_PART}
        listed = await self._store.list_parts(self._key, upload_id) or []
        whole = {part.number for part in listed if part.size == len(_SENT)} == expected
        running = await self._lists(upload_id)
        return {"part_checksums": wrong.refused, "part_listing": whole, "multipart_listing": running}

    async def _joins(self) -> bool:
        """Join one part: the last of an upload may be of any size."""
        async with self._multipart() as upload_id:
            await self._put_part(upload_id, 1, _SENT)
            parts = await self._store.list_parts(self._key, upload_id) or []
            named = [PartToJoin(part.number, part.etag, _sha256(_SENT)) for part in parts]
            try:
                await self._store.complete_multipart(self._key, upload_id, named)
            except UnavailableError:
                raise
            except LockstepError:
                return False
        return True

    async def _copies(self) -> bool:
        """Copy a range, and see that it stays when its source is deleted; of another object it is refused."""
        copy, source = f"{self._key}-copy", f"{self._key}-other"
        try:
            await self._store.put(source, _SMALL + _SENT)
            found = await self._store.head(source)
            if found is None or found.etag is None:
                return False
            await self._copy(copy, Slice(source, found.etag, _COPIED))
            await self._store.put(source, _SMALL + _OTHER)
            with suppress(NotFoundError):
                await self._copy(copy, Slice(source, found.etag, _COPIED))
                return False
            await self._store.delete([source])
            kept = b"".join([piece async for piece in self._store.read(copy)])
        except LockstepError:  # an S3 without this call may say 501; one that went away shows elsewhere
            return False
        return kept == (_SMALL + _SENT)[_COPIED.offset : _COPIED.end]

    async def _copy(self, key: str, source: Slice) -> None:
        upload_id = await self._store.create_multipart(key, copied=1)
        try:
            part = await self._store.copy_part(key, upload_id, 1, source)
            await self._store.complete_multipart(key, upload_id, [part])
        finally:
            with suppress(LockstepError):
                await self._store.abort_multipart(key, upload_id)

    async def _lists(self, upload_id: str) -> bool:
        try:
            running = {found async for _, found, _ in self._store.walk_multiparts(PROBE_PREFIX)}
        except LockstepError:  # an S3 without this call; one that went away shows elsewhere
            return False
        return upload_id in running

    async def _refuses_other_bytes(self) -> bool:
        headers = bound_headers(len(_SENT), _sha256(_SENT))
        return (await self._put(_OTHER, headers, suffix="-other")).refused

    async def _refuses_other_length(self) -> bool:
        return (await self._put(_LONGER, {"content-length": str(len(_SENT))}, suffix="-other")).refused

    async def _refuses_replacing(self) -> bool:
        return (await self._put(_SENT, {"if-none-match": "*"})).refused

    async def _answers_ranges(self) -> bool:
        answer = await self._request("GET", {}, {"range": "bytes=1-3"}, signed=False)
        span = answer.headers.get("Content-Range", "").replace(" ", "").lower()
        right = span == f"bytes1-3/{len(_SENT)}" and answer.body == _SENT[1:4]
        return answer.status == 206 and right

    async def _allows_any_page(self) -> bool:
        asked = {
            "Origin": _ORIGIN,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "x-amz-checksum-sha256",
        }
        answer = await self._request("OPTIONS", {}, asked, signed=False)
        return answer.ok and answer.headers.get("Access-Control-Allow-Origin") in {"*", _ORIGIN}

    async def _shows_etag_to_pages(self) -> bool:
        answer = await self._request("GET", {}, {"Origin": _ORIGIN}, signed=False)
        exposed = answer.headers.get("Access-Control-Expose-Headers", "").lower().replace(" ", "").split(",")
        return "etag" in exposed or "*" in exposed

    async def _put(self, body: bytes, headers: dict[str, str], *, suffix: str = "") -> _Answer:
        return await self._request("PUT", {}, headers, body=body, suffix=suffix)

    async def _put_part(self, upload_id: str, number: int, body: bytes) -> _Answer:
        query = {"uploadId": upload_id, "partNumber": str(number)}
        return await self._request("PUT", query, bound_headers(len(_SENT), _sha256(_SENT)), body=body)

    async def _request(
        self,
        method: str,
        query: dict[str, str],
        headers: dict[str, str],
        *,
        body: bytes | None = None,
        signed: bool = True,
        suffix: str = "",
    ) -> _Answer:
        """Send by a presigned URL that binds `headers` when `signed`; the length is the body's own."""
        now = datetime.now(UTC)
        url = self._presigner.url(
            "GET" if method == "OPTIONS" else method, f"{self._key}{suffix}", query=query,
            headers=headers if signed else {}, now=now, seconds=_URL_SECONDS,
        )  # fmt: skip
        sent = {name: value for name, value in headers.items() if name != "content-length"}
        async with self._session.request(
            method, URL(url, encoded=True), data=body, headers=sent, skip_auto_headers=["Content-Type"]
        ) as answer:
            if answer.status in _AWAY:
                raise UnavailableError("S3 does not answer", retry_after=2)
            return _Answer(answer.status, answer.headers, await answer.read())


async def deletes_many(store: ObjectStore) -> bool:
    """Whether S3 deletes several objects in one request, and says of each that it is gone; by trying.

    Raises `UnavailableError` when it does not answer at all.
    """
    keys = [f"{PROBE_PREFIX}{new_id()}" for _ in range(3)]
    there = keys[:2]
    try:
        for key in there:
            await store.put(key, _SENT)
        told = await store.delete_many(keys) == []
    except LockstepError:  # an S3 without this call may say 501; one that is away refuses the next one too
        await store.delete(there)
        return False
    left = [key for key in there if await store.head(key) is not None]
    await store.delete(left)
    return told and not left


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
