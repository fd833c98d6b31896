"""Names and paths: what is allowed, when two names are one, how a conflicted copy is called.

A path from anywhere is data. Names are kept as given; `name_key` (Unicode NFC) decides whether
two names are the same. Case matters.
"""

import unicodedata
from collections.abc import Callable
from datetime import date

from libs.contracts.errors import InvalidRequestError
from libs.contracts.limits import MAX_DEPTH, MAX_NAME_BYTES

STATE_FOLDER = ".lockstep"
"""The agent's own folder below a synced root: never synced, never accepted from a server."""


def name_key(name: str) -> str:
    """Return the form by which two names are compared: NFC, case kept."""
    return unicodedata.normalize("NFC", name)


def name_problem(name: str) -> str | None:
    """Say why `name` cannot be a node's name, or None when it can.

    Refused: empty, `.`, `..`, separators, NUL, what is not valid Unicode (lone surrogates, as
    Python spells undecodable bytes), more than 255 bytes, the agent's own folder.
    """
    if name in {"", ".", ".."}:
        return "it is empty or a reference to a folder"
    if "/" in name or "\0" in name:
        return "it holds a separator or NUL"
    if name_key(name).casefold() == STATE_FOLDER:
        return "it is the agent's own folder"
    return _encoding_problem(name)


def _encoding_problem(name: str) -> str | None:
    try:
        size = max(len(name.encode()), len(name_key(name).encode()))
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return f"it is longer than {MAX_NAME_BYTES} bytes" if size > MAX_NAME_BYTES else None


def check_name(name: str) -> str:
    """Return `name` or raise `InvalidRequestError` "invalid_name"."""
    problem = name_problem(name)
    if problem is not None:
        raise InvalidRequestError(f"The name cannot be used: {problem}", code="invalid_name")
    return name


def split_path(path: str) -> list[str]:
    """Split a remote path into checked names; `/` and the empty text are the root.

    Raises `InvalidRequestError` ("invalid_name", "depth_exceeded").
    """
    names = [part for part in path.split("/") if part]
    if len(names) > MAX_DEPTH:
        raise InvalidRequestError("The path is nested too deep", code="depth_exceeded")
    return [check_name(name) for name in names]


def split_extension(name: str) -> tuple[str, str]:
    """Split off the last extension with its dot; a leading dot starts no extension."""
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem.strip(".") or not extension:
        return name, ""
    return stem, dot + extension


def conflicted_name(name: str, device: str, day: date, taken: Callable[[str], bool]) -> str:
    """Name a conflicted copy of `name`: stem, label, last extension, within 255 bytes.

    The label is ` (conflicted copy, DEVICE, YYYY-MM-DD)` and then ` 2`, ` 3`, … while `taken`
    says that the name is in use. A name that is itself a copy's gives its original stem, so
    copies of copies make no chains. The stem is cut at a character's border.
    """
    stem, extension = split_extension(name)
    stem = original_stem(stem)
    label = f" (conflicted copy, {device}, {day.isoformat()})"
    number = 1
    while True:
        suffix = label + (f" {number}" if number > 1 else "")
        candidate = _fit(stem, suffix, extension)
        if not taken(candidate):
            return candidate
        number += 1


def original_stem(stem: str) -> str:
    """Return the stem that a conflicted copy's stem was made from, or the stem itself."""
    head, mark, tail = stem.partition(" (conflicted copy, ")
    return head if mark and ")" in tail and head else stem


def is_conflicted(name: str) -> bool:
    """Whether a name is one that `conflicted_name` makes."""
    stem, _ = split_extension(name)
    return original_stem(stem) != stem


def numbered_name(name: str, label: str, taken: Callable[[str], bool]) -> str:
    """Return `stem (label).ext`, then `stem (label) 2.ext`, … : the first that is free."""
    stem, extension = split_extension(name)
    number = 1
    while True:
        candidate = _fit(stem, f" ({label})" + (f" {number}" if number > 1 else ""), extension)
        if not taken(candidate):
            return candidate
        number += 1


def _fit(stem: str, suffix: str, extension: str) -> str:
    room = MAX_NAME_BYTES - len(suffix.encode())
    if len(extension.encode()) > room // 2:
        stem, extension = stem + extension, ""
    return cut_to_bytes(stem, room - len(extension.encode())) + suffix + extension


def cut_to_bytes(text: str, limit: int) -> str:
    """Cut `text` to at most `limit` bytes of UTF-8, in NFC and NFD, at a character's border.

    A border is never between a letter and the marks that combine with it.
    """
    while max(len(text.encode()), len(name_key(text).encode())) > limit:
        text = _drop_last_character(text)
    return text


def _drop_last_character(text: str) -> str:
    end = len(text) - 1
    while end > 0 and unicodedata.combining(text[end]):
        end -= 1
    return text[:end]
