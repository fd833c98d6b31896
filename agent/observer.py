"""Keeping the local tree true: which paths to look at, and what the scanner said of them."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from agent import clock
from agent.disk import Disk, DiskError, VanishedError
from agent.ignore import IGNORE_FILE, IgnoreRules
from agent.manifests import Manifests
from agent.model import LocalEntry, RemoteNode, SyncedNode
from agent.scanner import ScanResult, scan
from agent.scanner.rolling import chosen_to_read
from agent.settings import Settings
from agent.state import State
from libs.runtime.logs import get_logger

log = get_logger("observer")

_DAY: Final = 86400.0
_LONGEST_RECHECK: Final = 60.0
_RULES_BYTES: Final = 1024 * 1024


class Observer:
    """The local tree of `state`, kept by scans of `disk`; `manifests` keeps what large files consist of."""

    def __init__(
        self, state: State, disk: Disk, settings: Settings, manifests: Manifests | None = None
    ) -> None:
        self._state = state
        self._disk = disk
        self._settings = settings
        self._manifests = manifests
        self._ignored: dict[tuple[str, bool], bool] = {}
        self._text = ""
        self.rules = IgnoreRules()
        self.opaque: frozenset[str] = frozenset()
        """Folders that could not be listed: nothing below them counts as gone."""
        self.dirty: set[str] = set()
        self.full = True
        """Whether everything has to be looked at."""
        self._scope: set[str] | None = None
        self._before: dict[str, LocalEntry] = {}
        self.recheck_at: float | None = None
        """When something written just now is to be looked at again (seconds since 1970)."""
        self._recheck: set[str] = set()

    def begin(self) -> Callable[[], ScanResult] | None:
        """Return the scan that is due, to be run in a thread, or None when nothing is dirty."""
        dirty = self._take_dirty()
        if dirty is not None and not dirty:
            return None
        self._scope, self._before = dirty, dict(self._state.local)
        if self._manifests is not None and self._manifests.due:
            return partial(self._look_and_prune, dirty, self._before, clock.now(), self._contents())
        return partial(self._look, dirty, self._before, clock.now())

    def _contents(self) -> set[str]:
        """Return the hashes of all contents that are or were agreed on here."""
        entries: Iterable[LocalEntry | SyncedNode] = (
            *self._state.local.values(),
            *self._state.synced.values(),
        )
        found = {entry.content_hash for entry in entries if entry.content_hash is not None}
        return found | self._state.former.known.keys()

    def _look_and_prune(
        self, dirty: set[str] | None, before: dict[str, LocalEntry], now: float, contents: set[str]
    ) -> ScanResult:
        if self._manifests is not None:
            self._manifests.prune(contents)
        return self._look(dirty, before, now)

    def _look(self, dirty: set[str] | None, before: dict[str, LocalEntry], now: float) -> ScanResult:
        """Scan. A look at everything also reads some files that look unchanged; runs in a thread."""
        window = self._settings.rehash_days * _DAY
        chosen = chosen_to_read(before, now, window) if dirty is None else frozenset()
        return scan(
            self._disk,
            before,
            ignored=self.is_ignored,
            dirty=dirty,
            rehash=lambda entry: entry.path in chosen,
            now=now,
            manifests=self._manifests,
        )

    def _take_dirty(self) -> set[str] | None:
        if self.full or IGNORE_FILE in self.dirty:
            self.read_rules()
        dirty = None if self.full else set(self.dirty)
        self.full = False
        self.dirty.clear()
        return dirty

    def read_rules(self) -> None:
        """Read the ignore rules; when they changed, look at everything."""
        text = self._current_text()
        if text != self._text:
            self._text = text
            self.rules = IgnoreRules(text)
            self._ignored.clear()
            self.full = True

    def _current_text(self) -> str:
        """Return what the rules file says; while it cannot be read the rules stay as they are."""
        try:
            return rules_text(self._disk)
        except DiskError as error:
            log.warning("ignore rules cannot be read", code=error.code)
            return self._text

    def record(self, result: ScanResult) -> None:
        """Record what the scan that `begin` gave found.

        Paths that a transfer recorded while it ran are newer than the scan: they are looked at
        once more instead.
        """
        local, before = self._state.local, self._before
        outdated = {p for p in (*result.entries, *result.gone) if local.get(p) is not before.get(p)}
        changed = [e for p, e in result.entries.items() if p not in outdated and local.get(p) != e]
        with self._state.transaction():
            self._state.put_local(changed)
            self._state.drop_local(path for path in result.gone if path not in outdated)
            self._state.drop_local(self._left_out(result.ignored))
        self.dirty |= outdated
        self.opaque = _opaque(self.opaque, self._scope, result)
        self._plan_recheck(result)

    def _left_out(self, ignored: set[str]) -> list[str]:
        """Return what was known of paths that a rule leaves out now, with all below them.

        They are seen no more, which is no deletion: their nodes are held.
        """
        known = [path for path in ignored if path in self._state.local]
        return [below for path in known for below in self._state.below(path)]

    def _plan_recheck(self, result: ScanResult) -> None:
        if result.recheck_at is not None:
            known = self.recheck_at
            self.recheck_at = result.recheck_at if known is None else min(known, result.recheck_at)
            self._recheck |= result.recheck

    @property
    def recheck_in(self) -> float | None:
        """The seconds until then, 0 when it is due; None when there is nothing to look at again."""
        return None if self.recheck_at is None else clock.until(self.recheck_at, _LONGEST_RECHECK)

    def recheck(self) -> None:
        """Have what was written just before it was read looked at again."""
        self.recheck_at = None
        self.dirty |= self._recheck
        self._recheck = set()

    # Ignored nodes ------------------------------------------------------------------------

    def is_ignored(self, path: str, is_folder: bool) -> bool:  # noqa: FBT001 - the scanner's signature
        """Whether the rules leave a path alone."""
        key = (path, is_folder)
        if key not in self._ignored:
            self._ignored[key] = self.rules.ignores(path, is_folder)
        return self._ignored[key]

    def held(self, trees: Iterable[Mapping[str, RemoteNode | SyncedNode]], root_id: str) -> dict[str, None]:
        """Return the nodes whose place in one of the trees the rules leave alone."""
        held: dict[str, None] = {}
        for tree in trees:
            for node_id in self._ignored_in(tree.values(), root_id):
                held[node_id] = None
        return held

    def _ignored_in(self, nodes: Iterable[RemoteNode | SyncedNode], root_id: str) -> Iterable[str]:
        children: dict[str, list[RemoteNode | SyncedNode]] = {}
        for node in nodes:
            children.setdefault(node.parent_id, []).append(node)
        level = [("", False, node) for node in children.get(root_id, ())]
        while level:
            below = []
            for parent, inherited, node in level:
                path = f"{parent}/{node.name}" if parent else node.name
                ignored = inherited or self.is_ignored(path, node.kind.value == "folder")
                if ignored:
                    yield node.id
                below += [(path, ignored, child) for child in children.get(node.id, ())]
            level = below


def rules_text(disk: Disk) -> str:
    """Return what the rules file says; nothing when there is none. Raises `DiskError`."""
    try:
        with disk.open_for_read(IGNORE_FILE) as opened:
            return os.pread(opened.fd, _RULES_BYTES, 0).decode(errors="replace")
    except VanishedError:
        return ""


def _opaque(known: frozenset[str], dirty: set[str] | None, result: ScanResult) -> frozenset[str]:
    """Return the unlisted folders after a scan: its own, and those outside its scope."""
    if dirty is None:
        return frozenset(result.opaque)
    outside = {p for p in known if not any(p == d or p.startswith(d + "/") for d in dirty)}
    return frozenset(outside | set(result.opaque))
