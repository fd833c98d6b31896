"""What users did to folders: which of them one user moved elsewhere and another deleted meanwhile.

A folder that was moved takes along what is in it on the server, on the mover's disk or not yet: that
lives on where the folder went, though who knew the folder at its old place deleted it there.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.model import LocalKind
from tests.simulation.disk import Disk, Inode, is_below, parent_of

Nodes = Callable[[Inode], str | None]
"""The node that a device remembers of what is on its disk, or None."""


def no_nodes(_inode: Inode) -> None:
    """Know the node of nothing."""


@dataclass(slots=True)
class Folders:
    """What became of folders since all were last in step, by node."""

    moved: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Node → the devices whose users put it into another folder."""
    deleted: set[tuple[str, str]] = field(default_factory=set)
    """Device and folder: its user deleted the folder."""
    inside: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    """Origin of a content → device and folder: it was in the folder there when it was deleted."""

    def move(self, device: str, node: str) -> None:
        self.moved[node].add(device)

    def delete(self, device: str, nodes: Iterable[str]) -> None:
        self.deleted.update((device, node) for node in nodes)

    def put_down(self, device: str, nodes: Iterable[str], origin: str) -> None:
        """Note in which folders something was when it was deleted."""
        self.inside[origin].update((device, node) for node in nodes)

    def robbed(self, origin: str) -> set[str]:
        """Return the devices that deleted it with a folder which another's user had moved."""
        deletions = self.inside.get(origin, set()) & self.deleted
        return {device for device, node in deletions if self.moved.get(node, set()) - {device}}

    def clear(self) -> None:
        for notes in (self.moved, self.deleted, self.inside):
            notes.clear()


def folders_below(disk: Disk, path: str, nodes: Nodes) -> list[str]:
    """Return the nodes of the known folders at and below a path."""
    return _known([i for p, i in disk.entries.items() if is_below(p, path)], nodes)


def folders_above(disk: Disk, path: str, nodes: Nodes) -> list[str]:
    """Return the nodes of the known folders that something is in."""
    above: list[Inode] = []
    while path := parent_of(path):
        above.append(disk.entries[path])
    return _known(above, nodes)


def _known(inodes: Iterable[Inode], nodes: Nodes) -> list[str]:
    found = (nodes(inode) for inode in inodes if inode.kind is LocalKind.FOLDER)
    return [node for node in found if node is not None]
