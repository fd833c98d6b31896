"""Logs never hold presigned queries, tokens, passwords or credentials of URLs."""

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from libs.runtime import logs

SECRET = "s3cr3t"
early = logs.get_logger("early")
"""Made at import, before logging is configured, as every module does."""


@pytest.fixture
def written() -> Iterator[StringIO]:
    """What a configured process writes."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(level="info", style="json", service="test")
    stream = StringIO()
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.bind_request(None)


def last_line(written: StringIO) -> dict[str, object]:
    line: dict[str, object] = json.loads(written.getvalue().splitlines()[-1])
    return line


@pytest.mark.parametrize(
    "fields",
    [
        {"url": f"https://s3.example/t/x?X-Amz-Signature={SECRET}&X-Amz-Date=1"},
        {"detail": f"GET http://s3:8333/b/k?X-Amz-Credential={SECRET} failed"},
        {"refresh_token": SECRET},
        {"access_token": SECRET},
        {"password": SECRET},
        {"Authorization": f"Bearer {SECRET}"},
        {"header": f"Authorization: Bearer {SECRET}"},
        {"header": f"bearer {SECRET}.{SECRET}.{SECRET}"},
        {"amqp": f"amqp://user:{SECRET}@host:5672/"},
        {"nested": {"token": SECRET, "list": [f"http://h/p?sig={SECRET}"]}},
        {"error": ValueError(f"http://h/p?sig={SECRET}")},
    ],
)
def test_secrets_in_fields_are_redacted(written: StringIO, fields: dict[str, object]) -> None:
    early.info("something happened", **fields)
    line = last_line(written)
    assert SECRET not in written.getvalue()
    assert line["event"] == "something happened"


def test_secrets_in_the_text_in_tracebacks_and_in_foreign_lines_are_redacted(written: StringIO) -> None:
    early.info(f"fetching http://h/p?sig={SECRET}")
    try:
        raise RuntimeError(f"http://h/p?sig={SECRET}")
    except RuntimeError:
        early.exception("failed")
    logging.getLogger("foreign").warning("PUT %s", f"https://h/p?X-Amz-Signature={SECRET}")
    line = last_line(written)
    assert SECRET not in written.getvalue()
    assert "https://h/p?[redacted]" in str(line["event"])


def test_a_line_carries_service_logger_level_time_and_request_id(written: StringIO) -> None:
    logs.bind_request("request-1")
    early.warning("hello", number=1)
    line = last_line(written)
    assert line["service"] == "test"
    assert line["logger"] == "early"
    assert line["level"] == "warning"
    assert line["request_id"] == "request-1"
    assert line["number"] == 1
    assert "timestamp" in line
