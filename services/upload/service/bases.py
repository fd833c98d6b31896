"""The base of a delta: any version that the caller can read."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libs.contracts.api import DeltaOffer
from libs.contracts.errors import NotFoundError
from libs.contracts.tree import BaseVersion
from libs.delta.package import largest
from services.upload.domain.modes import Offer
from services.upload.service.deps import Deps

CheckNamespace = Callable[[str], Awaitable[None]]
"""Returns when the caller is a member of the namespace, else raises `NotFoundError`."""


@dataclass(frozen=True, slots=True)
class Bases:
    """Finds what a delta is a difference to."""

    deps: Deps

    async def offer_of(self, asked: DeltaOffer | None, size: int, check: CheckNamespace) -> Offer | None:
        """Return the offer with its base, or None when the content had better be sent whole.

        That is never an error: a base that is gone, damaged or somebody else's costs bytes. So does a
        delta object that is larger than one of a content of `size` bytes, which is what is reserved.
        """
        if asked is None or asked.size > min(self.deps.settings.max_delta_bytes, largest(size)):
            return None
        version = await self.deps.views.version(asked.base_version_id)
        node = None if version is None else await self.deps.views.node(version["node_id"])
        if version is None or node is None or version.get("corrupt"):
            return None
        try:
            await check(node["namespace_id"])
        except NotFoundError:
            return None
        stored = await self.deps.views.object(version["object_id"])
        if stored is None or stored["state"] != "live" or stored.get("corrupt"):
            return None
        base = BaseVersion(
            node_id=node["_id"], version_id=version["_id"], content_hash=version["content_hash"]
        )
        return Offer(stored["key"], stored["size"], asked.size, asked.sha256, base)
