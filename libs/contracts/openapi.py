"""The OpenAPI 3.1 document of the public API: a pure function of the table of endpoints."""

import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from libs.contracts import api
from libs.contracts.endpoints import AUTH_CODES, COMMON_CODES, ENDPOINTS, Endpoint
from libs.contracts.errors import CODES

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_PUSHED: Final = (api.PushHeads, api.PushChanges, api.PushUpload, api.PushRevoked)
_TAGS: Final = {
    "gateway": "Accounts and devices",
    "upload": "Uploads",
    "download": "Downloads",
    "metadata": "Files and sync",
    "notification": "Push",
}


def openapi_document(*, version: str = "1") -> Json:
    """Return the whole document."""
    references, schemas = _schemas()
    paths: Json = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lockstep",
            "version": version,
            "description": "Keeps folders in step. Bytes travel between client and S3 by presigned requests; "
            "errors are RFC 9457 problem documents with a stable `code`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in _TAGS.values()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _schemas() -> tuple[dict[type[BaseModel], Json], Json]:
    """Return the reference of each model used, and the schemas referred to."""
    used: dict[type[BaseModel], JsonSchemaMode] = {api.Problem: "serialization"}
    used.update(dict.fromkeys(_PUSHED, "serialization"))
    for endpoint in ENDPOINTS:
        if endpoint.request is not None:
            used[endpoint.request] = "validation"
        if endpoint.reply is not None:
            used[endpoint.reply] = "serialization"
    references, document = models_json_schema(list(used.items()), ref_template=_REF)
    by_model = {model: reference for (model, _mode), reference in references.items() if model in used}
    return {model: dict(reference) for model, reference in by_model.items()}, dict(document.get("$defs", {}))


def _operation(endpoint: Endpoint, references: dict[type[BaseModel], Json]) -> Json:
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [_TAGS[endpoint.service]],
        "responses": {**_success(endpoint, references), **_problems(endpoint)},
        "security": [{"bearer": []}] if endpoint.auth else [],
    }
    parameters = [*_path_parameters(endpoint), *_query_parameters(endpoint)]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request is not None:
        content = {"application/json": {"schema": references[endpoint.request]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameters(endpoint: Endpoint) -> list[Json]:
    names = _PARAMETER.findall(endpoint.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(endpoint: Endpoint) -> list[Json]:
    return [
        {
            "name": query.name,
            "in": "query",
            "required": query.required,
            "schema": {"type": query.kind},
            **({"description": query.doc} if query.doc else {}),
        }
        for query in endpoint.query
    ]


def _success(endpoint: Endpoint, references: dict[type[BaseModel], Json]) -> Json:
    if endpoint.stream:
        names = ", ".join(f"`{model.__name__}`" for model in _PUSHED)
        text = f"Server-sent events whose data is one of {names} as JSON; comments are heartbeats."
        return {
            "200": {"description": text, "content": {"text/event-stream": {"schema": {"type": "string"}}}}
        }
    if endpoint.reply is None:
        return {str(endpoint.status): {"description": "Done."}}
    content = {"application/json": {"schema": references[endpoint.reply]}}
    return {str(endpoint.status): {"description": "Done.", "content": content}}


def _problems(endpoint: Endpoint) -> Json:
    codes = dict.fromkeys((*COMMON_CODES, *(AUTH_CODES if endpoint.auth else ()), *endpoint.codes))
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code].status, []).append(code)
    return {str(status): _problem(by_status[status]) for status in sorted(by_status)}


def _problem(codes: Iterable[str]) -> Json:
    text = "; ".join(f"`{code}`: {CODES[code].title}" for code in codes)
    schema = {"$ref": _REF.format(model=api.Problem.__name__)}
    return {"description": text, "content": {"application/problem+json": {"schema": schema}}}
