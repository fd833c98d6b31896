"""Events: CloudEvents on the wire, and a document that only grows."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from libs.contracts import asyncapi
from libs.contracts.api import UploadState
from libs.contracts.events import (
    EVENT_TYPES,
    EVENTS,
    CommitRejected,
    DeviceLinked,
    DeviceRevoked,
    Envelope,
    EventData,
    FileCommitted,
    PartCompleted,
    TreeChanged,
    UploadAborted,
    UploadCompleted,
    UploadedEntry,
    UploadedObject,
    UploadExpired,
    UploadStarted,
    unwrap,
    wrap,
)
from libs.contracts.ids import new_id
from libs.contracts.tree import CommitTarget, ItemResult, Kind, NodeRow

NAMESPACE, USER, DEVICE, UPLOAD = (new_id() for _ in range(4))
WHO: dict[str, Any] = {"namespace_id": NAMESPACE, "user_id": USER, "device_id": DEVICE}
HASH = "ab" * 32
NOW = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)
ROW = NodeRow(
    id=new_id(), namespace_id=NAMESPACE, parent_id=NAMESPACE, name="a \N{SNOWMAN}.txt", kind=Kind.FILE,
    version_id=new_id(), size=3, content_hash=HASH, mtime_ns=-1, executable=True, seq=7, changed_at=NOW,
    epoch=1, device="laptop",
)  # fmt: skip
OBJECT = UploadedObject(id=new_id(), key="t/x/y", size=3, content_hash=HASH, verified=False)
RESULTS = [ItemResult(index=0, row=ROW), ItemResult(index=1, code="name_taken", detail="taken", current=ROW)]
TARGET = CommitTarget(parent_id=NAMESPACE, name="a.txt", mtime_ns=5)


def tree(event: type[TreeChanged], **fields: Any) -> TreeChanged:
    return event(first_seq=7, last_seq=7, changes=[ROW], **WHO, **fields)


SPECIAL: dict[type[EventData], EventData] = {
    UploadStarted: UploadStarted(upload_id=UPLOAD, size=3, content_hash=HASH, path="a/b", **WHO),
    PartCompleted: PartCompleted(
        upload_id=UPLOAD, number=1, size=3, digest=HASH, parts_done=1, parts_total=2, total_size=6, **WHO
    ),
    UploadCompleted: UploadCompleted(
        upload_id=UPLOAD, attempt=1, device_name="laptop",
        entries=[UploadedEntry(index=0, object=OBJECT, target=TARGET)], **WHO,
    ),
    UploadAborted: UploadAborted(upload_id=UPLOAD, state=UploadState.ABORTED, **WHO),
    UploadExpired: UploadExpired(upload_id=UPLOAD, **WHO),
    FileCommitted: tree(FileCommitted, upload_id=UPLOAD, attempt=1, results=RESULTS, objects=[OBJECT]),
    CommitRejected: CommitRejected(upload_id=UPLOAD, attempt=1, results=RESULTS, **WHO),
    DeviceLinked: DeviceLinked(device_name="laptop", **WHO),
    DeviceRevoked: DeviceRevoked(**WHO),
}  # fmt: skip


def example(event: type[EventData]) -> EventData:
    return SPECIAL.get(event) or tree(event)  # type: ignore[arg-type]  # all others change the tree


@pytest.fixture(params=EVENTS, ids=lambda event: event.__name__)
def event(request: pytest.FixtureRequest) -> EventData:
    return example(request.param)


def test_an_event_comes_back_from_the_wire_as_it_was_sent(event: EventData) -> None:
    envelope = wrap(event, source="test", request_id="request-1", now=NOW)
    received = Envelope.model_validate_json(envelope.to_json())
    assert received == envelope
    assert unwrap(received) == event


def test_an_event_is_a_cloudevent_in_structured_json(event: EventData) -> None:
    wire = json.loads(wrap(event, source="test", request_id="request-1").to_json())
    assert wire["specversion"] == "1.0"
    for attribute in ("id", "source", "type", "subject", "requestid"):
        assert isinstance(wire[attribute], str)
        assert wire[attribute]
    assert datetime.fromisoformat(wire["time"]).tzinfo is not None
    assert wire["datacontenttype"] == "application/json"
    assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in wire)
    assert isinstance(wire["data"], dict)


def test_type_and_routing_key_name_the_event(event: EventData) -> None:
    noun, verb, namespace = event.routing_key().split(".")
    assert namespace == NAMESPACE
    assert event.type_name() == f"com.lockstep.{noun}.{verb}.v1"
    assert EVENT_TYPES[event.type_name()] is type(event)


def test_an_event_of_a_newer_version_is_read_without_what_is_new(event: EventData) -> None:
    wire = json.loads(wrap(event, source="test").to_json())
    wire["data"]["added_later"] = {"x": 1}
    wire["addedlater"] = "x"
    assert unwrap(Envelope.model_validate(wire)) == event


def test_an_unknown_type_is_none_and_data_that_does_not_fit_is_an_error() -> None:
    wire = json.loads(wrap(SPECIAL[DeviceRevoked], source="test").to_json())
    assert unwrap(Envelope.model_validate({**wire, "type": "com.lockstep.moon.landed.v1"})) is None
    with pytest.raises(ValidationError):
        unwrap(Envelope.model_validate({**wire, "data": {}}))


def test_no_event_has_a_field_for_an_url_a_token_or_a_secret() -> None:
    words = ("url", "token", "secret", "password", "signature", "authorization")
    schemas = asyncapi.asyncapi_document()["components"]["schemas"]
    fields = {field for schema in schemas.values() for field in schema.get("properties", {})}
    assert not {field for field in fields for word in words if word in field.lower()}


def test_an_event_of_500_entries_is_a_small_message() -> None:
    rows = [ROW.model_copy(update={"name": "n" * 255}) for _ in range(500)]
    event = FileCommitted(first_seq=1, last_seq=500, changes=rows, **WHO)
    assert len(wrap(event, source="test").to_json()) < 1024 * 1024


# The document ------------------------------------------------------------------------------


def test_the_document_in_the_repository_is_what_the_code_says() -> None:
    assert asyncapi.PATH.read_text(encoding="utf-8") == asyncapi.render(), (
        "run: python -m libs.contracts.asyncapi"
    )


def test_the_document_describes_every_event_and_every_reference_leads_somewhere() -> None:
    document = yaml.safe_load(asyncapi.render())
    assert set(document["channels"]) == {event.__name__ for event in EVENTS}
    addresses = [channel["address"] for channel in document["channels"].values()]
    assert len(set(addresses)) == len(EVENTS)
    for reference in references(document):
        assert resolved(document, reference) is not None


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    return []


def resolved(document: Any, reference: str) -> Any:
    for name in reference.removeprefix("#/").split("/"):
        document = document[name]
    return document


# Additions only ----------------------------------------------------------------------------


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Say what a reader or writer of the old document would miss in the new one."""
    found = [f"event {name} is gone" for name in old["channels"] if name not in new["channels"]]
    for name, channel in old["channels"].items():
        if name in new["channels"] and new["channels"][name]["address"] != channel["address"]:
            found.append(f"the address of {name} changed")
    for name, schema in old["components"]["schemas"].items():
        found += schema_breaks(name, schema, new["components"]["schemas"].get(name))
    return found


