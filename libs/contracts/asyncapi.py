"""The AsyncAPI 3 document of the events, generated from `events.py`.

`python -m libs.contracts.asyncapi` writes it to `docs/asyncapi.yaml`; a test holds both equal.
"""

import sys
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic.json_schema import models_json_schema

from libs.contracts.events import EVENTS, EventData

Json = dict[str, Any]

PATH: Final = Path("docs/asyncapi.yaml")
_REF: Final = "#/components/schemas/{model}"
_HEAD: Final = "# Generated from libs/contracts/events.py by `python -m libs.contracts.asyncapi`.\n"
_EXCHANGE: Final = "lockstep.events"
_ABOUT: Final = (
    "Everything that happens in Lockstep, as CloudEvents 1.0 in structured JSON on one durable topic "
    "exchange of RabbitMQ. Bind a queue of your own with the routing key `<noun>.<verb>.<namespace>` or a "
    "pattern such as `file.*.*`. Delivery is at least once and may be out of order: be idempotent by "
    "`seq` and by ids. Fields and types are added, never changed or removed: ignore what you do not know. "
    "Events never carry URLs, tokens or secrets."
)


def asyncapi_document() -> Json:
    """Return the document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Lockstep events",
            "version": "1",
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {event.__name__: _channel(event) for event in EVENTS},
        "operations": {f"receive{event.__name__}": _operation(event) for event in EVENTS},
        "components": {
            "messages": {event.__name__: _message(event) for event in EVENTS},
            "schemas": {**_schemas(), "CloudEvent": _envelope()},
        },
    }


def render() -> str:
    """Return the document as YAML."""
    body = yaml.safe_dump(asyncapi_document(), sort_keys=False, allow_unicode=True, width=110)
    return _HEAD + body


def _channel(event: type[EventData]) -> Json:
    return {
        "address": f"{event.topic}.{{namespace_id}}",
        "parameters": {"namespace_id": {"description": "The namespace that the event is about."}},
        "messages": {event.__name__: {"$ref": f"#/components/messages/{event.__name__}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": _EXCHANGE, "type": "topic", "durable": True, "autoDelete": False},
            }
        },
    }


def _operation(event: type[EventData]) -> Json:
    name = event.__name__
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }


def _message(event: type[EventData]) -> Json:
    data = {
        "type": "object",
        "properties": {
            "type": {"const": event.type_name()},
            "data": {"$ref": _REF.format(model=event.__name__)},
        },
    }
    return {
        "name": event.type_name(),
        "title": event.__name__,
        "summary": (event.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/cloudevents+json",
        "payload": {"allOf": [{"$ref": _REF.format(model="CloudEvent")}, data]},
    }


def _envelope() -> Json:
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "A CloudEvent 1.0 in structured mode.",
        "required": ["specversion", "id", "source", "type", "time", "datacontenttype", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**text, "description": "Unique with `source`; the same when it is delivered again."},
            "source": {**text, "description": "`lockstep/<service>`."},
            "type": text,
            "subject": {**text, "description": "The namespace's id."},
            "time": {**text, "format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "requestid": {**text, "description": "Of the request that led to the event, for tracing."},
            "data": {"type": "object"},
        },
    }


def _schemas() -> Json:
    _, document = models_json_schema([(event, "serialization") for event in EVENTS], ref_template=_REF)
    return dict(sorted(document["$defs"].items()))


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {PATH}\n")
