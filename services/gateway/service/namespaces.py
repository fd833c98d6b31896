"""Root namespaces: asked of metadata, which owns them."""

from libs.contracts.errors import NotFoundError
from libs.contracts.internal import NamespaceCreation, NamespaceRemoval
from libs.web.client import ServiceClient


class Namespaces:
    """Calls of metadata. Both may be repeated."""

    def __init__(self, client: ServiceClient, base_url: str) -> None:
        self._client = client
        self._url = f"{base_url.rstrip('/')}/internal/namespaces"

    async def ensure(self, namespace_id: str, user_id: str) -> None:
        """Have the namespace made. Raises `UnavailableError`."""
        body = NamespaceCreation(namespace_id=namespace_id, user_id=user_id)
        await self._client.call("POST", self._url, body)

    async def remove(self, namespace_id: str, user_id: str) -> None:
        """Have the namespace removed with everything in it; one that is not there counts as removed."""
        try:
            await self._client.call(
                "DELETE", f"{self._url}/{namespace_id}", NamespaceRemoval(user_id=user_id)
            )
        except NotFoundError:
            return
