"""Operations on the shape of the tree: make, move, delete, set attributes, restore a deleted node."""

from dataclasses import replace

from libs.contracts.events import FileDeleted, FileMoved, FileRestored, FileUpdated, FolderCreated
from libs.contracts.paths import name_key, numbered_name
from libs.contracts.tree import CreateFolder, CreateSymlink, Delete, Kind, Move, SetAttributes
from services.metadata.domain.batch import Batch, RefusedError
from services.metadata.domain.model import Node, RestoreNode
from services.metadata.domain.tree import Tree


def check_parent(batch: Batch, parent_id: str) -> None:
    """Refuse a parent that is missing, not a folder, deleted (or below a deleted one) or too deep."""
    tree = batch.tree
    if parent_id == tree.namespace_id:
        return
    parent = tree.node(parent_id)
    if parent is None:
        raise RefusedError("not_found")
    if parent.kind is not Kind.FOLDER:
        raise RefusedError("not_a_folder", parent)
    chain = tuple(tree.chain(parent_id))
    if any(folder is None or folder.deleted for folder in chain):
        raise RefusedError("parent_deleted")
    if len(chain) > batch.rules.max_depth:
        raise RefusedError("depth_exceeded")


def check_name_free(tree: Tree, parent_id: str, name: str, *, besides: str | None = None) -> None:
    """Refuse a place that another live node has."""
    occupant = tree.occupant(parent_id, name)
    if occupant is not None and occupant.id != besides:
        raise RefusedError("name_taken", occupant)


def existing(tree: Tree, node_id: str) -> Node:
    """Return the node, deleted or not, or refuse; one that is being purged is as good as gone."""
    node = tree.node(node_id)
    if node is None or node.purging:
        raise RefusedError("not_found")
    return node


def live(tree: Tree, node_id: str) -> Node:
    """Return the node unless it was deleted itself; a folder above it may be."""
    node = existing(tree, node_id)
    if node.deleted:
        raise RefusedError("node_deleted", node)
    return node


def create_folder(batch: Batch, op: CreateFolder) -> Node:
    """Make a folder; the same id at the same place again is the same folder."""
    repeated = _repeated(batch.tree, op, Kind.FOLDER)
    if repeated is not None:
        return repeated
    return batch.put(FolderCreated, _new_node(batch, op, Kind.FOLDER))


def create_symlink(batch: Batch, op: CreateSymlink) -> Node:
    """Make a link; the same id, place and target again is the same link."""
    repeated = _repeated(batch.tree, op, Kind.SYMLINK)
    if repeated is not None:
        if repeated.symlink_target != op.target:
            raise RefusedError("id_taken", repeated)
        return repeated
    node = _new_node(batch, op, Kind.SYMLINK)
    return batch.put(FileUpdated, replace(node, symlink_target=op.target, mtime_ns=op.mtime_ns))


def _repeated(tree: Tree, op: CreateFolder | CreateSymlink, kind: Kind) -> Node | None:
    """Return the node that an earlier, equal request made; refuse an id that is another's."""
    found = None if op.id is None else tree.anywhere(op.id)
    if op.id == tree.namespace_id or (found is not None and found.namespace_id != tree.namespace_id):
        raise RefusedError("id_taken")
    if found is None:
        return None
    if found.kind is not kind or found.slot != (op.parent_id, name_key(op.name)):
        raise RefusedError("id_taken", found)
    if found.deleted:
        raise RefusedError("node_deleted", found)
    return found


def _new_node(batch: Batch, op: CreateFolder | CreateSymlink, kind: Kind) -> Node:
    tree = batch.tree
    check_parent(batch, op.parent_id)
    check_name_free(tree, op.parent_id, op.name)
    node_id = op.id or batch.new_id()
    return Node(node_id, tree.namespace_id, op.parent_id, op.name, kind, epoch=batch.start.epoch)


def move(batch: Batch, op: Move) -> Node:
    """Move or rename. Out of a deleted folder is allowed; what is done already counts as done."""
    tree = batch.tree
    node = live(tree, op.node_id)
    _check_stays(tree, node)
    if (node.parent_id, node.name) == (op.parent_id, op.name):
        return node
    if node.slot != (op.expect_parent_id, name_key(op.expect_name)):
        raise RefusedError("node_moved", node)
    if op.parent_id != node.parent_id:
        _check_no_cycle(tree, node, op.parent_id)
    check_parent(batch, op.parent_id)
    check_name_free(tree, op.parent_id, op.name, besides=node.id)
    return batch.put(FileMoved, replace(node, parent_id=op.parent_id, name=op.name))


def _check_stays(tree: Tree, node: Node) -> None:
    """Refuse what is below a folder that is being purged: some of what is in it may be gone already."""
    if any(folder is not None and folder.purging for folder in tree.chain(node.parent_id)):
        raise RefusedError("not_found")


