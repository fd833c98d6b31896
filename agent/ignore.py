"""Which paths are left alone: `.lockstepignore`, in gitignore's syntax, and editors' temporary files.

Pure. A rule never deletes anything anywhere: what it matches is simply not looked at.
"""

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import Final

from pathspec import GitIgnoreSpec, RegexPattern

IGNORE_FILE: Final = ".lockstepignore"
"""At the root of the synced folder; itself synced like any other file."""

GET_PREFIX: Final = ".lockstep-get-"
"""How the names of files begin that `lockstep get` has not fetched whole yet."""

BUILT_IN: Final[tuple[tuple[str, str], ...]] = (
    (".~lock.*#", "lock file of LibreOffice"),
    ("~$*", "lock file of Microsoft Office"),
    ("~WR[DL]*.tmp", "temporary file of Microsoft Word"),
    ("*.swp", "swap file of Vim"),
    (".*.sw[a-p]", "swap file of Vim"),
    ("4913", "trial file of Vim"),
    ("*~", "backup file of an editor"),
    (".#*", "lock file of Emacs"),
    ("#*#", "automatic save of Emacs"),
    (".*.kate-swp", "swap file of Kate"),
    ("*___jb_tmp___", "temporary file of a JetBrains program"),
    ("*___jb_old___", "temporary file of a JetBrains program"),
    (f"{GET_PREFIX}{'?' * 16}-{'?' * 32}*", "unfinished file of lockstep get"),
    (".goutputstream-*", "temporary file of a GNOME program"),
    ("*.sb-????????-??????", "temporary file of a macOS program"),
    (".nfs????????????????????????", "removed file that NFS still holds open"),
    (".fuse_hidden*", "removed file that FUSE still holds open"),
    (".DS_Store", "settings of the macOS Finder"),
    ("[Tt]humbs.db", "settings of the Windows Explorer"),
    ("[Dd]esktop.ini", "settings of the Windows Explorer"),
)
"""Names of files (never of folders) that programs make and remove by themselves, and why.

Left out on purpose: `*.part`, `*.tmp`, `*.bak`, `*.crdownload`: people keep such files.
"""

_BUILT_IN_NAME: Final = re.compile("|".join(f"(?:{translate(pattern)})" for pattern, _ in BUILT_IN))
_BUILT_IN_EACH: Final = tuple((re.compile(translate(pattern)), pattern, why) for pattern, why in BUILT_IN)


@dataclass(frozen=True, slots=True)
class BadRule:
    """A line of the ignore file that is not understood; it matches nothing."""

    line: int
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class Match:
    """The rule that ignores a path; as text, the rule and where it comes from."""

    pattern: str
    line: int | None = None
    """Its line in the ignore file; None for a built-in name."""
    why: str | None = None
    """What makes files of a built-in name."""
    folder: str | None = None
    """The folder that it matches, when it is about a folder: the path itself, or one above it."""

    def __str__(self) -> str:
        """Return it in one line."""
        if self.line is None:
            return f"built in: {self.pattern} ({self.why})"
        text = f"{IGNORE_FILE}:{self.line}: {self.pattern}"
        return text if self.folder is None else f"{text} (folder {self.folder})"


class IgnoreRules:
    """The rules of one synced folder. The last rule that matches decides; `!` takes a match back.

    A line of the file wins over the built-in names, so `!Thumbs.db` brings those back. What is
    below an ignored folder is ignored, whatever other rules say, as in git.
    """

    def __init__(self, text: str = "") -> None:
        self.bad: tuple[BadRule, ...] = ()
        self._lines: list[tuple[int, str, RegexPattern]] = []
        for number, line in enumerate(text.splitlines(), start=1):
            self._add(number, line)
        self._folders: dict[str, Match | None] = {}

    def match(self, path: str, is_dir: bool) -> str | None:  # noqa: FBT001  one question, two facts
        """Return which rule ignores a path, and where the rule comes from; None when none does."""
        found = self.find(path, is_dir)
        return None if found is None else str(found)

    def find(self, path: str, is_dir: bool) -> Match | None:  # noqa: FBT001  as `match`
        """Return the rule that ignores a path; None when none does."""
        parent = path.rpartition("/")[0]
        if parent:
            above = self._folder(parent)
            if above is not None:
                return above
        return self._folder(path) if is_dir else self._own(path, is_dir=False)

    def ignores(self, path: str, is_dir: bool) -> bool:  # noqa: FBT001  as `match`
        """Say whether a path is ignored."""
        return self.find(path, is_dir) is not None

    def _folder(self, path: str) -> Match | None:
        """Return why a folder is ignored, by itself or with one above; remembered, for a scan asks often."""
        if path not in self._folders:
            parent = path.rpartition("/")[0]
            above = self._folder(parent) if parent else None
            self._folders[path] = above or self._own(path, is_dir=True)
        return self._folders[path]

    def _own(self, path: str, *, is_dir: bool) -> Match | None:
        text = f"{path}/" if is_dir else path
        for number, line, pattern in reversed(self._lines):
            if _is_about(pattern, text):
                return Match(line, number, folder=path if is_dir else None) if pattern.include else None
        return None if is_dir else _built_in(path)

    def _add(self, number: int, line: str) -> None:
        if not line.strip() or line.startswith("#"):
            return
        try:
            patterns = GitIgnoreSpec.from_lines([line]).patterns
        except ValueError as error:
            self.bad = (*self.bad, BadRule(number, line, str(error)))
        else:
            self._lines += [(number, line, pattern) for pattern in patterns if pattern.include is not None]


def _is_about(pattern: RegexPattern, text: str) -> bool:
    """Say whether a pattern matches the very path `text`, where a folder ends in `/`.

    pathspec's expressions also match what is below a folder that matches: a named group holds
    the `/` after that folder, or, for `folder/**`, the match ends there. Folders above are asked
    by themselves here, as git does.
    """
    found = pattern.regex.search(text) if pattern.regex is not None else None
    if found is None:
        return False
    if not found.groupdict():
        return not found[0].endswith("/") or found.end() < len(text)
    return all(found.end(group) in {-1, len(text)} for group in found.groupdict())


def _built_in(path: str) -> Match | None:
    name = path.rpartition("/")[2]
    if _BUILT_IN_NAME.match(name) is None:
        return None
    return next(Match(pattern, why=why) for regex, pattern, why in _BUILT_IN_EACH if regex.match(name))