def schema_breaks(name: str, old: dict[str, Any], new: dict[str, Any] | None) -> list[str]:
    if new is None:
        return [f"schema {name} is gone"]
    found = [
        f"{name} lost the value {value}" for value in old.get("enum", []) if value not in new.get("enum", [])
    ]
    fields, now = old.get("properties", {}), new.get("properties", {})
    found += [f"{name}.{field} is gone" for field in fields if field not in now]
    found += [
        f"{name}.{field} changed its type"
        for field in fields
        if field in now and type_of(fields[field]) != type_of(now[field])
    ]
    required = set(old.get("required", []))
    return found + [
        f"{name}.{field} is no longer always there" for field in required - set(new.get("required", []))
    ]


def type_of(schema: dict[str, Any]) -> str:
    kept = {key: schema.get(key) for key in ("type", "$ref", "anyOf", "items", "const")}
    return json.dumps(kept, sort_keys=True)


def committed_document() -> dict[str, Any] | None:
    """Return the document as it was last committed, or None where there is no such commit."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:{asyncapi.PATH}"],  # noqa: S607 - the system's git
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    return yaml.safe_load(shown.stdout) if shown.returncode == 0 else None


def test_since_the_last_commit_events_were_only_added_to() -> None:
    old = committed_document()
    assert old is None or breaks(old, asyncapi.asyncapi_document()) == []


def test_a_removed_event_field_type_or_value_is_found() -> None:
    old, new = asyncapi.asyncapi_document(), asyncapi.asyncapi_document()
    assert breaks(old, new) == []
    del new["channels"]["FileMoved"]
    del new["components"]["schemas"]["NodeRow"]["properties"]["size"]
    new["components"]["schemas"]["NodeRow"]["properties"]["name"] = {"type": "integer"}
    new["components"]["schemas"]["NodeRow"]["required"].remove("id")
    new["components"]["schemas"]["Kind"]["enum"].remove("file")
    assert len(breaks(old, new)) == 5


def test_an_added_field_breaks_nothing() -> None:
    new = asyncapi.asyncapi_document()
    new["components"]["schemas"]["NodeRow"]["properties"]["colour"] = {"type": "string"}
    assert breaks(asyncapi.asyncapi_document(), new) == []


def test_models_of_events_refuse_nothing_that_is_new() -> None:
    assert all(event.model_config.get("extra") == "ignore" for event in EVENTS)
    assert issubclass(Envelope, BaseModel)
