"""What the look at S3 finds: of the real one, and of ones that lack something."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from multidict import CIMultiDict

from libs.contracts.errors import UnavailableError
from libs.contracts.keys import PROBE_PREFIX
from libs.runtime.settings import S3Settings
from libs.storage.capabilities import Capabilities
from libs.storage.probe import probe
from libs.storage.s3 import S3ObjectStore, open_store
from tests.integration.test_storage_s3 import settings_of
from tests.support.backends import Backends
from tests.support.relay import relay_to
from tests.support.s3_proxy import After, Answered, Asked, Before, S3Proxy, s3_proxy

EVERYTHING = Capabilities(
    put_checksums=True, part_checksums=True, lengths=True, conditional_writes=True, ranges=True, cors=True,
    cors_etag=True, part_listing=True, joining=True, copying=True, multi_delete=True,
    multipart_listing=True, abort=True,
)  # fmt: skip


@pytest.fixture
async def proxy(backends: Backends) -> AsyncIterator[S3Proxy]:
    async with s3_proxy(backends.s3_endpoint) as running:
        yield running


async def found(settings: S3Settings) -> Capabilities:
    async with open_store(settings) as store:
        await store.ensure_bucket()
        result = await probe(settings, store)
        assert await left(store) == []
        return result


async def left(store: S3ObjectStore) -> list[str]:
    keys = [item.key async for item in store.walk(PROBE_PREFIX)]
    return keys + [key async for key, _, _ in store.walk_multiparts(PROBE_PREFIX)]


async def test_the_real_s3_does_everything_and_nothing_is_left_behind(backends: Backends) -> None:
    capabilities = await found(settings_of(backends))
    assert capabilities == EVERYTHING
    assert capabilities.consequences() == {}


def is_wrong(asked: Asked) -> bool:
    named = asked.headers.get("x-amz-checksum-sha256")
    return named is not None and named != base64.b64encode(hashlib.sha256(asked.body).digest()).decode()


async def takes_any_object(asked: Asked) -> Answered | None:
    return Answered(200) if is_wrong(asked) and "uploadId" not in asked.query else None


async def takes_any_part(asked: Asked) -> Answered | None:
    return Answered(200) if is_wrong(asked) and "uploadId" in asked.query else None


async def takes_any_length(asked: Asked) -> Answered | None:
    bound = asked.query.get("X-Amz-SignedHeaders", "") == "content-length;host"
    return Answered(200) if asked.method == "PUT" and bound else None


async def does_not_know_conditions(asked: Asked) -> Answered | None:
    return Answered(501) if "if-none-match" in asked.headers else None


async def refuses_pages(asked: Asked) -> Answered | None:
    return Answered(403) if asked.method == "OPTIONS" else None


async def keeps_aborted(asked: Asked) -> Answered | None:
    return Answered(204) if asked.method == "DELETE" and "uploadId" in asked.query else None


async def lists_nothing(asked: Asked, answered: Answered) -> Answered | None:
    body = b'<?xml version="1.0"?><ListMultipartUploadsResult></ListMultipartUploadsResult>'
    return replace(answered, body=body) if asked.method == "GET" and "uploads" in asked.query else answered


async def forgets_a_part(asked: Asked, answered: Answered) -> Answered | None:
    if asked.method != "GET" or "uploadId" not in asked.query:
        return answered
    return replace(answered, body=answered.body.replace(b"<PartNumber>10<", b"<PartNumber>1<"))


async def ignores_ranges(asked: Asked, answered: Answered) -> Answered | None:
    if "range" not in asked.headers:
        return answered
    return Answered(200, b"lockstep", CIMultiDict())


async def hides_the_etag(asked: Asked, answered: Answered) -> Answered | None:
    assert answered.headers is not None
    answered.headers.popall("Access-Control-Expose-Headers", None)
    return answered


async def cannot_join(asked: Asked) -> Answered | None:
    return Answered(400) if asked.completes else None


async def cannot_copy(asked: Asked) -> Answered | None:
    return Answered(501) if "x-amz-copy-source" in asked.headers else None


async def copies_the_whole(asked: Asked) -> Answered | None:
    is_read = asked.method == "GET" and asked.path.endswith("-copy") and not asked.query
    return Answered(200, b"lockstep") if is_read else None


async def loses_the_copy_with_its_source(asked: Asked, answered: Answered) -> Answered | None:
    is_read = asked.method == "GET" and asked.path.endswith("-copy") and not asked.query
    body = b"<Error><Code>NoSuchKey</Code></Error>"
    return Answered(404, body) if is_read else answered


async def copies_of_any_object(asked: Asked, answered: Answered) -> Answered | None:
    copied = b"<CopyPartResult><ETag>e</ETag></CopyPartResult>"
    joined = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
    if answered.status == 412 and "x-amz-copy-source" in asked.headers:
        return Answered(200, copied)
    return Answered(200, joined) if asked.completes and b">e<" in asked.body else answered


def deletes_many(asked: Asked) -> bool:
    return asked.method == "POST" and "delete" in asked.query


async def cannot_delete_many(asked: Asked) -> Answered | None:
    return Answered(501) if deletes_many(asked) else None


async def says_nothing_of_what_it_deletes(asked: Asked, answered: Answered) -> Answered | None:
    return replace(answered, body=b"<DeleteResult></DeleteResult>") if deletes_many(asked) else answered


async def only_says_that_it_deletes(asked: Asked) -> Answered | None:
    keys = re.findall(rb"<Key>[^<]*</Key>", asked.body)
    body = b"".join(b"<Deleted>%s</Deleted>" % key for key in keys)
    return Answered(200, b"<DeleteResult>%s</DeleteResult>" % body) if deletes_many(asked) else None


BEFORE = {
    "multi_delete": cannot_delete_many,
    "joining": cannot_join,
    "put_checksums": takes_any_object,
    "lengths": takes_any_length,
    "conditional_writes": does_not_know_conditions,
    "copying": cannot_copy,
    "cors": refuses_pages,
}
AFTER = {
    "multipart_listing": lists_nothing,
    "part_listing": forgets_a_part,
    "ranges": ignores_ranges,
    "cors_etag": hides_the_etag,
}


@pytest.mark.parametrize("lacking", [*BEFORE, *AFTER])
async def test_what_an_s3_lacks_is_found_and_told_with_its_consequence(
    backends: Backends, proxy: S3Proxy, lacking: str
) -> None:
    proxy.before = BEFORE.get(lacking, proxy.before)
    proxy.after = AFTER.get(lacking, proxy.after)
    capabilities = await found(settings_of(backends, proxy.url))
    lost = {lacking, "copying"} if lacking == "joining" else {lacking}
    assert capabilities == replace(EVERYTHING, **dict.fromkeys(lost, False))
    assert set(capabilities.consequences()) == lost


async def test_an_s3_that_copies_more_than_the_range_is_not_asked_to(
    backends: Backends, proxy: S3Proxy
) -> None:
    proxy.before = copies_the_whole
    assert await found(settings_of(backends, proxy.url)) == replace(EVERYTHING, copying=False)


async def test_an_s3_that_copies_ranges_of_large_objects_alone_is_found_to_copy(
    backends: Backends, proxy: S3Proxy
) -> None:
    """Amazon S3 does so from objects of more than 5 MiB."""
    sizes: dict[str, int] = {}

    async def amazon(asked: Asked) -> Answered | None:
        if asked.method == "PUT" and not asked.query:
            sizes[asked.path] = len(asked.body)
        source = asked.headers.get("x-amz-copy-source")
        if source is None or sizes["/" + source] > 5 * 1024 * 1024:
            return None
        return Answered(400, b"<Error><Code>InvalidRequest</Code></Error>")

    proxy.before = amazon
    assert await found(settings_of(backends, proxy.url)) == EVERYTHING


@pytest.mark.parametrize("lenient", [loses_the_copy_with_its_source, copies_of_any_object])
async def test_an_s3_whose_copies_are_no_copies_of_what_was_meant_is_not_asked_for_any(
    backends: Backends, proxy: S3Proxy, lenient: After
) -> None:
    proxy.after = lenient
    assert await found(settings_of(backends, proxy.url)) == replace(EVERYTHING, copying=False)


@pytest.mark.parametrize("kind", ["says nothing", "only says so"])
async def test_an_s3_that_does_not_delete_all_that_it_is_asked_to_at_once_is_asked_one_by_one(
    backends: Backends, proxy: S3Proxy, kind: str
) -> None:
    if kind == "says nothing":
        proxy.after = says_nothing_of_what_it_deletes
    else:
        proxy.before = only_says_that_it_deletes
    assert await found(settings_of(backends, proxy.url)) == replace(EVERYTHING, multi_delete=False)


async def test_an_s3_that_takes_any_part_is_found(backends: Backends, proxy: S3Proxy) -> None:
    proxy.before = takes_any_part
    capabilities = await found(settings_of(backends, proxy.url))
    assert not capabilities.part_checksums
    assert capabilities.put_checksums


async def test_an_s3_that_keeps_what_was_aborted_is_found(backends: Backends, proxy: S3Proxy) -> None:
    proxy.before = keeps_aborted
    settings = settings_of(backends, proxy.url)
    async with open_store(settings) as store:
        assert not (await probe(settings, store)).abort
    async with open_store(settings_of(backends)) as real:
        async for key, upload_id, _ in real.walk_multiparts(PROBE_PREFIX):
            await real.abort_multipart(key, upload_id)
        assert await left(real) == []


async def refuses_all_writes(asked: Asked) -> Answered | None:
    return Answered(403) if asked.method == "PUT" else None


async def is_ill(_asked: Asked) -> Answered | None:
    return Answered(503)


@pytest.mark.parametrize("does", [refuses_all_writes, is_ill])
async def test_an_s3_that_refuses_what_is_right_tells_nothing(
    backends: Backends, proxy: S3Proxy, does: Before
) -> None:
    settings = settings_of(backends, proxy.url)
    proxy.before = does
    async with open_store(settings) as store:
        with pytest.raises(UnavailableError):
            await probe(settings, store)


async def test_an_s3_that_is_away_tells_nothing(backends: Backends) -> None:
    async with relay_to(int(backends.s3_endpoint.rpartition(":")[2])) as relay:
        settings = settings_of(backends, f"http://127.0.0.1:{relay.port}")
        async with open_store(settings) as store:
            relay.cut()
            with pytest.raises(UnavailableError):
                await probe(settings, store)
