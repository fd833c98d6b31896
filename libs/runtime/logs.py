"""Structured logs: one JSON object a line, with the request id, and without secrets.

`bind_request` puts the request id into the context, from which every line, every outgoing call
and every event takes it.
"""

import logging
import re
import sys
from typing import Any, Final, Literal, cast

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

REDACTED: Final = "[redacted]"
_SECRET_KEYS: Final = re.compile(r"token|secret|password|authorization|signature", re.IGNORECASE)
_URL_QUERY: Final = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")
_URL_USERINFO: Final = re.compile(r"(\w+://)[^\s/@]+@")
_BEARER: Final = re.compile(r"(?i)bearer\s+[\w.~+/=-]+")


def configure(*, level: str, style: Literal["json", "console"], service: str) -> None:
    """Set up logging of this process to standard error, foreign libraries' lines included."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _named(service),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in (
        "aiobotocore",
        "botocore",
        "aioboto3",
        "boto3",
        "pymongo",
        "aio_pika",
        "aiormq",
        "watchdog",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry `logger=name`.

    It is bound when first used, so that one made at import follows what `configure` sets later.
    """
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


def bind_request(request_id: str | None, **values: str) -> None:
    """Forget the context of the last request in this task and start that of a new one."""
    clear_contextvars()
    bind_contextvars(**({"request_id": request_id} if request_id else {}), **values)


def current_request_id() -> str | None:
    """Return the request id of this task's context."""
    value = get_contextvars().get("request_id")
    return value if isinstance(value, str) else None


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop secrets by the field's name, and queries, credentials and bearer tokens in any text."""
    return {
        key: REDACTED if _SECRET_KEYS.search(key) else redact_value(value) for key, value in event.items()
    }


def redact_value(value: Any) -> Any:
    """Return the value with every URL's query and userinfo and every bearer token removed.

    What is neither text, number nor container becomes text here, and not later in the renderer.
    """
    if isinstance(value, str):
        text = _URL_QUERY.sub(rf"\1?{REDACTED}", value)
        text = _URL_USERINFO.sub(rf"\1{REDACTED}@", text)
        return _BEARER.sub(f"Bearer {REDACTED}", text)
    if isinstance(value, dict):
        return {k: REDACTED if _SECRET_KEYS.search(str(k)) else redact_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_value(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact_value(repr(value))


def _named(service: str) -> Any:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return add