def _check_no_cycle(tree: Tree, node: Node, parent_id: str) -> None:
    if node.kind is Kind.FOLDER and any(
        folder is not None and folder.id == node.id for folder in tree.chain(parent_id)
    ):
        raise RefusedError("cycle", node)


def delete(batch: Batch, op: Delete) -> Node:
    """Delete what the caller saw. Below a deleted folder too: then it stays deleted at a restore."""
    node = existing(batch.tree, op.node_id)
    if node.deleted:
        return node
    if node.kind is Kind.FILE:
        check_version(node, op.version_id)
    elif node.kind is Kind.SYMLINK:
        check_seen(node, op.seen_seq)
    else:
        _check_subtree(batch.tree, node, op.seen_seq)
    return batch.put(FileDeleted, replace(node, deleted=True, damaged=()))


def check_version(node: Node, version_id: str | None) -> None:
    """Refuse when the caller saw another version of the file."""
    if version_id is None:
        raise RefusedError("invalid_target", node, "A file needs version_id")
    if node.version_id != version_id:
        raise RefusedError("version_conflict", node)


def check_seen(node: Node, seen_seq: int | None) -> None:
    """Refuse when the link has changed since the caller saw it."""
    if seen_seq is None:
        raise RefusedError("invalid_target", node, "A folder or a link needs seen_seq")
    if node.seq > seen_seq:
        raise RefusedError("version_conflict", node)


def _check_subtree(tree: Tree, folder: Node, seen_seq: int | None) -> None:
    """Refuse when something live below the folder is newer than what the caller saw.

    What was deleted since is no loss; the folder's own renames do not count.
    """
    if seen_seq is None:
        raise RefusedError("invalid_target", folder, "A folder or a link needs seen_seq")
    newer = tree.newer_than(seen_seq)
    if newer is None:
        raise RefusedError("subtree_changed", folder, "Too much has changed: read the feed first")
    for node_id in newer:
        node = tree.node(node_id)
        if node is not None and not node.deleted and _lives_below(tree, node, folder.id):
            raise RefusedError("subtree_changed", node)


def _lives_below(tree: Tree, node: Node, folder_id: str) -> bool:
    for ancestor in tree.chain(node.parent_id):
        if ancestor is None or ancestor.deleted:
            return False
        if ancestor.id == folder_id:
            return True
    return False


def set_attributes(batch: Batch, op: SetAttributes) -> Node:
    """Change what is kept beside the content; nothing to change is no change."""
    node = live(batch.tree, op.node_id)
    _check_fits(node, op)
    changed = _with_attributes(batch, node, op)
    if node.kind is Kind.FILE:
        check_version(node, op.version_id)
    if changed == node:
        return node
    if node.kind is Kind.SYMLINK:
        check_seen(node, op.seen_seq)
    if batch.tree.buried(node.parent_id):
        raise RefusedError("parent_deleted")
    return batch.put(FileUpdated, changed)


def _check_fits(node: Node, op: SetAttributes) -> None:
    if node.kind is Kind.FOLDER:
        raise RefusedError("invalid_target", node, "A folder has no attributes")
    if node.kind is Kind.FILE and op.symlink_target is not None:
        raise RefusedError("invalid_target", node, "A file has no link target")
    if node.kind is Kind.SYMLINK and op.executable is not None:
        raise RefusedError("invalid_target", node, "A link is not executable")


def _with_attributes(batch: Batch, node: Node, op: SetAttributes) -> Node:
    retargeted = op.symlink_target not in {None, node.symlink_target}
    return replace(
        node,
        mtime_ns=node.mtime_ns if op.mtime_ns is None else op.mtime_ns,
        executable=node.executable if op.executable is None else op.executable,
        symlink_target=op.symlink_target if retargeted else node.symlink_target,
        epoch=batch.start.epoch if retargeted else node.epoch,
    )


def restore_node(batch: Batch, op: RestoreNode) -> Node:
    """Bring a deleted node back to where it was, as `name (restored)` when the name is taken."""
    tree = batch.tree
    node = existing(tree, op.node_id)
    if not node.deleted:
        return node
    if tree.buried(node.parent_id):
        raise RefusedError("parent_deleted")
    name = free_name(tree, node.parent_id, node.name)
    return batch.put(FileRestored, replace(node, name=name, deleted=False))


def free_name(tree: Tree, parent_id: str, name: str) -> str:
    """Return the name, or `name (restored)` where another node has its place."""
    if tree.occupant(parent_id, name) is None:
        return name
    return numbered_name(name, "restored", lambda text: tree.occupant(parent_id, text) is not None)
