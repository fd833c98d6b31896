"""The edge: forwarding, limits, the pages, dead services."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from libs.contracts.endpoints import ENDPOINTS, Endpoint
from tests.support.gateway_client import PASSWORD, Api, gateway, new_email, open_api
from tests.support.stack import Stack

FORWARDED = [endpoint for endpoint in ENDPOINTS if endpoint.service != "gateway"]


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    async with open_api(stack.gateway_url) as api:
        yield api


async def test_root_leads_to_the_docs_and_the_document_is_served(api: Api) -> None:
    root = await api.call("GET", "/")
    assert (root.status, root.headers["Location"]) == (302, "/docs")
    assert (await api.call("GET", "/openapi.json")).body["openapi"] == "3.1.0"
    docs = await api.call("GET", "/docs")
    assert docs.headers["Content-Type"].startswith("text/html")
    assert b"/v1/auth/login" in docs.body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/internal/namespaces", 404, "not_found"),
        ("POST", "/internal/uploads/expire", 404, "not_found"),
        ("PUT", "/v1/devices", 405, "method_not_allowed"),
        ("GET", "/v1/auth/login", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_offered_is_a_problem(
    api: Api, method: str, path: str, status: int, code: str
) -> None:
    reply = await api.call(method, path)
    assert (reply.status, reply.code) == (status, code)


@pytest.mark.parametrize("path", ["/v1/auth/login", "/v1/uploads/batch"])
async def test_a_body_over_4_mib_is_a_413(api: Api, path: str) -> None:
    mine = api.of(await api.register())
    reply = await mine.call("POST", path, b"x" * (4 * 1024 * 1024 + 1))
    assert (reply.status, reply.code) == (413, "payload_too_large")


@pytest.mark.parametrize("endpoint", FORWARDED, ids=lambda endpoint: endpoint.name)
async def test_every_endpoint_needs_a_token(api: Api, endpoint: Endpoint) -> None:
    path = endpoint.path.replace("{node_id}", "0" * 24).replace("{upload_id}", "0" * 24)
    reply = await api.call(endpoint.method, path, {})
    assert (reply.status, reply.code) == (401, "unauthenticated")


async def test_the_request_id_goes_through_every_service_and_comes_back(api: Api, stack: Stack) -> None:
    mine, request_id = api.of(await api.register()), f"test-{secrets.token_hex(4)}"
    reply = await mine.call("GET", "/v1/usage", **{"X-Request-ID": request_id})
    assert reply.headers["X-Request-ID"] == request_id
    assert request_id in stack.log("gateway")
    assert request_id in stack.log("metadata")
    refused = await mine.call("GET", "/v1/usage", **{"X-Request-ID": "not allowed\tat all"})
    assert refused.headers["X-Request-ID"] != "not allowed\tat all"


async def test_queries_and_problems_of_services_pass_through_unchanged(api: Api) -> None:
    mine = api.of(await api.register())
    reply = await mine.call("GET", "/v1/files?path=%2Fn%C3%B6%20%2Bthing%252F")
    assert (reply.status, reply.code) == (404, "not_found")
    reply = await mine.call("GET", "/v1/files?unknown=1")
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_a_dead_service_is_a_503_and_the_others_go_on(api: Api, stack: Stack) -> None:
    mine = api.of(await api.register())
    stack.kill("upload")
    try:
        reply = await mine.call("GET", "/v1/uploads")
        assert (reply.status, reply.code) == (503, "unavailable")
        assert int(reply.headers["Retry-After"]) >= 1
        assert (await mine.call("GET", "/v1/usage")).status == 200
    finally:
        stack.ensure_running()
    assert (await mine.call("GET", "/v1/uploads")).status == 200


async def test_a_device_over_its_rate_is_told_to_wait_and_others_are_not(api: Api, stack: Stack) -> None:
    one, other = await api.register(), await api.register()
    async with gateway(stack.env, rate_device_per_minute=5) as limited:
        replies = [await limited.of(one).call("GET", "/v1/devices") for _ in range(6)]
        assert [reply.status for reply in replies] == [200] * 5 + [429]
        assert replies[-1].code == "rate_limited"
        assert 1 <= int(replies[-1].headers["Retry-After"]) <= 60
        assert (await limited.of(other).call("GET", "/v1/devices")).status == 200


async def test_signing_in_is_limited_more_strictly_and_invalid_tokens_by_address(stack: Stack) -> None:
    body = {"email": new_email(), "password": PASSWORD, "device_name": "d"}
    async with gateway(stack.env, rate_signin_per_minute=2, rate_address_per_minute=3) as limited:
        statuses = [(await limited.call("POST", "/v1/auth/login", body)).status for _ in range(3)]
        assert statuses == [401, 401, 429]
        statuses = [(await limited.call("GET", "/v1/devices")).status for _ in range(4)]
        assert statuses == [401, 401, 401, 429]


async def test_behind_a_proxy_addresses_are_counted_as_the_proxy_saw_them(stack: Stack) -> None:
    async with gateway(stack.env, rate_address_per_minute=1, trusted_proxies=1) as limited:
        replies = [
            await limited.call("GET", "/v1/devices", **{"X-Forwarded-For": address})
            for address in ("1.1.1.1", "claimed, 1.1.1.1", "2.2.2.2")
        ]
        assert [reply.status for reply in replies] == [401, 429, 401]


async def test_last_seen_moves(api: Api) -> None:
    mine = api.of(await api.register())
    (device,) = (await mine.call("GET", "/v1/devices")).body["items"]
    assert device["last_seen"] >= device["created_at"]


async def test_many_requests_at_once_are_all_answered(api: Api) -> None:
    mine = api.of(await api.register())
    replies = await asyncio.gather(*(mine.call("GET", "/v1/usage") for _ in range(200)))
    assert {reply.status for reply in replies} == {200}


async def test_no_token_or_password_is_ever_logged(api: Api, stack: Stack) -> None:
    tokens = await api.register()
    await api.refresh(tokens.refresh_token)
    await api.of(tokens).call("GET", "/v1/usage")
    for service in ("gateway", "metadata", "upload", "notification", "janitor", "download"):
        log = stack.log(service)
        assert PASSWORD not in log
        assert tokens.refresh_token not in log
        assert tokens.access_token not in log
        assert "X-Amz-Signature" not in log
