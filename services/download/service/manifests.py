"""The manifests of objects: from S3, where services keep them, or made here of what is small."""

import asyncio
from collections import OrderedDict
from typing import Final

from libs.contracts import chunks
from libs.contracts.binary import MalformedError
from libs.contracts.chunks import Manifest
from libs.contracts.errors import NotFoundError
from libs.contracts.keys import manifest_key, namespace_of
from libs.delta.content import ContentReader
from libs.storage.port import ObjectStore
from services.download.domain import Readable

_CHUNK_BYTES: Final = 20


class Manifests:
    """Reads manifests, with those asked for last kept in memory."""

    def __init__(self, objects: ObjectStore, *, cache_bytes: int, small_bytes: int) -> None:
        self._objects = objects
        self._cache_bytes = cache_bytes
        self._small_bytes = small_bytes
        self._cache: OrderedDict[str, Manifest] = OrderedDict()
        self._held = 0

    async def of(self, item: Readable) -> Manifest:
        """Return what the object of a version consists of.

        Of a small one that nobody has read yet (it was committed just now) it is made here and now.
        Raises `NotFoundError` when it is not known, `MalformedError` when it is damaged.
        """
        known = self._cache.get(item.object_id)
        if known is not None:
            self._cache.move_to_end(item.object_id)
            return known
        manifest = await self._read(item)
        self._keep(item.object_id, manifest)
        return manifest

    async def _read(self, item: Readable) -> Manifest:
        key = manifest_key(namespace_of(item.key), item.object_id)
        try:
            pieces = [piece async for piece in self._objects.read(key)]
        except NotFoundError:
            if item.size > self._small_bytes:
                raise
            return await self._made(item)
        manifest = await asyncio.to_thread(chunks.decode, pieces)
        if manifest.size != item.size:
            raise MalformedError("The manifest is of another content")
        return manifest

    async def _made(self, item: Readable) -> Manifest:
        reader = ContentReader(item.size)
        async for piece in self._objects.read(item.key):
            await asyncio.to_thread(reader.update, piece)
        manifest = reader.manifest()
        if manifest is None or reader.hexdigest() != item.content_hash:
            raise NotFoundError("The object is not what it was said to be")
        return manifest

    def _keep(self, object_id: str, manifest: Manifest) -> None:
        """Keep it, and count it once however many have read it at the same time."""
        replaced = self._cache.pop(object_id, None)
        self._held += _bytes_of(manifest) - (0 if replaced is None else _bytes_of(replaced))
        self._cache[object_id] = manifest
        while self._held > self._cache_bytes and self._cache:
            _, dropped = self._cache.popitem(last=False)
            self._held -= _bytes_of(dropped)


def _bytes_of(manifest: Manifest) -> int:
    return len(manifest) * _CHUNK_BYTES
