"""Tokens, problem documents and the reading of requests."""

import json
import time

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from pydantic import BaseModel, SecretStr, ValidationError

from libs.contracts.errors import (
    CODES,
    InvalidRequestError,
    LockstepError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.contracts.ids import new_id
from libs.runtime.settings import ProcessSettings, TokenSettings
from libs.web.app import add_probe, make_app, page_limit, path_id, query_text, read_json, whole_number
from libs.web.auth import TokenSigner, _Cache, bearer
from libs.web.problems import from_validation, problem_document, problem_response

SECRET = "s" * 40
USER, DEVICE, NAMESPACE = new_id(), new_id(), new_id()


def signer(secret: str = SECRET, seconds: int = 900) -> TokenSigner:
    return TokenSigner(TokenSettings(token_secret=SecretStr(secret), access_token_seconds=seconds))


def forged(**changes: object) -> str:
    claims = {"sub": USER, "did": DEVICE, "ns": NAMESPACE, "exp": int(time.time()) + 3600, "aud": "lockstep"}
    return jwt.encode({**claims, **changes}, SECRET, algorithm="HS256")


def test_a_token_says_user_device_and_namespace() -> None:
    claims = signer().read(signer().access_token(USER, DEVICE, NAMESPACE))
    assert (claims.user_id, claims.device_id, claims.namespace_id) == (USER, DEVICE, NAMESPACE)


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (signer("x" * 40).access_token(USER, DEVICE, NAMESPACE), "unauthenticated"),
        (signer(seconds=-1).access_token(USER, DEVICE, NAMESPACE), "token_expired"),
        (signer().service_token("janitor"), "unauthenticated"),
        (jwt.encode({"sub": USER}, SECRET, algorithm="HS256"), "unauthenticated"),
        (jwt.encode({"sub": USER, "aud": "lockstep"}, "", algorithm="none"), "unauthenticated"),
        (forged(aud="other"), "unauthenticated"),
        ("", "unauthenticated"),
        ("a.b.c", "unauthenticated"),
    ],
    ids=[
        "other secret",
        "expired",
        "a service's",
        "claims missing",
        "unsigned",
        "other audience",
        "empty",
        "junk",
    ],
)
def test_other_tokens_are_refused(token: str, code: str) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        signer().read(token)
    assert refused.value.code == code


def test_a_users_token_does_not_open_internal_calls() -> None:
    with pytest.raises(UnauthenticatedError):
        signer().check_service(signer().access_token(USER, DEVICE, NAMESPACE))
    assert signer().check_service(signer().service_token("janitor")) == "janitor"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc"])
def test_a_header_without_a_bearer_token_is_refused(header: str | None) -> None:
    with pytest.raises(UnauthenticatedError):
        bearer(header)


def test_the_bearer_scheme_is_read_in_any_case() -> None:
    assert bearer("bEaReR abc") == "abc"


def test_a_cached_row_is_believed_for_its_time_and_forgotten_when_told() -> None:
    now = [0.0]
    cache: _Cache[int] = _Cache(5.0, lambda: now[0])
    cache.put("a", 1)
    assert cache.get("a") == 1
    now[0] = 5.0
    assert cache.get("a") is None
    cache.put("a", 2)
    cache.forget("a")
    assert cache.get("a") is None


# Problem documents -------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_every_code_makes_a_problem_document_with_its_status(code: str) -> None:
    response = problem_response(LockstepError("a detail", code=code), "request-1")
    assert isinstance(response.body, bytes)
    document = json.loads(response.body)
    assert response.content_type == "application/problem+json"
    assert (document["code"], document["status"], document["title"]) == (code, *CODES[code])
    assert document["request_id"] == "request-1"
    assert ("Retry-After" in response.headers) == (response.status in {429, 503})
    assert ("WWW-Authenticate" in response.headers) == (response.status == 401)


def test_an_internal_error_never_says_what_happened() -> None:
    assert "password=x" not in json.dumps(problem_document(LockstepError("password=x in /srv/app.py")))


