"""Presigned URLs equal those of the S3 driver, to the last bit of the signature."""

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.config import Config
from botocore.session import get_session
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.storage.sigv4 import Presigner

NOW = datetime(2026, 11, 23, 12, 30, 59, tzinfo=UTC)
DIGEST = base64.b64encode(hashlib.sha256(b"x").digest()).decode()


def presigner(endpoint: str) -> Presigner:
    return Presigner(endpoint, "eu-central-1", "bucket", "access", "secret/+=")


def ours(endpoint: str, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    return presigner(endpoint).url(method, key, query=query, headers=headers, now=NOW, seconds=900)


@lru_cache
def driver(endpoint: str) -> Any:
    return get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="eu-central-1",
        aws_access_key_id="access",
        aws_secret_access_key="secret/+=",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def drivers(endpoint: str, operation: str, params: dict[str, Any]) -> str:
    client = driver(endpoint)
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        return str(
            client.generate_presigned_url(operation, Params={"Bucket": "bucket", **params}, ExpiresIn=900)
        )


def taken_apart(url: str) -> tuple[str, str | None, int, str, dict[str, str]]:
    """The parts of a URL; a port that is the scheme's own need not be written."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return (
        parts.scheme,
        parts.hostname,
        port,
        parts.path,
        dict(parse_qsl(parts.query, keep_blank_values=True)),
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:8333",
        "https://s3.example.com",
        "https://s3.example.com:443",
        "http://s3.example.com:80/",
        "https://s3.example.com:9000",
    ],
)
def test_a_put_is_signed_as_the_driver_signs_it(endpoint: str) -> None:
    headers = {"content-length": "12", "x-amz-checksum-sha256": DIGEST}
    expected = drivers(
        endpoint, "put_object", {"Key": "t/a/b-1", "ContentLength": 12, "ChecksumSHA256": DIGEST}
    )
    assert taken_apart(ours(endpoint, "PUT", "t/a/b-1", {}, headers)) == taken_apart(expected)


def test_a_part_is_signed_as_the_driver_signs_it() -> None:
    headers = {"content-length": "5", "x-amz-checksum-sha256": DIGEST}
    expected = drivers(
        "http://127.0.0.1:1",
        "upload_part",
        {
            "Key": "t/a",
            "UploadId": "a_b.c-d~e==",
            "PartNumber": 10,
            "ContentLength": 5,
            "ChecksumSHA256": DIGEST,
        },
    )
    query = {"uploadId": "a_b.c-d~e==", "partNumber": "10"}
    assert taken_apart(ours("http://127.0.0.1:1", "PUT", "t/a", query, headers)) == taken_apart(expected)


@settings(deadline=None, max_examples=15)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_in_a_read_is_signed_as_the_driver_signs_it(text: str) -> None:
    expected = drivers("http://127.0.0.1:1", "get_object", {"Key": "t/a", "ResponseContentDisposition": text})
    query = {"response-content-disposition": text}
    assert taken_apart(ours("http://127.0.0.1:1", "GET", "t/a", query, {})) == taken_apart(expected)


def test_another_day_region_or_secret_is_another_signature() -> None:
    base = presigner("http://h:1")
    urls = {
        signer.url("GET", "k", query={}, headers={}, now=now, seconds=900)
        for signer in (base, Presigner("http://h:1", "us-east-1", "bucket", "access", "secret/+="))
        for now in (NOW, NOW.replace(day=24))
    }
    other = Presigner("http://h:1", "eu-central-1", "bucket", "access", "other")
    urls.add(other.url("GET", "k", query={}, headers={}, now=NOW, seconds=900))
    assert len({url.rpartition("=")[2] for url in urls}) == 5
