"""Errors as RFC 9457 problem documents."""

import json
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from libs.contracts.errors import CODES, InvalidRequestError, LockstepError

CONTENT_TYPE = "application/problem+json"


def problem_document(error: LockstepError, request_id: str | None = None) -> dict[str, Any]:
    """Return the document of an error. Codes of status 5xx never show what happened inside."""
    info = CODES[error.code]
    document: dict[str, Any] = {
        "type": f"urn:lockstep:problem:{error.code}",
        "title": info.title,
        "status": info.status,
        "code": error.code,
        "detail": info.title if error.code == "internal" else error.detail,
    }
    if request_id is not None:
        document["request_id"] = request_id
    document.update(error.extra)
    return document


def problem_response(error: LockstepError, request_id: str | None = None) -> web.Response:
    """Return the response of an error, with Retry-After where a repeat helps."""
    headers: dict[str, str] = {}
    if error.status in {429, 503}:
        headers["Retry-After"] = str(max(1, round(float(error.extra.get("retry_after", 1)))))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = json.dumps(problem_document(error, request_id)).encode()
    return web.Response(body=body, status=error.status, content_type=CONTENT_TYPE, headers=headers)


def from_validation(error: ValidationError) -> InvalidRequestError:
    """Say which fields are wrong and how, without repeating their values."""
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return InvalidRequestError(f"{len(errors)} field(s) are wrong", errors=errors[:20])
