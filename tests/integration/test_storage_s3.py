"""The object store's contract, held against the real S3."""

import base64
import hashlib
import io
import secrets
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aiohttp
import pytest
from pydantic import SecretStr

from libs.contracts.errors import ConflictError, LockstepError, NotFoundError, UnavailableError
from libs.contracts.ids import EMPTY_SHA256
from libs.contracts.recipe import Range
from libs.runtime.settings import S3Settings
from libs.storage.owner import MARK, ForeignBucketError, claim, owner_of
from libs.storage.port import PartToJoin, Signed, Slice, UploadGoneError
from libs.storage.s3 import S3ObjectStore, open_store
from tests.support.backends import Backends
from tests.support.relay import relay_to
from tests.support.s3_proxy import Answered, Asked, s3_proxy

MIB = 1024 * 1024


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def settings_of(backends: Backends, endpoint: str | None = None) -> S3Settings:
    return S3Settings(
        s3_endpoint=endpoint or backends.s3_endpoint,
        s3_bucket="lockstep-test-uploads",
        s3_access_key=SecretStr(backends.s3_access_key),
        s3_secret_key=SecretStr(backends.s3_secret_key),
        s3_timeout=2,
    )


@pytest.fixture(scope="module")
async def store(backends: Backends) -> AsyncIterator[S3ObjectStore]:
    async with open_store(settings_of(backends)) as opened:
        await opened.ensure_bucket()
        yield opened


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def key() -> str:
    return f"t/{secrets.token_hex(12)}/{secrets.token_hex(12)}"


async def send(http: aiohttp.ClientSession, signed: Signed, content: bytes, **headers: str) -> int:
    async with http.request(
        signed.method,
        signed.url,
        data=io.BytesIO(content),
        headers={**signed.headers, **headers},
        skip_auto_headers=["Content-Type"],
    ) as answer:
        await answer.read()
        return answer.status


async def upload_part(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str, upload: str, number: int, content: bytes
) -> None:
    signed = await store.presign_part(key, upload, number, size=len(content), sha256=sha256(content))
    assert await send(http, signed, content) == 200


async def read(store: S3ObjectStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.read(key)])


async def test_making_the_bucket_again_changes_nothing(store: S3ObjectStore) -> None:
    await store.ensure_bucket()
    await store.ping()


@pytest.mark.parametrize("content", [b"", b"x", b"some bytes" * 1000])
async def test_a_presigned_put_stores_what_it_announces(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str, content: bytes
) -> None:
    signed = await store.presign_put(key, size=len(content), sha256=sha256(content))
    assert await send(http, signed, content) == 200
    held = await store.head(key)
    assert held is not None
    assert (held.key, held.size) == (key, len(content))
    assert await read(store, key) == content


async def test_a_presigned_put_is_bound_to_its_hash_and_its_length(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str
) -> None:
    signed = await store.presign_put(key, size=5, sha256=sha256(b"right"))
    assert await send(http, signed, b"wrong") == 400
    assert await send(http, signed, b"longer", **{"content-length": "6"}) == 403
    other = await store.presign_put(key, size=5, sha256=sha256(b"other"))
    claimed = other.headers["x-amz-checksum-sha256"]
    assert await send(http, signed, b"other", **{"x-amz-checksum-sha256": claimed}) == 403
    assert await store.head(key) is None


@pytest.mark.parametrize("name", ["X-Amz-Expires", "X-Amz-Date", "X-Amz-Credential", "X-Amz-Signature"])
async def test_a_url_that_was_changed_is_refused(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str, name: str
) -> None:
    await store.put(key, b"secret")
    signed = await store.presign_get(key)
    parts = urlsplit(signed.url)
    query = dict(parse_qsl(parts.query))
    query[name] = {"X-Amz-Expires": "901", "X-Amz-Date": "20200101T000000Z"}.get(
        name, query[name][:-1] + "0x"
    )
    changed = Signed("GET", urlunsplit(parts._replace(query=urlencode(query))), {}, signed.expires_at)
    assert await send(http, signed, b"") == 200
    assert await send(http, changed, b"") == 403


