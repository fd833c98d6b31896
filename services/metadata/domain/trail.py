"""Folders above a node: its path, and whether it is out of sight because one of them is deleted."""

from collections.abc import Iterator, Mapping

from services.metadata.domain.model import Node


def trail(node: Node, folders: Mapping[str, Node | None]) -> Iterator[Node | None]:
    """Walk the folders above a node, the nearest first; None for one that is there no more."""
    parent_id = node.parent_id
    while parent_id != node.namespace_id:
        folder = folders.get(parent_id)
        yield folder
        if folder is None:
            return
        parent_id = folder.parent_id


def buried(node: Node, folders: Mapping[str, Node | None]) -> bool:
    """Say whether a folder above the node is deleted."""
    return any(folder is None or folder.deleted for folder in trail(node, folders))


def topmost_deleted(node: Node, folders: Mapping[str, Node | None]) -> Node:
    """Return the deleted node that hides a deleted one for longest: the topmost, or itself."""
    deleted = [folder for folder in trail(node, folders) if folder is not None and folder.deleted]
    return deleted[-1] if deleted else node


def path_of(node: Node, folders: Mapping[str, Node | None]) -> str:
    """Return the path relative to the root, without a leading `/`."""
    names = [folder.name for folder in trail(node, folders) if folder is not None]
    return "/".join([*reversed(names), node.name])
