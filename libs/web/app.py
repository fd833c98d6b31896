"""The one way in which every service makes its HTTP application and runs it.

`make_app` gives an aiohttp application with request ids, access logs, metrics, problem
documents and the health endpoints. `run` serves it until SIGTERM or SIGINT and then stops
gracefully.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from pydantic import BaseModel, ValidationError

from libs.contracts.endpoints import Endpoint, served_by
from libs.contracts.errors import InvalidRequestError, LockstepError, NotFoundError, QuotaError
from libs.contracts.ids import is_id, new_id
from libs.contracts.limits import MAX_PAGE
from libs.runtime import logs
from libs.runtime.loop import new_event_loop
from libs.runtime.settings import ProcessSettings
from libs.web.problems import from_validation, problem_response

log = logs.get_logger("http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Probe = Callable[[], Awaitable[None]]
Model = TypeVar("Model", bound=BaseModel)

REQUEST_ID_HEADER: Final = "X-Request-ID"
_REQUEST_ID: Final = re.compile(r"^[\w.:-]{1,64}$")
_QUIET: Final = ("/healthz", "/readyz", "/metrics")

REQUESTS: Final = Counter(
    "lockstep_http_requests_total", "Requests", ["service", "endpoint", "method", "status"]
)
SECONDS: Final = Histogram("lockstep_http_seconds", "Seconds until the answer", ["service", "endpoint"])

READY: Final = web.AppKey("ready", list[tuple[str, Probe]])
SERVICE: Final = web.AppKey("service", str)


def make_app(service: str, settings: ProcessSettings) -> web.Application:
    """Return an application with everything that services have in common.

    Add what `/readyz` has to ask with `add_probe`.
    """
    app = web.Application(middlewares=[_observe, _errors], client_max_size=settings.max_body_bytes)
    app.on_response_prepare.append(_name_request)
    app[SERVICE] = service
    app[READY] = []
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    return app


def add_endpoints(app: web.Application, service: str, handlers: Mapping[str, Handler]) -> None:
    """Route each endpoint of the service to its handler. Raises `KeyError` when one is missing."""
    unknown = set(handlers) - {endpoint.name for endpoint in served_by(service)}
    if unknown:
        raise KeyError(f"not in the table of endpoints: {sorted(unknown)}")
    for endpoint in served_by(service):
        add_endpoint(app, endpoint, handlers[endpoint.name])


def add_endpoint(app: web.Application, endpoint: Endpoint, handler: Handler) -> None:
    """Route one endpoint."""
    app.router.add_route(endpoint.method, endpoint.path, handler, name=endpoint.name)


def add_probe(app: web.Application, name: str, probe: Probe) -> None:
    """Have `/readyz` ask `probe`, which raises `UnavailableError` while it is not ready."""
    app[READY].append((name, probe))


def run(app: web.Application, settings: ProcessSettings) -> None:
    """Serve until SIGTERM or SIGINT; running requests may end."""
    web.run_app(
        app,
        host=settings.host,
        port=settings.port,
        access_log=None,
        print=None,
        shutdown_timeout=settings.shutdown_timeout,
        handler_cancellation=False,
        loop=new_event_loop(),
    )


# Reading requests --------------------------------------------------------------------------


async def read_json(request: web.Request, model: type[Model]) -> Model:
    """Return the body as `model` or raise `InvalidRequestError` with the fields that are wrong."""
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise QuotaError(code="payload_too_large") from error
    return parse(model, body)


def parse(model: type[Model], body: bytes) -> Model:
    """Parse JSON or raise `InvalidRequestError`."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from error


def path_id(request: web.Request, name: str) -> str:
    """Return an identifier of the path; what has not its form is simply not there."""
    value = request.match_info[name]
    if not is_id(value):
        raise NotFoundError
    return value


def query_text(request: web.Request, allowed: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the query's parameters with defaults; unknown or repeated ones are refused."""
    unknown = set(request.query) - set(allowed)
    if unknown:
        raise InvalidRequestError(f"Unknown query parameter(s): {', '.join(sorted(unknown)[:5])[:200]}")
    if len(request.query) != len(set(request.query)):
        raise InvalidRequestError("A query parameter is given twice")
    return {name: request.query.get(name, default) for name, default in allowed.items()}


def whole_number(text: str | None, name: str, *, low: int, high: int) -> int:
    """Return a query's number within limits or raise `InvalidRequestError`."""
    if text is None or not re.fullmatch(r"-?[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise InvalidRequestError(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def page_limit(text: str | None) -> int:
    """Return the page size asked for: from 1 to 1,000."""
    return MAX_PAGE if text is None else whole_number(text, "limit", low=1, high=MAX_PAGE)


def reply(model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a model as the answer."""
    body = model.model_dump_json().encode()
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def done() -> web.Response:
    """Return the answer 204."""
    return web.Response(status=204)


# Middlewares -------------------------------------------------------------------------------


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_id = request.headers.get(REQUEST_ID_HEADER, "")
    if not _REQUEST_ID.match(request_id):
        request_id = new_id()
    logs.bind_request(request_id)
    start = time.perf_counter()
    response = await handler(request)
    _record(request, response, time.perf_counter() - start)
    return response


async def _name_request(_request: web.Request, response: web.StreamResponse) -> None:
    """Say which request it was, in streams too."""
    request_id = logs.current_request_id()
    if request_id is not None:
        response.headers[REQUEST_ID_HEADER] = request_id


def _record(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    resource = request.match_info.route.resource
    endpoint = resource.canonical if resource is not None else "unknown"
    service = request.app[SERVICE]
    status = response.status
    REQUESTS.labels(service, endpoint, request.method, str(status)).inc()
    if isinstance(response, web.Response):  # a stream lasts as long as its reader wants
        SECONDS.labels(service, endpoint).observe(seconds)
    if request.path not in _QUIET:
        log.info(
            "request", method=request.method, path=request.path, status=status, ms=round(seconds * 1000, 1)
        )


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_id = logs.current_request_id()
    try:
        return await handler(request)
    except LockstepError as error:
        if error.status >= 500:
            log.warning("request failed", code=error.code, detail=error.detail)
        return problem_response(error, request_id)
    except ValidationError as error:
        log.exception("a model of our own does not fit")
        return problem_response(LockstepError(str(error)), request_id)
    except web.HTTPException as error:
        return _http_problem(error, request_id)
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception:
        log.exception("request failed")
        return problem_response(LockstepError(), request_id)


def _http_problem(error: web.HTTPException, request_id: str | None) -> web.StreamResponse:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}
    if error.status < 400:
        return error
    code = codes.get(error.status, "invalid_request" if error.status < 500 else "internal")
    response = problem_response(LockstepError(code=code), request_id)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


# Health ------------------------------------------------------------------------------------


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"status": "alive"})


async def _readyz(request: web.Request) -> web.Response:
    failing = {}
    for name, probe in request.app[READY]:
        try:
            await asyncio.wait_for(probe(), timeout=5)
        except (TimeoutError, LockstepError):
            failing[name] = "away"
        except Exception:
            log.exception("a probe failed", probe=name)
            failing[name] = "broken"
    status = 503 if failing else 200
    return web.json_response({"status": "waiting" if failing else "ready", "failing": failing}, status=status)


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
