"""Operations on content: commit an uploaded file, restore a version, give up corrupt bytes."""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from libs.contracts.events import FileCommitted, FileDeleted, FileUpdated, UploadedObject
from libs.contracts.tree import BaseVersion, CommitTarget, Kind
from services.metadata.domain.batch import Batch, RefusedError
from services.metadata.domain.model import CommitFile, CondemnObject, Node, Object, RestoreVersion, Version
from services.metadata.domain.structure import check_name_free, check_parent, existing, live
from services.metadata.domain.tree import Tree

_MAX_DAMAGED: Final = 20
"""So many contents a row names at most."""


def commit_file(batch: Batch, op: CommitFile) -> Node:
    """Make the uploaded bytes a new version of a node or a new file; an entry commits once."""
    done = batch.tree.version(op.version_id)
    if done is not None:
        return existing(batch.tree, done.node_id)
    target = op.entry.target
    base = _new_file(batch, target) if target.node_id is None else _base_of(batch, target)
    stored = _object_for(batch, op.entry.object)
    draft = _Draft(
        op.version_id, target.mtime_ns, target.executable, op.entry.base, op.upload.id, op.entry.index
    )
    return _put_version(batch, base, stored, draft)


def _new_file(batch: Batch, target: CommitTarget) -> Node:
    parent_id, name = target.parent_id, target.name
    if parent_id is None or name is None:
        raise RefusedError("invalid_target")
    check_parent(batch, parent_id)
    check_name_free(batch.tree, parent_id, name)
    return Node(batch.new_id(), batch.tree.namespace_id, parent_id, name, Kind.FILE)


def _base_of(batch: Batch, target: CommitTarget) -> Node:
    """Return the node to which the version is added, or refuse."""
    tree = batch.tree
    node = existing(tree, target.node_id or "")
    if node.kind is not Kind.FILE:
        raise RefusedError("not_a_file", node)
    if node.deleted and not target.undelete:
        raise RefusedError("node_deleted", node)
    if node.version_id != target.base_version_id:
        raise RefusedError("version_conflict", node)
    if tree.buried(node.parent_id):
        raise RefusedError("parent_deleted")
    if node.deleted:
        check_name_free(tree, node.parent_id, node.name)
    return node


def _object_for(batch: Batch, uploaded: UploadedObject) -> Object:
    """Return the object to refer to: one that is there and live, or a new one there is room for."""
    found = batch.object(uploaded.id)
    if found is not None:
        if not _usable(batch.tree, found) or found.content_hash != uploaded.content_hash:
            raise RefusedError("object_gone")
        if found.id not in batch.objects:
            batch.touched.add(found.id)
        return found
    if uploaded.existing:
        raise RefusedError("object_gone")
    if not batch.has_room(uploaded.size):
        raise RefusedError("quota_exceeded")
    new = Object(
        uploaded.id, batch.tree.namespace_id, uploaded.key, uploaded.size, uploaded.content_hash,
        verified=uploaded.verified,
    )  # fmt: skip
    batch.add_object(new)
    return new


def _usable(tree: Tree, stored: Object) -> bool:
    return stored.live and not stored.corrupt and stored.namespace_id == tree.namespace_id


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a new version is, beside its node and its bytes."""

    id: str
    mtime_ns: int
    executable: bool
    base: BaseVersion | None = None
    upload_id: str | None = None
    entry: int | None = None


def _put_version(batch: Batch, node: Node, stored: Object, draft: _Draft) -> Node:
    version = Version(
        id=draft.id,
        node_id=node.id,
        namespace_id=node.namespace_id,
        object_id=stored.id,
        size=stored.size,
        content_hash=stored.content_hash,
        mtime_ns=draft.mtime_ns,
        executable=draft.executable,
        parent_version_id=node.version_id,
        user_id=batch.actor.user_id,
        device_id=batch.actor.device_id,
        device=batch.actor.device,
        upload_id=draft.upload_id,
        entry=draft.entry,
        epoch=batch.start.epoch,
        seq=0,
        created_us=0,
        base=draft.base,
    )
    row = batch.put(FileCommitted, replace(_showing(node, version), deleted=False, damaged=()))
    batch.add_version(version)
    return row


def _showing(node: Node, version: Version) -> Node:
    """Return the node with this version as its current one."""
    return replace(
        node,
        version_id=version.id,
        size=version.size,
        content_hash=version.content_hash,
        mtime_ns=version.mtime_ns,
        executable=version.executable,
        epoch=version.epoch,
        base=version.base,
    )


def restore_version(batch: Batch, op: RestoreVersion) -> Node:
    """Make an old version current again as a new version on the same object."""
    tree = batch.tree
    node = live(tree, op.node_id)
    if node.kind is not Kind.FILE:
        raise RefusedError("not_a_file", node)
    old = tree.version(op.version_id)
    if old is None or old.node_id != node.id:
        raise RefusedError("not_found")
    if op.base_version_id not in {None, node.version_id}:
        raise RefusedError("version_conflict", node)
    if tree.buried(node.parent_id):
        raise RefusedError("parent_deleted")
    if old.id == node.version_id:
        return node
    stored = tree.object(old.object_id)
    if stored is None or old.corrupt or not _usable(tree, stored):
        raise RefusedError("object_gone", detail="The bytes of this version are gone")
    batch.touched.add(stored.id)
    draft = _Draft(batch.new_id(), old.mtime_ns, old.executable, old.base)
    return _put_version(batch, node, stored, draft)


def condemn_object(batch: Batch, op: CondemnObject) -> Node | None:
    """Mark the object's versions corrupt; each file that shows one goes back to its last good one.

    A file without any good version is deleted: there is nothing to show. Its row names what it went
    back from, so that a device that has that content sends it again.
    """
    batch.condemned.add(op.object_id)
    corrupt = {version.id: version for version in batch.tree.uses(op.object_id)}
    for version in corrupt.values():
        node = batch.tree.node(version.node_id)
        if node is not None and not node.purging and node.version_id == version.id:
            step_back(batch, node, set(corrupt))
    return None


def step_back(batch: Batch, node: Node, corrupt: set[str]) -> None:
    """Show the last version that is neither marked corrupt nor one of these; without any, delete."""
    history = batch.tree.history(node.id)
    good = next((version for version in history if not version.corrupt and version.id not in corrupt), None)
    passed = takewhile(lambda version: good is None or version.id != good.id, history)
    hashes = [*node.damaged, *(version.content_hash for version in reversed(list(passed))), node.content_hash]
    shown = {None, None if good is None else good.content_hash}
    damaged = tuple(one for one in dict.fromkeys(hashes) if one is not None and one not in shown)
    damaged = damaged[-_MAX_DAMAGED:]
    if good is not None:
        batch.put(FileUpdated, replace(_showing(node, good), damaged=damaged))
    elif not node.deleted:
        batch.put(FileDeleted, replace(node, deleted=True, damaged=damaged))
