"""What a damaged tree can be mended by without losing anything."""

from dataclasses import replace

from libs.contracts.events import FileMoved
from libs.contracts.tree import Kind
from services.metadata.domain.batch import Batch, RefusedError
from services.metadata.domain.content import step_back
from services.metadata.domain.model import MendNode, Node
from services.metadata.domain.structure import existing, free_name


def mend_node(batch: Batch, op: MendNode) -> Node:
    """Show the last good version where the shown one is not there; hang a lost node into the root.

    A file without any version is left as it is: a device that has its content can still send it. A
    deleted node whose folder is gone stays where it is until it is purged.
    """
    node = existing(batch.tree, op.node_id)
    if node.kind is Kind.FILE and _lost_version(batch, node):
        step_back(batch, node, set())
        node = existing(batch.tree, op.node_id)
    if not _lost_parent(batch, node):
        return node
    if node.deleted:
        raise RefusedError("node_deleted", node)
    root = batch.tree.namespace_id
    name = free_name(batch.tree, root, node.name)
    return batch.put(FileMoved, replace(node, parent_id=root, name=name))


def _lost_version(batch: Batch, node: Node) -> bool:
    if node.version_id is not None and batch.tree.version(node.version_id) is not None:
        return False
    good = [version for version in batch.tree.history(node.id) if not version.corrupt]
    if not good:
        raise RefusedError("object_gone", node)
    return True


def _lost_parent(batch: Batch, node: Node) -> bool:
    parent_id = node.parent_id
    return parent_id != batch.tree.namespace_id and batch.tree.node(parent_id) is None