def test_a_problem_of_validation_names_fields_and_repeats_no_value() -> None:
    class Model(BaseModel):
        password: int

    try:
        Model.model_validate({"password": "s3cr3t"})
    except ValidationError as error:
        problem = problem_document(from_validation(error))
    else:
        raise AssertionError
    assert problem["errors"][0]["field"] == "password"
    assert "s3cr3t" not in json.dumps(problem)


# Reading requests --------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["?other=1", "?a=1&a=2", "?a=1&A=2"])
def test_unknown_and_repeated_query_parameters_are_refused(query: str) -> None:
    with pytest.raises(InvalidRequestError):
        query_text(make_mocked_request("GET", f"/{query}"), {"a": None})


def test_query_parameters_have_defaults() -> None:
    assert query_text(make_mocked_request("GET", "/?a=1"), {"a": None, "b": "x"}) == {"a": "1", "b": "x"}


@pytest.mark.parametrize("text", [None, "", "x", "1.5", "+1", "1e3", "٣", "0", "1001", "9" * 30])
def test_only_a_whole_number_within_limits_is_one(text: str | None) -> None:
    with pytest.raises(InvalidRequestError):
        whole_number(text, "limit", low=1, high=1000)


def test_a_page_has_at_most_1000_items() -> None:
    assert (page_limit(None), page_limit("1"), page_limit("1000")) == (1000, 1, 1000)


@pytest.mark.parametrize("value", ["", "x", "A" * 24, "0" * 23, "0" * 24 + "\n", "../" + "0" * 24])
def test_what_has_not_the_form_of_an_id_is_not_found(value: str) -> None:
    with pytest.raises(NotFoundError):
        path_id(make_mocked_request("GET", "/", match_info={"id": value}), "id")


# The application ---------------------------------------------------------------------------


class Body(BaseModel):
    number: int


def application() -> web.Application:
    app = make_app("test", ProcessSettings(port=0, max_body_bytes=1000))

    async def echo(request: web.Request) -> web.Response:
        body = await read_json(request, Body)
        if body.number == 13:
            raise RuntimeError("secret detail")
        return web.json_response({"number": body.number})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        return response

    app.router.add_post("/echo", echo)
    app.router.add_get("/stream", stream)
    return app


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/echo", b'{"number": "x"}', 400, "invalid_request"),
        ("POST", "/echo", b"{", 400, "invalid_request"),
        ("POST", "/echo", b'{"number": 1, "pad": "' + b"x" * 2000 + b'"}', 413, "payload_too_large"),
        ("POST", "/echo", b'{"number": 13}', 500, "internal"),
        ("GET", "/echo", None, 405, "method_not_allowed"),
        ("GET", "/other", None, 404, "not_found"),
    ],
)
async def test_every_error_is_a_problem_document(
    method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    async with TestClient(TestServer(application())) as client:
        reply = await client.request(method, path, data=body)
        document = await reply.json(content_type="application/problem+json")
        assert (reply.status, document["code"]) == (status, code)
        assert document["request_id"] == reply.headers["X-Request-ID"]
        assert "secret" not in json.dumps(document)


@pytest.mark.parametrize("path", ["/healthz", "/stream", "/other"])
async def test_every_answer_names_its_request_and_keeps_the_callers_id(path: str) -> None:
    async with TestClient(TestServer(application())) as client:
        assert (await client.get(path, headers={"X-Request-ID": "mine-1"})).headers[
            "X-Request-ID"
        ] == "mine-1"
        made = (await client.get(path, headers={"X-Request-ID": "not ok!"})).headers["X-Request-ID"]
        assert len(made) == 24


async def test_readiness_follows_the_probes_and_health_does_not() -> None:
    away = [True]

    async def probe() -> None:
        if away[0]:
            raise UnavailableError

    async def broken() -> None:
        if away[0]:
            raise RuntimeError

    app = application()
    add_probe(app, "database", probe)
    add_probe(app, "other", broken)
    async with TestClient(TestServer(app)) as client:
        reply = await client.get("/readyz")
        assert (reply.status, (await reply.json())["failing"]) == (
            503,
            {"database": "away", "other": "broken"},
        )
        assert (await client.get("/healthz")).status == 200
        away[0] = False
        assert (await client.get("/readyz")).status == 200
        assert "lockstep_http_requests_total" in await (await client.get("/metrics")).text()