async def test_a_presigned_read_can_name_the_attachment(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str
) -> None:
    await store.put(key, b"0123456789")
    signed = await store.presign_get(key, filename='ä "x".txt')
    async with http.get(signed.url, headers={"Range": "bytes=2-4"}) as answer:
        assert (answer.status, await answer.read()) == (206, b"234")
        assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''%C3%A4%20%22x%22.txt"


async def test_what_is_not_there_is_none_or_not_found(store: S3ObjectStore, key: str) -> None:
    assert await store.head(key) is None
    with pytest.raises(NotFoundError):
        await read(store, key)
    await store.delete([key])


async def test_walking_gives_each_object_below_the_prefix_once(store: S3ObjectStore, key: str) -> None:
    names = [f"{key}-{i}" for i in range(12)]
    for name in [*names, f"{key[:-1]}!"]:
        await store.put(name, name.encode())
    walked = [item async for item in store.walk(f"{key}-")]
    assert sorted(item.key for item in walked) == sorted(names)
    assert all(item.size == len(item.key) for item in walked)
    await store.delete(names[:5])
    assert sorted([item.key async for item in store.walk(f"{key}-")]) == sorted(names[5:])


async def test_walking_goes_over_pages(store: S3ObjectStore, key: str) -> None:
    names = {f"{key}-{i}" for i in range(1050)}
    for name in names:
        await store.put(name, b"")
    assert {item.key async for item in store.walk(f"{key}-")} == names


async def test_parts_are_joined_in_order(store: S3ObjectStore, http: aiohttp.ClientSession, key: str) -> None:
    contents = {1: b"a" * 5 * MIB, 2: b"b" * 5 * MIB, 3: b"c"}
    upload = await store.create_multipart(key)
    for number in (3, 1, 2):
        await upload_part(store, http, key, upload, number, contents[number])
    held = await store.list_parts(key, upload)
    assert held is not None
    assert [(part.number, part.size) for part in held] == [(1, 5 * MIB), (2, 5 * MIB), (3, 1)]
    joined = [PartToJoin(part.number, part.etag, sha256(contents[part.number])) for part in held]
    await store.complete_multipart(key, upload, joined)
    assert await store.list_parts(key, upload) is None
    assert sha256(await read(store, key)) == sha256(b"".join(contents.values()))
    await store.complete_multipart(key, upload, joined)
    await store.abort_multipart(key, upload)
    assert await store.head(key) is not None


async def test_a_part_is_bound_to_its_hash(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str
) -> None:
    upload = await store.create_multipart(key)
    signed = await store.presign_part(key, upload, 1, size=5, sha256=sha256(b"right"))
    assert await send(http, signed, b"wrong") == 400
    assert await store.list_parts(key, upload) == []


async def test_a_part_that_was_sent_twice_is_listed_once(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str
) -> None:
    """A part's digest is fixed in a session, so what is sent again are the same bytes."""
    upload = await store.create_multipart(key)
    for content in (b"the same", b"the same"):
        await upload_part(store, http, key, upload, 1, content)
    held = await store.list_parts(key, upload)
    assert held is not None
    assert [(part.number, part.size) for part in held] == [(1, 8)]
    await store.complete_multipart(key, upload, [PartToJoin(1, held[0].etag, sha256(b"the same"))])
    assert await read(store, key) == b"the same"


async def test_a_wrong_part_is_refused_and_the_upload_stays(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str
) -> None:
    upload = await store.create_multipart(key)
    await upload_part(store, http, key, upload, 1, b"one")
    for parts in (
        [PartToJoin(1, '"0123456789abcdef0123456789abcdef"', sha256(b"one"))],
        [PartToJoin(2, '"0123456789abcdef0123456789abcdef"', sha256(b"one"))],
    ):
        with pytest.raises(ConflictError) as caught:
            await store.complete_multipart(key, upload, parts)
        assert caught.value.code == "parts_missing"
    assert await store.head(key) is None
    assert await store.list_parts(key, upload) is not None


