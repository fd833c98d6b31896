"""The API's document, the table of endpoints and the routes of every service say the same."""

import re
from importlib import import_module

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import SecretStr

from libs.contracts.endpoints import AUTH_CODES, BY_NAME, COMMON_CODES, ENDPOINTS, Endpoint
from libs.contracts.errors import CODES
from libs.contracts.openapi import openapi_document

SERVICES = ("gateway", "upload", "download", "metadata", "notification", "janitor")
HEALTH = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}
PAGES = {("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json")}
SETTINGS = {
    "port": 0,
    "mongo_url": SecretStr("mongodb://unused"),
    "amqp_url": SecretStr("amqp://unused"),
    "token_secret": SecretStr("s" * 32),
    "s3_endpoint": "http://unused",
    "s3_access_key": SecretStr("a"),
    "s3_secret_key": SecretStr("s"),
    **{f"{name}_url": "http://unused" for name in SERVICES},
}


def routes_of(service: str) -> set[tuple[str, str]]:
    settings = import_module(f"services.{service}.settings").Settings.model_validate(SETTINGS)
    app = import_module(f"services.{service}.app").build_app(settings)
    found = {(route.method, route.resource.canonical) for route in app.router.routes()}
    return {route for route in found if route[0] != "HEAD"} - HEALTH


def table(*services: str) -> set[tuple[str, str]]:
    return {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS if endpoint.service in services}


def test_the_gateway_routes_the_whole_table_and_its_pages() -> None:
    assert routes_of("gateway") == table(*SERVICES) | PAGES


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "gateway"])
def test_each_service_serves_its_rows_of_the_table_and_internal_calls_only(service: str) -> None:
    public = {route for route in routes_of(service) if not route[1].startswith("/internal/")}
    assert public == table(service)


def test_the_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(openapi_document()).validate()


def test_the_document_has_exactly_the_tables_operations() -> None:
    paths = openapi_document()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == table(*SERVICES)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_an_operation_describes_its_endpoint(endpoint: Endpoint) -> None:
    operation = openapi_document()["paths"][endpoint.path][endpoint.method.lower()]
    assert operation["operationId"] == endpoint.name
    names = {parameter["name"] for parameter in operation.get("parameters", [])}
    assert names == set(re.findall(r"{(\w+)}", endpoint.path)) | {query.name for query in endpoint.query}
    assert ("requestBody" in operation) == (endpoint.request is not None)
    expected = {*COMMON_CODES, *endpoint.codes, *(AUTH_CODES if endpoint.auth else ())}
    assert {str(CODES[code].status) for code in expected} | {str(endpoint.status)} == set(
        operation["responses"]
    )
    described = " ".join(answer["description"] for answer in operation["responses"].values())
    assert all(f"`{code}`" in described for code in expected)


def test_names_and_routes_of_endpoints_are_unique() -> None:
    assert len(BY_NAME) == len(ENDPOINTS) == len(table(*SERVICES))


def test_every_code_of_an_endpoint_is_a_known_code() -> None:
    assert {code for endpoint in ENDPOINTS for code in endpoint.codes} <= set(CODES)
