"""Presigned reads of files."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from libs.contracts.api import Download, DownloadResult, PartDigests
from libs.contracts.errors import CallerError, NotFoundError
from libs.storage.port import ObjectStore, Signed
from services.download.domain import Page, Readable, Row, Wanted, readable, version_wanted
from services.download.store import Reads

CheckNamespace = Callable[[str], Awaitable[None]]
"""Returns when the caller is a member of the namespace, else raises `NotFoundError`."""

Found = Readable | CallerError

_PRESIGN_SLICE: Final = 100
"""URLs signed in one go (some 7 ms) before other requests get their turn."""


class Downloads:
    """Use cases of the download service."""

    def __init__(self, reads: Reads, objects: ObjectStore) -> None:
        self._reads = reads
        self._objects = objects

    async def one(self, wanted: Wanted, check: CheckNamespace, *, attachment: bool) -> Download:
        """Presign one read. Raises `NotFoundError` and `ConflictError` ("not_a_file", "object_gone")."""
        return await self.presigned(await self.found(wanted, check), attachment=attachment)

    async def digests(self, wanted: Wanted, check: CheckNamespace, page: Page) -> PartDigests:
        """Return digests of the parts in which a file was sent. Raises as `one` does."""
        return await self._reads.digests((await self.found(wanted, check)).key, page)

    async def found(self, wanted: Wanted, check: CheckNamespace) -> Readable:
        """Return what to read for a file. Raises as `one` does."""
        (found,) = await self._find([wanted], check)
        if isinstance(found, CallerError):
            raise found
        return found

    async def many(self, wanted: Sequence[Wanted], check: CheckNamespace) -> list[DownloadResult]:
        """Presign many reads, each with its own result."""
        results: list[DownloadResult] = []
        for index, found in enumerate(await self._find(wanted, check)):
            results.append(await self._result(index, found))
            if len(results) % _PRESIGN_SLICE == 0:
                await asyncio.sleep(0)
        return results

    async def _result(self, index: int, found: Found) -> DownloadResult:
        if isinstance(found, CallerError):
            return DownloadResult(index=index, code=found.code, detail=found.detail)
        return DownloadResult(index=index, download=await self.presigned(found, attachment=False))

    async def presigned(self, found: Readable, *, attachment: bool) -> Download:
        """Return where to read it."""
        signed: Signed = await self._objects.presign_get(
            found.key, filename=found.name if attachment else None
        )
        return Download(
            node_id=found.node_id,
            version_id=found.version_id,
            url=signed.url,
            expires_at=signed.expires_at,
            size=found.size,
            content_hash=found.content_hash,
        )

    async def _find(self, wanted: Sequence[Wanted], check: CheckNamespace) -> list[Found]:
        nodes = await self._permitted(await self._reads.nodes({item.node_id for item in wanted}), check)
        hidden = await self._reads.hidden(nodes)
        chosen = [_version_of(item, nodes, hidden) for item in wanted]
        versions = await self._reads.versions({one for one in chosen if isinstance(one, str)})
        objects = await self._reads.objects({row["object_id"] for row in versions.values()})
        return [
            one
            if isinstance(one, CallerError)
            else _readable(nodes[item.node_id], versions.get(one), objects)
            for item, one in zip(wanted, chosen, strict=True)
        ]

    async def _permitted(self, nodes: Mapping[str, Row], check: CheckNamespace) -> dict[str, Row]:
        """Return the nodes in namespaces of the caller; the others are as good as missing."""
        allowed = {
            name for name in {row["namespace_id"] for row in nodes.values()} if await _passes(check, name)
        }
        return {node_id: row for node_id, row in nodes.items() if row["namespace_id"] in allowed}


async def _passes(check: CheckNamespace, namespace_id: str) -> bool:
    try:
        await check(namespace_id)
    except NotFoundError:
        return False
    return True


def _version_of(wanted: Wanted, nodes: Mapping[str, Row], hidden: set[str]) -> str | CallerError:
    try:
        return version_wanted(wanted, nodes.get(wanted.node_id), hidden=wanted.node_id in hidden)
    except CallerError as error:
        return error


def _readable(node: Row, version: Row | None, objects: Mapping[str, Row]) -> Found:
    try:
        return readable(node, version, None if version is None else objects.get(version["object_id"]))
    except CallerError as error:
        return error