async def test_joining_what_is_gone_is_not_found(
    store: S3ObjectStore, http: aiohttp.ClientSession, key: str
) -> None:
    upload = await store.create_multipart(key)
    await upload_part(store, http, key, upload, 1, b"one")
    held = await store.list_parts(key, upload) or []
    await store.abort_multipart(key, upload)
    await store.abort_multipart(key, upload)
    assert await store.list_parts(key, upload) is None
    with pytest.raises(NotFoundError):
        await store.complete_multipart(key, upload, [PartToJoin(1, held[0].etag, sha256(b"one"))])


async def test_running_multipart_uploads_are_walked(store: S3ObjectStore, key: str) -> None:
    uploads = {await store.create_multipart(f"{key}-{i}") for i in range(3)}
    assert {upload async for _, upload, _ in store.walk_multiparts(f"{key}-")} == uploads
    assert {name async for name, _, _ in store.walk_multiparts(f"{key}-")} == {f"{key}-{i}" for i in range(3)}


async def test_an_s3_that_is_away_is_unavailable_and_presigning_goes_on(backends: Backends, key: str) -> None:
    async with relay_to(urlsplit(backends.s3_endpoint).port or 0) as relay:
        relay.cut()
        async with open_store(settings_of(backends, f"http://127.0.0.1:{relay.port}")) as away:
            for call in (away.ping, away.ensure_bucket):
                with pytest.raises(UnavailableError):
                    await call()
            with pytest.raises(UnavailableError):
                await away.head(key)
            with pytest.raises(UnavailableError):
                await away.list_parts(key, "1")
            with pytest.raises(UnavailableError):
                await read(away, key)
            signed = await away.presign_put(key, size=0, sha256=EMPTY_SHA256)
            assert signed.url.startswith(f"http://127.0.0.1:{relay.port}/")


async def test_a_404_of_something_in_front_of_s3_does_not_mean_that_bytes_are_gone(
    backends: Backends, http: aiohttp.ClientSession, key: str
) -> None:
    async with s3_proxy(backends.s3_endpoint) as proxy, open_store(settings_of(backends, proxy.url)) as store:
        upload = await store.create_multipart(key)
        await upload_part(store, http, key, upload, 1, b"one")
        await store.put(f"{key}-small", b"small")
        proxy.before, as_it_is = not_here, proxy.before
        with pytest.raises(UnavailableError):
            await store.list_parts(key, upload)
        with pytest.raises(UnavailableError):
            await read(store, f"{key}-small")
        proxy.before = as_it_is
        assert len(await store.list_parts(key, upload) or []) == 1
        assert await read(store, f"{key}-small") == b"small"


async def not_here(_asked: Asked) -> Answered | None:
    return Answered(404, b"<html><body>404 Not Found</body></html>")


@pytest.mark.parametrize(
    ("content", "span", "given"),
    [
        (b"0123456789", (2, 3), b"234"),
        (b"0123456789", (8, 100), b"89"),
        (b"0123456789", (10, 1), b""),
        (b"0123456789", (1000, 10), b""),
        (b"", (0, 1), b""),
    ],
)
async def test_a_range_gives_what_is_there_of_it(
    store: S3ObjectStore, key: str, content: bytes, span: tuple[int, int], given: bytes
) -> None:
    await store.put(key, content)
    assert b"".join([piece async for piece in store.read(key, *span)]) == given


