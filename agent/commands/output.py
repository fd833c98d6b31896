"""Printing: one JSON object, or text and tables for people. Light, so that usage errors are quick."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def to_json(value: Any) -> str:
    """Return one line of JSON in ASCII, so that any terminal and any path will do."""
    return json.dumps(value, separators=(", ", ": "))


def print_line(text: str) -> None:
    """Print to standard output at once; what the terminal cannot spell is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201 - a command prints


def print_error(code: str, detail: str, *, as_json: bool) -> None:
    """Print an error to standard error."""
    text = to_json({"code": code, "detail": detail}) if as_json else f"lockstep: {detail} ({code})"
    print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)  # noqa: T201


def print_note(text: str) -> None:
    """Print a remark for people to standard error."""
    line = f"lockstep: {text}".encode("utf-8", "backslashreplace").decode()
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command prints


def print_table(items: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Print a table on a terminal, else lines with tabs that other programs can cut."""
    names = list(columns)
    if sys.stdout.isatty():
        _print_rich(items, names)
        return
    for item in items:
        print_line("\t".join(_cell(item[name]) for name in names))


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _print_rich(items: Sequence[Mapping[str, Any]], names: list[str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - scripts do not pay for it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold", justify="right" if name.endswith("size") else "left")
    for item in items:
        cells = (_cell(item[name]).encode(errors="backslashreplace").decode() for name in names)
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
