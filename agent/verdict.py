"""Which path a user means, and what the ignore rules say of it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.board import printable
from agent.disk import Disk, DiskError
from agent.disk.root import is_state_folder
from agent.errors import LocalError
from agent.ignore import IGNORE_FILE, BadRule, IgnoreRules, Match
from agent.model import LocalKind
from agent.observer import rules_text
from agent.settings import Settings, read_choices
from libs.contracts.paths import STATE_FOLDER


def synced_folder(settings: Settings) -> Path:
    """Return the folder of this device. Raises `LocalError` "no_folder"."""
    folder = read_choices(settings).folder
    if folder is None:
        raise LocalError(code="no_folder")
    return Path(folder)


def located(folder: Path, text: str) -> str:
    """Return the path below the root that a user means; the root's is empty.

    Relative to the root, with or without a leading slash, whatever the working directory is; or
    absolute and in the folder. Raises `LocalError` "outside_folder".
    """
    if "\0" in text:
        raise LocalError(code="outside_folder")
    if text.startswith("/"):
        for path in (text, os.path.realpath(os.path.dirname(text)) + "/" + os.path.basename(text)):  # noqa: PTH120, PTH119 - bytes that are no text too
            for base in (str(folder), str(folder.resolve())):
                inside = _below(os.path.normpath(path), base)
                if inside is not None:
                    return inside
    path = os.path.normpath("./" + text)
    if path == ".." or path.startswith("../"):
        raise LocalError(f"{printable(text)} is not in {folder}", code="outside_folder")
    return "" if path == "." else path


def _below(path: str, base: str) -> str | None:
    if path == base:
        return ""
    return path[len(base) + 1 :] if path.startswith(base.rstrip("/") + "/") else None


@dataclass(frozen=True, slots=True)
class Ignored:
    """What the rules say of a path."""

    path: str
    is_folder: bool
    match: Match | None
    bad: tuple[BadRule, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it."""
        match = self.match
        return {
            "path": printable(self.path),
            "kind": "folder" if self.is_folder else "file",
            "ignored": match is not None,
            "rule": None if match is None else str(match),
            "source": None if match is None else source_of(match),
            "line": None if match is None else match.line,
            "pattern": None if match is None else match.pattern,
            "bad_rules": [{"line": b.line, "text": b.text, "detail": b.detail} for b in self.bad],
        }

    def as_text(self) -> str:
        """Return it as a person reads it."""
        kind = "ignored by " + str(self.match) if self.match is not None else "not ignored"
        lines = [f"{printable(self.path) or '/'}: {kind}"]
        lines += [f"  {IGNORE_FILE}:{b.line} is not understood: {b.text} ({b.detail})" for b in self.bad]
        return "\n".join(lines)


def source_of(match: Match) -> str:
    """Return where a rule comes from."""
    return "built in" if match.line is None else IGNORE_FILE


def judge_ignored(settings: Settings, text: str) -> Ignored:
    """Say whether a rule ignores a path, which need not be there.

    With a trailing slash it is a folder, else what the disk says, else a file. Raises `LocalError`
    ("no_folder", "outside_folder", "folder_unusable", "unreadable"). Blocks.
    """
    folder = synced_folder(settings)
    path, disk = located(folder, text), Disk(folder)
    is_folder = text.endswith("/") or is_folder_here(disk, path)
    rules = read_rules(disk)
    return Ignored(path, is_folder, find_rule(rules, path, is_folder=is_folder), rules.bad)


def read_rules(disk: Disk) -> IgnoreRules:
    """Return the rules of the folder. Raises `LocalError` "folder_unusable" or "unreadable"."""
    try:
        return IgnoreRules(rules_text(disk))
    except DiskError as error:
        code = "folder_unusable" if error.code.startswith("root_") else "unreadable"
        raise LocalError(f"{IGNORE_FILE} cannot be read: {error.detail}", code=code) from error


def find_rule(rules: IgnoreRules, path: str, *, is_folder: bool) -> Match | None:
    """Return the rule that ignores a path; the agent's own folder is ignored always."""
    if is_state_folder(path.partition("/")[0]):
        return Match(STATE_FOLDER, why="the agent's own folder")
    return rules.find(path, is_folder) if path else None


def is_folder_here(disk: Disk, path: str) -> bool:
    """Whether a folder stands at a path now; what cannot be looked at is none."""
    try:
        return path == "" or disk.kind(path) is LocalKind.FOLDER
    except DiskError:
        return False