async def test_a_bucket_is_one_deployments(store: S3ObjectStore) -> None:
    await store.delete([MARK])
    try:
        await claim(store, "one")
        await claim(store, "one")
        assert await owner_of(store) == "one"
        with pytest.raises(ForeignBucketError, match="belongs to deployment one, this is other"):
            await claim(store, "other")
        assert await owner_of(store) == "one"
    finally:
        await store.delete([MARK])


async def test_objects_are_deleted_at_once_and_those_that_are_not_there_count_as_done(
    store: S3ObjectStore, key: str
) -> None:
    keys = [f"{key}-{number}" for number in range(5)]
    for there in keys[:3]:
        await store.put(there, b"bytes")
    await store.put(f"{key}-kept", b"bytes")
    assert await store.delete_many(keys) == []
    assert [item.key async for item in store.walk(key)] == [f"{key}-kept"]


async def test_what_s3_refuses_to_delete_or_says_nothing_of_is_told(backends: Backends, key: str) -> None:
    answer = f"""<DeleteResult><Deleted><Key>{key}-0</Key></Deleted>
        <Error><Key>{key}-1</Key><Code>AccessDenied</Code></Error>
        <Error><Key>{key}-2</Key><Code>NoSuchKey</Code></Error></DeleteResult>"""

    async def answers(asked: Asked) -> Answered | None:
        return Answered(200, answer.encode()) if asked.method == "POST" and "delete" in asked.query else None

    async with s3_proxy(backends.s3_endpoint) as proxy, open_store(settings_of(backends, proxy.url)) as store:
        proxy.before = answers
        refused = await store.delete_many([f"{key}-{number}" for number in range(4)])
    assert refused == [f"{key}-1", f"{key}-3"]


# Copies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "text", "zeros"])
async def test_parts_can_be_copied_from_any_offset_of_another_object(
    store: S3ObjectStore, key: str, kind: str
) -> None:
    """S3 may keep objects in pieces, and those that can be compressed so: neither must show."""
    text = b"".join(b"line %d of a text\n" % number for number in range(600_000))
    source = {"random": secrets.token_bytes(12 * MIB), "text": text, "zeros": bytes(12 * MIB)}[kind][
        : 12 * MIB
    ]
    await store.put(f"{key}-base", source)
    held = await store.head(f"{key}-base")
    assert held is not None
    assert held.etag is not None
    new, ranges = secrets.token_bytes(5 * MIB), (Range(3, 5 * MIB), Range(4 * MIB - 1, 6 * MIB + 7))
    upload = await store.create_multipart(key, copied=7)
    parts = [await store.put_part(key, upload, 1, new, copying=True)]
    for number, wanted in enumerate(ranges, 2):
        parts.append(await store.copy_part(key, upload, number, Slice(f"{key}-base", held.etag, wanted)))
    await store.complete_multipart(key, upload, parts)
    await store.delete([f"{key}-base"])
    assert await read(store, key) == new + b"".join(source[one.offset : one.end] for one in ranges)
    made = await store.head(key)
    assert made is not None
    assert made.copied == 7


async def test_of_another_object_under_the_same_key_nothing_is_copied_or_read(
    store: S3ObjectStore, key: str
) -> None:
    await store.put(f"{key}-base", b"some bytes")
    held = await store.head(f"{key}-base")
    assert held is not None
    assert held.etag is not None
    assert b"".join([piece async for piece in store.read(f"{key}-base", 5, etag=held.etag)]) == b"bytes"
    await store.put(f"{key}-base", b"SOME BYTES")
    upload, source = await store.create_multipart(key, copied=0), Slice(f"{key}-base", held.etag, Range(0, 4))
    for again in range(2):
        with pytest.raises(NotFoundError):
            await store.copy_part(key, upload, 1, source)
        with pytest.raises(NotFoundError):
            _ = [piece async for piece in store.read(f"{key}-base", etag=held.etag)]
        if not again:
            await store.delete([f"{key}-base"])
    await store.abort_multipart(key, upload)


