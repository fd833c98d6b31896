"""Use cases that read the tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from libs.contracts.api import Page, Trash, TrashItem, Usage, Version, Versions
from libs.contracts.errors import ConflictError, NotFoundError
from libs.contracts.paths import split_path
from libs.contracts.tree import Kind
from libs.mongo.views import Views
from services.metadata.domain import model
from services.metadata.domain.feed import page_down
from services.metadata.domain.model import Node, from_micros
from services.metadata.domain.paging import decode_place, encode_place
from services.metadata.domain.retention import Retention
from services.metadata.domain.trail import buried, path_of
from services.metadata.service.costs import CostService
from services.metadata.store.reads import ReadStore


@dataclass(frozen=True, slots=True)
class PageOf:
    """Which page of a list."""

    cursor: str | None
    limit: int


class ReadService:
    """Nodes, listings, versions, the trash. Membership is the caller's business."""

    def __init__(
        self,
        reads: ReadStore,
        views: Views,
        costs: CostService,
        retention: Retention,
        quota_bytes: int | None,
    ) -> None:
        self._reads = reads
        self._views = views
        self._costs = costs
        self._retention = retention
        self._quota_bytes = quota_bytes

    async def node(self, node_id: str) -> Node:
        """Return a node, deleted or not, or raise `NotFoundError`."""
        node = await self._reads.node(node_id)
        if node is None:
            raise NotFoundError
        return node

    async def namespace_of(self, parent_id: str, root: str) -> str:
        """Return the namespace of a parent, which may be the root itself."""
        return root if parent_id == root else (await self.node(parent_id)).namespace_id

    async def at_path(self, namespace_id: str, path: str) -> Page:
        """Return the live node at a path as a page of one, or raise `NotFoundError`."""
        names = split_path(path)
        if not names:
            raise NotFoundError("The root is no node: list it by its namespace's id as `parent`")
        parent_id, node = namespace_id, None
        for name in names:
            node = await self._reads.child(namespace_id, parent_id, name)
            if node is None:
                raise NotFoundError
            parent_id = node.id
        return Page(items=[node.row()] if node is not None else [])

    async def folder(self, namespace_id: str, parent_id: str, page: PageOf) -> Page:
        """Return live nodes of a live folder by name."""
        await self._check_live_folder(namespace_id, parent_id)
        after = decode_place("name", page.cursor, "")
        nodes = await self._reads.children(namespace_id, parent_id, after, page.limit + 1)
        shown = nodes[: page.limit]
        more = encode_place("name", shown[-1].slot[1]) if len(nodes) > page.limit else None
        return Page(items=[node.row() for node in shown], next_cursor=more)

    async def _check_live_folder(self, namespace_id: str, parent_id: str) -> None:
        if parent_id == namespace_id:
            return
        folder = await self.node(parent_id)
        if folder.namespace_id != namespace_id:
            raise NotFoundError
        if folder.kind is not Kind.FOLDER:
            raise ConflictError(code="not_a_folder")
        if folder.deleted or buried(folder, await self._reads.folders_above([folder])):
            raise NotFoundError

    async def versions(self, node: Node, page: PageOf) -> Versions:
        """Return a file's versions, newest first."""
        if node.kind is not Kind.FILE:
            raise ConflictError(code="not_a_file")
        before = decode_place("version", page.cursor, 2**62)
        history = list(enumerate(await self._reads.versions(node.id)))
        found = [(position, item) for position, item in history if item.seq < before]
        shown = found[: page.limit]
        more = encode_place("version", shown[-1][1].seq) if len(found) > page.limit else None
        return Versions(items=[self._version(*item, node) for item in shown], next_cursor=more)

    def _version(self, position: int, item: model.Version, node: Node) -> Version:
        keep = self._retention.why(position, item, node.version_id, datetime.now(UTC))
        return Version(
            id=item.id,
            node_id=item.node_id,
            parent_version_id=item.parent_version_id,
            size=item.size,
            content_hash=item.content_hash,
            mtime_ns=item.mtime_ns,
            executable=item.executable,
            device=item.device,
            created_at=from_micros(item.created_us),
            current=item.id == node.version_id,
            corrupt=item.corrupt,
            keep=keep,
            kept_until=self._retention.until(keep, item),
        )

    async def trash(self, namespace_id: str, page: PageOf) -> Trash:
        """Return deleted nodes that no deleted folder hides, last deleted first."""
        head = await self._reads.head(namespace_id)
        before = min(decode_place("trash", page.cursor, head.seq + 1), head.seq + 1)

        async def window(after: int, up_to: int) -> list[Node]:
            found = await self._reads.deleted_between(namespace_id, after, up_to)
            folders = await self._reads.folders_above(found)
            return [node for node in found if not node.purging and not buried(node, folders)]

        nodes, place = await page_down(window, before, page.limit)
        more = encode_place("trash", place) if place > 1 else None
        return Trash(items=await self._trash_items(nodes), next_cursor=more)

    async def _trash_items(self, nodes: Sequence[Node]) -> list[TrashItem]:
        folders = await self._reads.folders_above(nodes)
        return [
            TrashItem(row=node.row(), path=path_of(node, folders), deleted_at=from_micros(node.changed_us))
            for node in nodes
        ]

    async def usage(self, user_id: str, namespace_id: str) -> Usage:
        """Return the bytes of an account."""
        used = await self._reads.used([namespace_id])
        return Usage(
            used_bytes=used.bytes,
            reserved_bytes=await self._views.reserved_bytes(user_id),
            quota_bytes=self._quota_bytes,
            files=used.files,
            history=await self._costs.of(namespace_id, datetime.now(UTC)),
        )
