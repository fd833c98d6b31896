"""What a version to be fetched may be made of: local files that have most of it.

The file that it replaces. A file with the content that the server put the version together from, or a
later version of that file: so a conflicted copy, or a file that was renamed and edited in one go, comes
as a difference though it is new here. And an edit that lost a conflict: the version that it was made
from is gone from the disk, but its chunks are known, and with them which of its bytes the edit has.

All are hints. What is read is verified by the hash of the whole.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent.actions import Download
from agent.duplicates import Duplicates
from agent.executor.work import Work
from agent.manifests import Manifests
from agent.model import Kind, LocalEntry, LocalKind, RemoteNode, VersionRef
from agent.transfer.spots import recipe_of as recipe_in
from libs.contracts.api import DownloadDelta
from libs.contracts.chunks import SMALLEST_CHUNKED
from libs.contracts.recipe import Recipe, RecipeTooLongError, chained, encode, recipe_of

_GENERATIONS: Final = 8
"""Versions that are followed back: a copy of a copy, where this device has neither."""


@dataclass(frozen=True, slots=True)
class Base:
    """A local file, and the version from which the server is asked for the difference."""

    entry: LocalEntry
    version: VersionRef
    bridge: Recipe | None = None
    """How the version is made of what the file holds; None: that is the version."""


class Bases:
    """Finds bases for the downloads of one round."""

    def __init__(self, work: Work, nodes: Iterable[RemoteNode] = ()) -> None:
        self._work = work
        self._former = work.state.former.by_node()
        self._wanted = {content for node in nodes for content in self.contents(node)}
        self._held = Duplicates(work.state.local, self._wanted)
        self._large: dict[str, LocalEntry] | None = None

    def contents(self, node: RemoteNode) -> set[str]:
        """Return the hashes of the contents of which this version may be made."""
        return {ref.content_hash for ref in self._refs(node)}

    def sources_first(self, actions: Sequence[Download]) -> list[Download]:
        """Return the downloads in an order in which files that others are made of come before those."""
        wanted = {action.node.id for action in actions}
        return sorted(actions, key=lambda action: len(wanted & self._sources(action.node)))

    def comes_with(self, action: Download, coming: Iterable[Download]) -> bool:
        """Whether one of those on their way will have the content, or most of it: then it is made of that."""
        nodes, sources = [other.node for other in coming], self._sources(action.node)
        content = action.node.content_hash
        if content is not None and any(node.content_hash == content for node in nodes):
            return True
        is_like_one = self._is_chunked(action.node) and any(node.id in sources for node in nodes)
        return is_like_one and next(self._direct(action), None) is None

    def _sources(self, node: RemoteNode) -> set[str]:
        """Return the ids of the other nodes that a version came from."""
        return {ref.node_id for ref in self._refs(node)} - {node.id}

    def may_help(self, action: Download) -> bool:
        """Whether there may be a base. Cheap."""
        if not self._is_chunked(action.node):
            return False
        if self._replaced(action) is not None:
            return True
        manifests = self._work.manifests
        return any(
            self._holding(ref) is not None or (manifests is not None and manifests.has(ref.content_hash))
            for ref in self._refs(action.node)
        )

    async def of(self, action: Download) -> AsyncGenerator[Base, None]:
        """Yield the bases, the likeliest first; each as things are when it is asked for."""
        if not self._is_chunked(action.node):
            return
        tried: set[str] = set()
        for base in self._direct(action):
            if base.version.version_id not in tried:
                tried.add(base.version.version_id)
                yield base
        for ref in list(self._refs(action.node)):
            base_of_edit = None if ref.version_id in tried else await self._bridged(ref)
            if base_of_edit is not None:
                tried.add(ref.version_id)
                yield base_of_edit

    def _is_chunked(self, node: RemoteNode) -> bool:
        return self._work.settings.delta and node.kind is Kind.FILE and node.size >= SMALLEST_CHUNKED

    def _direct(self, action: Download) -> Iterator[Base]:
        replaced = self._replaced(action)
        if replaced is not None:
            yield replaced
        for ref in self._refs(action.node):
            entry = self._holding(ref)
            if entry is not None:
                yield Base(entry, ref)

    def _replaced(self, action: Download) -> Base | None:
        """Return the file that is replaced, when it is as both sides agreed on it."""
        entry, known = action.expect, self._agreed(action.node.id)
        if entry is None or known is None or entry.kind is not LocalKind.FILE:
            return None
        is_known = entry.content_hash == known.content_hash and entry.stat.size >= SMALLEST_CHUNKED
        return Base(entry, known) if is_known else None

    def _refs(self, node: RemoteNode) -> Iterator[VersionRef]:
        """Yield versions that this one is like: those it came from, and what became of them here."""
        former = self._former.get(node.id)
        if former is not None:
            yield former
        passed = {node.id}
        base = node.base
        while base is not None:
            yield base
            agreed = self._agreed(base.node_id)
            if agreed is not None:
                yield agreed
            before = self._work.state.remote.get(base.node_id)
            if before is None or base.node_id in passed or len(passed) > _GENERATIONS:
                return
            passed.add(base.node_id)
            base = before.base

    def _agreed(self, node_id: str) -> VersionRef | None:
        known = self._work.state.synced.get(node_id)
        if known is None or known.version_id is None or known.content_hash is None:
            return None
        return VersionRef(node_id, known.version_id, known.content_hash)

    def _holding(self, ref: VersionRef) -> LocalEntry | None:
        """Return a file that had this content when it was last looked at."""
        if ref.content_hash not in self._wanted:  # it came to be agreed on since the round began
            self._wanted.add(ref.content_hash)
            self._held = Duplicates(self._work.state.local, self._wanted)
        found = self._held.of(ref.content_hash)
        return next((entry for entry in found if entry.stat.size >= SMALLEST_CHUNKED), None)

    # An edit of what is gone ----------------------------------------------------------------

    async def _bridged(self, ref: VersionRef) -> Base | None:
        manifests = self._work.manifests
        if manifests is None or not manifests.has(ref.content_hash):
            return None
        return await asyncio.to_thread(_edit_of, manifests, ref, self._large_files())

    def _large_files(self) -> dict[str, LocalEntry]:
        """Return the local files that have chunks, by content."""
        if self._large is None:
            self._large = {
                entry.content_hash: entry
                for entry in self._work.state.local.values()
                if entry.content_hash is not None
                and entry.kind is LocalKind.FILE
                and entry.trouble is None
                and entry.stat.size >= SMALLEST_CHUNKED
            }
        return self._large


def bridged(delta: DownloadDelta, bridge: Recipe) -> DownloadDelta | None:
    """Return a delta from a version as one from what that is made of; None: it would save too little.

    Blocks. Raises `MalformedError`.
    """
    try:
        recipe = chained(recipe_in(delta, bridge.size), bridge)
    except RecipeTooLongError:
        return None
    if 2 * recipe.literal_bytes >= delta.size:
        return None
    return delta.model_copy(update={"recipe": b64encode(encode(recipe)).decode("ascii")})


def _edit_of(manifests: Manifests, ref: VersionRef, files: dict[str, LocalEntry]) -> Base | None:
    """Return the file that has most of a version's bytes; None when that is less than half. Blocks."""
    wanted = manifests.base_for(ref.content_hash)
    content = None if wanted is None else manifests.similar(wanted, files)
    held = manifests.base_for(content)
    if wanted is None or held is None or content is None:
        return None
    try:
        bridge = recipe_of(held, wanted)
    except RecipeTooLongError:
        return None
    return Base(files[content], ref, bridge) if 2 * bridge.literal_bytes < wanted.size else None
