"""Whether a file is better sent as a difference, and to which version."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.actions import Upload
from agent.manifests import Manifests
from agent.state import State
from agent.transfer import DeltaBase
from libs.contracts.chunks import SMALLEST_CHUNKED
from libs.contracts.limits import SINGLE_PUT_BYTES
from libs.contracts.paths import is_conflicted
from libs.contracts.recipe import RecipeTooLongError, recipe_of

FEW: Final = 16
"""Edited files of a plan that travel one by one though they would fit into a batch. More are sent
whole and together: a difference takes some requests of its own."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Finds bases by the manifests of what this device has read."""

    manifests: Manifests
    state: State
    folder: Path
    """Where delta objects are written."""

    def may_save(self, action: Upload) -> bool:
        """Whether an edited file of a batch's size has a base of which the chunks are known. Cheap.

        A conflicted copy is an edited file: its base is what was agreed on before.
        """
        node, entry = action.node, action.entry
        if not SMALLEST_CHUNKED <= entry.stat.size <= SINGLE_PUT_BYTES:
            return False
        if node is None:
            is_copy = is_conflicted(entry.name) and bool(self.state.former.known)
            return is_copy and entry.content_hash is not None and self.manifests.has(entry.content_hash)
        known = node.version_id is not None and node.content_hash is not None
        return known and all(self.manifests.has(h) for h in (node.content_hash, entry.content_hash) if h)

    def base_of(self, action: Upload) -> DeltaBase | None:
        """Return how a file is made of a version that the server has; None when it is better sent whole.

        The version is the one that the file replaces, or else that of a file it resembles. For the
        edit that lost a conflict that is the version agreed on before. Blocks.
        """
        entry, node = action.entry, action.node
        target = self.manifests.base_for(entry.content_hash)
        if target is None:
            return None
        content, version_id = (None, None) if node is None else (node.content_hash, node.version_id)
        base = self.manifests.base_for(content)
        if base is None or version_id is None or base.average != target.average:
            versions = self._versions()
            content = self.manifests.similar(target, versions)
            base, version_id = self.manifests.base_for(content), versions.get(content or "")
        if base is None or version_id is None or content is None:
            return None
        try:
            recipe = recipe_of(base, target)
        except RecipeTooLongError:
            return None
        if 2 * recipe.literal_bytes >= target.size:
            return None
        refuted = content
        return DeltaBase(version_id, recipe, self.folder, lambda: self.manifests.forget(refuted))

    def _versions(self) -> dict[str, str]:
        """Return a version for each content that the server has: a current one, or one of before.

        Of those before this device has agreed on some, and the server's rows name some. Whether it
        still has one the server says, when it is offered a difference to it.
        """
        former = list(self.state.former.known.values())  # at once: the loop may change it meanwhile
        nodes = list(self.state.remote.values())
        before = [*former, *(node.base for node in nodes if node.base is not None)]
        return {ref.content_hash: ref.version_id for ref in before} | {
            node.content_hash: node.version_id
            for node in nodes
            if node.content_hash is not None and node.version_id is not None and not node.deleted
        }
