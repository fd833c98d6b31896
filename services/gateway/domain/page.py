"""The API's page: the OpenAPI document as one HTML page without outside resources. Pure."""

from html import escape
from typing import Any, Final

Json = dict[str, Any]

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin-top:2.5rem;border-bottom:1px solid #ccc}details{margin:.4rem 0}summary{cursor:pointer}
code{background:#f3f3f3;padding:0 .25em;border-radius:3px}table{border-collapse:collapse;margin:.5rem 0}
td,th{border:1px solid #ddd;padding:.2rem .6rem;text-align:left;vertical-align:top}
.m{display:inline-block;min-width:4.5em;font-weight:600}.p{color:#666}
"""


def render_page(document: Json) -> str:
    """Return the page: endpoints by tag with parameters, bodies and answers, then the models."""
    info = document["info"]
    sections = [_tag_section(document, tag["name"]) for tag in document["tags"]]
    models = [_model(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} API</h1><p>{_text(info['description'])}</p>"
        "<p>The same as data: <a href=/openapi.json>/openapi.json</a></p>"
        f"{''.join(sections)}<h2>Models</h2>{''.join(models)}</html>"
    )


def _tag_section(document: Json, tag: str) -> str:
    rows = [
        _operation(method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    ]
    return f"<h2>{escape(tag)}</h2>{''.join(rows)}"


def _operation(method: str, path: str, operation: Json) -> str:
    body = operation.get("requestBody")
    asked = f"<p>Body: {_schema(_only(body['content']))}</p>" if body else ""
    token = "" if operation["security"] else "<p>Needs no token.</p>"
    answers = _answers(operation["responses"])
    return (
        f"<details id={escape(operation['operationId'])}><summary><span class=m>{method}</span>"
        f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary>"
        f"{token}{_parameters(operation.get('parameters', []))}{asked}{answers}</details>"
    )


def _parameters(parameters: list[Json]) -> str:
    rows = [
        [
            f"<code>{escape(item['name'])}</code>",
            item["in"],
            item["schema"]["type"],
            _text(item.get("description", "")),
        ]
        for item in parameters
    ]
    return _table(["parameter", "in", "type", ""], rows)


def _answers(responses: Json) -> str:
    rows = []
    for status, answer in responses.items():
        content = answer.get("content")
        rows.append([status, _schema(_only(content)) if content else "", _text(answer["description"])])
    return _table(["status", "body", ""], rows)


def _model(name: str, schema: Json) -> str:
    required = set(schema.get("required", []))
    rows = [
        [
            f"<code>{escape(field)}</code>",
            _schema(kind),
            "required" if field in required else "",
            _text(kind.get("description", "")),
        ]
        for field, kind in schema.get("properties", {}).items()
    ]
    values = ", ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", []))
    about = _text(schema.get("description", ""))
    table = _table(["field", "type", "", ""], rows)
    head = f"<details id='model-{escape(name)}'><summary>{escape(name)}</summary>"
    return f"{head}<p>{about}</p>{values}{table}</details>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + f"</tr>{lines}</table>"


def _schema(schema: Json) -> str:
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return f"<a href='#model-{escape(name)}'>{escape(name)}</a>"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_schema(option) for option in schema[key])
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    return escape(str(schema.get("const", schema.get("type", "any"))))


def _only(content: Json) -> Json:
    schema: Json = next(iter(content.values()))["schema"]
    return schema


def _text(text: str) -> str:
    """Escape, and show what stands between backticks as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
