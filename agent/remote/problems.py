"""From what HTTP brings to the one tree of errors."""

import asyncio
import json
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from pydantic import ValidationError

from agent.errors import LocalError
from libs.contracts.errors import (
    LockstepError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
    error_from_code,
)
from libs.contracts.tree import NodeRow

_STANDARD: Final = frozenset({"type", "title", "status", "code", "detail", "request_id"})
_AWAY: Final = frozenset({502, 503, 504})
_LONGEST_RETRY_AFTER: Final = 86_400


class NotSentError(UnavailableError):
    """No connection: the server has not seen the request."""


class LostAnswerError(UnavailableError):
    """The connection broke before the answer: the server may have done what was asked."""


def error_of(status: int, content: bytes, retry_after: str | None = None) -> LockstepError:
    """Return the error of an answer of 400 or more.

    `extra` keeps what the problem document says beside code and detail: `current` (a `NodeRow`),
    `missing`, `retry_after` in seconds, `errors`.
    """
    document = _document(content)
    extra = _extra(document, retry_after)
    code, detail = document.get("code"), str(document.get("detail") or "")
    if isinstance(code, str):
        return error_from_code(code, detail, **extra)
    return _without_document(status, extra)


def _without_document(status: int, extra: dict[str, Any]) -> LockstepError:
    if status in _AWAY:
        return UnavailableError(f"The server answered {status}", **extra)
    if status == HTTPStatus.UNAUTHORIZED:
        return UnauthenticatedError(**extra)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimitedError(**extra)
    return LockstepError(f"The server answered {status}", **extra)


def connection_error(error: Exception) -> LockstepError:
    """Return the error of a request that brought no answer."""
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)):
        return LocalError(code="tls_invalid")
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return NotSentError("The server cannot be reached")
    if isinstance(error, (asyncio.TimeoutError, aiohttp.ServerTimeoutError)):
        return LostAnswerError("The server did not answer in time")
    return LostAnswerError("The connection to the server broke")


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _extra(document: dict[str, Any], retry_after: str | None) -> dict[str, Any]:
    extra = {key: value for key, value in document.items() if key not in _STANDARD}
    if "current" in extra:
        extra["current"] = _row(extra["current"])
    seconds = _seconds(extra.pop("retry_after", None))
    if seconds is None:
        seconds = _seconds(retry_after)
    return extra if seconds is None else {**extra, "retry_after": seconds}


def _row(value: Any) -> NodeRow | None:
    try:
        return NodeRow.model_validate(value)
    except ValidationError:
        return None


def _seconds(value: Any) -> float | None:
    """Return seconds; a date, which nobody here sends, counts as not given."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < _LONGEST_RETRY_AFTER else None
