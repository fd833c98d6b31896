"""The server of the simulated world: the tree with exactly the preconditions of the real one."""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from agent.model import Kind, RemoteNode
from libs.contracts.paths import name_key, name_problem, numbered_name

ROOT = "0" * 24


class RefusedError(Exception):
    """A precondition did not hold; `code` is the one of `libs.contracts.errors`."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True, slots=True)
class Move:
    node_id: str
    expect_parent_id: str
    expect_name: str
    parent_id: str
    name: str


@dataclass(slots=True)
class Server:
    """Nodes by id in their latest state. A refused operation changes nothing."""

    rows: dict[str, RemoteNode] = field(default_factory=dict)
    seq: int = 0
    versions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Node → the contents it ever had."""
    blobs: dict[str, str] = field(default_factory=dict)
    """Version → content."""
    uploads: int = 0
    downloads: int = 0

    # Reads ------------------------------------------------------------------------------------

    def feed(self, cursor: int) -> tuple[list[RemoteNode], int]:
        newer = sorted((r for r in self.rows.values() if r.seq > cursor), key=lambda r: r.seq)
        return newer, self.seq

    def is_live(self, node_id: str) -> bool:
        while node_id != ROOT:
            node = self.rows.get(node_id)
            if node is None or node.deleted:
                return False
            node_id = node.parent_id
        return True

    def live(self) -> list[RemoteNode]:
        return [row for row in self.rows.values() if self.is_live(row.id)]

    def path_of(self, node_id: str) -> str:
        names: list[str] = []
        while node_id != ROOT:
            names.append(self.rows[node_id].name)
            node_id = self.rows[node_id].parent_id
        return "/".join(reversed(names))

    def by_path(self) -> dict[str, RemoteNode]:
        return {self.path_of(row.id): row for row in self.live()}

    def fetch(self, node: RemoteNode) -> str:
        assert node.version_id is not None
        self.downloads += 1
        return self.blobs[node.version_id]

    # Preconditions ----------------------------------------------------------------------------

    def _node(self, node_id: str) -> RemoteNode:
        if node_id not in self.rows:
            raise RefusedError("not_found")
        return self.rows[node_id]

    def _live_node(self, node_id: str) -> RemoteNode:
        node = self._node(node_id)
        if node.deleted:
            raise RefusedError("node_deleted")
        self._check_folder(node.parent_id)
        return node

    def _check_folder(self, node_id: str) -> None:
        if node_id == ROOT:
            return
        node = self.rows.get(node_id)
        if node is None:
            raise RefusedError("not_found")
        if node.kind is not Kind.FOLDER:
            raise RefusedError("not_a_folder")
        if not self.is_live(node_id):
            raise RefusedError("parent_deleted")

    def _check_free(self, parent_id: str, name: str, but: str | None = None) -> None:
        assert name_problem(name) is None, name
        for row in self.rows.values():
            taken = row.parent_id == parent_id and name_key(row.name) == name_key(name)
            if taken and not row.deleted and row.id != but:
                raise RefusedError("name_taken")

    # Operations -------------------------------------------------------------------------------

    def _write(self, row: RemoteNode) -> RemoteNode:
        self.seq += 1
        self.rows[row.id] = replace(row, seq=self.seq)
        return self.rows[row.id]

    def _create(self, row: RemoteNode) -> RemoteNode:
        self._check_folder(row.parent_id)
        self._check_free(row.parent_id, row.name)
        return self._write(row)

    def _new_id(self) -> str:
        return f"{self.seq + 1:024x}"

    def create_folder(self, parent_id: str, name: str) -> RemoteNode:
        return self._create(RemoteNode(self._new_id(), parent_id, name, Kind.FOLDER, 0))

    def create_symlink(self, parent_id: str, name: str, target: str) -> RemoteNode:
        return self._create(
            RemoteNode(self._new_id(), parent_id, name, Kind.SYMLINK, 0, symlink_target=target)
        )

    def _versioned(self, row: RemoteNode, content: str, mtime_ns: int, *, executable: bool) -> RemoteNode:
        version = f"v{self.seq + 1}"
        self.blobs[version] = content
        self.versions[row.id].append(content)
        return replace(
            row,
            version_id=version,
            content_hash=content,
            size=len(content),
            mtime_ns=mtime_ns,
            executable=executable,
        )

    def commit_new(
        self, parent_id: str, name: str, content: str, mtime_ns: int, *, executable: bool
    ) -> RemoteNode:
        self.uploads += 1
        self._check_folder(parent_id)
        self._check_free(parent_id, name)
        row = RemoteNode(self._new_id(), parent_id, name, Kind.FILE, 0)
        return self._write(self._versioned(row, content, mtime_ns, executable=executable))

    def commit(
        self, base: RemoteNode, content: str, mtime_ns: int, *, executable: bool, undelete: bool
    ) -> RemoteNode:
        """Commit a version on top of the one that `base` has."""
        self.uploads += 1
        node = self._node(base.id)
        if node.deleted and not undelete:
            raise RefusedError("node_deleted")
        self._check_folder(node.parent_id)
        if node.version_id != base.version_id:
            raise RefusedError("version_conflict")
        if node.deleted:
            self._check_free(node.parent_id, node.name)
        row = replace(node, deleted=False)
        return self._write(self._versioned(row, content, mtime_ns, executable=executable))

    def move(self, op: Move) -> RemoteNode:
        node = self._node(op.node_id)
        if node.deleted:
            raise RefusedError("node_deleted")
        if (node.parent_id, node.name) == (op.parent_id, op.name):
            return node
        if (node.parent_id, node.name) != (op.expect_parent_id, op.expect_name):
            raise RefusedError("node_moved")
        self._check_folder(op.parent_id)
        self._check_acyclic(op.node_id, op.parent_id)
        self._check_free(op.parent_id, op.name, but=op.node_id)
        return self._write(replace(node, parent_id=op.parent_id, name=op.name))

    def _check_acyclic(self, node_id: str, parent_id: str) -> None:
        while parent_id != ROOT:
            if parent_id == node_id:
                raise RefusedError("cycle")
            parent_id = self.rows[parent_id].parent_id

    def delete(self, node_id: str, version_id: str | None, seen_seq: int | None) -> RemoteNode:
        node = self._node(node_id)
        if node.deleted:
            return node
        if node.kind is Kind.FILE:
            if node.version_id != version_id:
                raise RefusedError("version_conflict")
        else:
            assert seen_seq is not None
            self._check_seen(node, seen_seq)
        return self._write(replace(node, deleted=True))

    def _check_seen(self, node: RemoteNode, seen_seq: int) -> None:
        if node.kind is Kind.SYMLINK:
            if node.seq > seen_seq:
                raise RefusedError("version_conflict")
            return
        for row in self.rows.values():
            if row.seq > seen_seq and not row.deleted and self._is_below(row, node.id):
                raise RefusedError("subtree_changed")

    def _is_below(self, row: RemoteNode, folder: str) -> bool:
        parent = row.parent_id
        while parent != ROOT:
            if parent == folder:
                return True
            if self.rows[parent].deleted:
                return False
            parent = self.rows[parent].parent_id
        return False

    def set_file(self, seen: RemoteNode, mtime_ns: int, *, executable: bool) -> RemoteNode:
        node = self._live_node(seen.id)
        if node.version_id != seen.version_id:
            raise RefusedError("version_conflict")
        return self._write(replace(node, mtime_ns=mtime_ns, executable=executable))

    def set_link(self, seen: RemoteNode, target: str) -> RemoteNode:
        node = self._live_node(seen.id)
        if node.seq > seen.seq:
            raise RefusedError("version_conflict")
        return self._write(replace(node, symlink_target=target))

    # What people do on the server itself --------------------------------------------------------

    def restore(self, node_id: str) -> bool:
        """Bring a deleted node back, under another name when its own is taken."""
        node = self.rows[node_id]
        if not node.deleted or not (node.parent_id == ROOT or self.is_live(node.parent_id)):
            return False
        taken = {
            name_key(r.name) for r in self.rows.values() if r.parent_id == node.parent_id and not r.deleted
        }
        name = node.name
        if name_key(name) in taken:
            name = numbered_name(name, "restored", lambda n: name_key(n) in taken)
        self._write(replace(node, deleted=False, name=name))
        return True