async def test_parts_for_a_multipart_upload_that_is_gone_are_told_from_a_source_that_is(
    store: S3ObjectStore, key: str
) -> None:
    await store.put(f"{key}-base", b"some bytes")
    held = await store.head(f"{key}-base")
    assert held is not None
    assert held.etag is not None
    upload = await store.create_multipart(key, copied=0)
    await store.abort_multipart(key, upload)
    with pytest.raises(UploadGoneError):
        await store.copy_part(key, upload, 1, Slice(f"{key}-base", held.etag, Range(0, 4)))
    with pytest.raises(UploadGoneError):
        await store.put_part(key, upload, 1, b"bytes", copying=True)


async def test_a_part_for_copies_that_was_damaged_on_the_way_is_refused(backends: Backends, key: str) -> None:
    async def damage(asked: Asked) -> Answered | None:
        if asked.method == "PUT" and "partNumber" in asked.query:
            named = base64.b64decode(asked.headers["content-md5"])
            return Answered(400) if named != hashlib.md5(b"other bytes").digest() else None  # noqa: S324
        return None

    async with s3_proxy(backends.s3_endpoint) as proxy, open_store(settings_of(backends, proxy.url)) as store:
        proxy.before = damage
        upload = await store.create_multipart(key, copied=0)
        with pytest.raises(LockstepError):
            await store.put_part(key, upload, 1, b"bytes", copying=True)
        await store.put_part(key, upload, 1, b"other bytes", copying=True)
        await store.abort_multipart(key, upload)


@pytest.mark.parametrize(
    ("noted", "copied"), [("12", 12), ("", 1_000_000), ("-3", 1_000_000), ("9" * 99, 1_000_000)]
)
async def test_a_number_that_others_noted_with_an_object_is_not_believed_to_be_small(
    backends: Backends, store: S3ObjectStore, key: str, noted: str, copied: int
) -> None:
    async def another_number(asked: Asked, answered: Answered) -> Answered | None:
        if asked.method == "HEAD" and answered.headers is not None:
            answered.headers["x-amz-meta-lockstep-copied"] = noted
        return answered

    await store.put(key, b"bytes")
    async with s3_proxy(backends.s3_endpoint) as proxy, open_store(settings_of(backends, proxy.url)) as other:
        proxy.after = another_number
        held = await other.head(key)
    assert held is not None
    assert held.copied == copied


async def test_a_number_is_found_whatever_case_s3_gives_its_name(
    backends: Backends, store: S3ObjectStore, key: str
) -> None:
    async def capitalised(_asked: Asked, answered: Answered) -> Answered | None:
        if answered.headers is not None:
            answered.headers["X-Amz-Meta-Lockstep-Copied"] = "12"
        return answered

    await store.put(key, b"bytes")
    async with s3_proxy(backends.s3_endpoint) as proxy, open_store(settings_of(backends, proxy.url)) as other:
        proxy.after = capitalised
        held = await other.head(key)
    assert held is not None
    assert held.copied == 12


async def test_a_copy_that_is_answered_as_done_with_an_error_in_its_body_is_none(
    backends: Backends, store: S3ObjectStore, key: str
) -> None:
    async def failed(asked: Asked, answered: Answered) -> Answered | None:
        body = b"<Error><Code>InternalError</Code><Message>later</Message></Error>"
        return Answered(200, body) if "x-amz-copy-source" in asked.headers else answered

    await store.put(f"{key}-base", b"some bytes")
    held = await store.head(f"{key}-base")
    assert held is not None
    assert held.etag is not None
    upload, source = await store.create_multipart(key, copied=0), Slice(f"{key}-base", held.etag, Range(0, 4))
    async with s3_proxy(backends.s3_endpoint) as proxy, open_store(settings_of(backends, proxy.url)) as other:
        proxy.after = failed
        with pytest.raises(UnavailableError):
            await other.copy_part(key, upload, 1, source)
    await store.abort_multipart(key, upload)
