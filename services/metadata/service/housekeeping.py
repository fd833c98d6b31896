"""What other services ask for: namespaces of accounts, verification, garbage."""

from collections.abc import Sequence
from datetime import timedelta

from libs.contracts.errors import NotFoundError
from libs.contracts.internal import HousedObject, Use
from services.metadata.domain.model import Actor, CondemnObject, Job
from services.metadata.service.changes import Changes
from services.metadata.settings import Settings
from services.metadata.store.namespaces import NamespaceStore
from services.metadata.store.objects import ObjectStore


class Housekeeping:
    """Every call can be repeated."""

    def __init__(
        self,
        settings: Settings,
        changes: Changes,
        namespaces: NamespaceStore,
        objects: ObjectStore,
    ) -> None:
        self._age = timedelta(seconds=settings.garbage_age_seconds)
        self._grace = timedelta(seconds=settings.doom_grace_seconds)
        self._changes = changes
        self._namespaces = namespaces
        self._objects = objects

    async def create_namespace(self, namespace_id: str, user_id: str) -> None:
        """Make a user's root namespace. Raises `ConflictError` when the id is another's."""
        await self._namespaces.create(namespace_id, user_id)

    async def remove_namespace(self, namespace_id: str, user_id: str) -> None:
        """Refuse all access from now on. Raises `NotFoundError` when it is not that user's."""
        if not await self._namespaces.remove(namespace_id, user_id):
            raise NotFoundError

    async def verify(self, object_id: str, *, ok: bool) -> None:
        """Record what reading an object's bytes has shown. Raises `NotFoundError`."""
        found = await self._objects.get(object_id)
        if found is None:
            raise NotFoundError
        if ok:
            await self._objects.verified(object_id)
        elif not found.corrupt:
            await self._condemn(found.namespace_id, object_id)

    async def _condemn(self, namespace_id: str, object_id: str) -> None:
        await self._changes.submit(namespace_id, Job(Actor(), (CondemnObject(object_id),)))

    async def unverified(self, limit: int) -> list[HousedObject]:
        """Return live objects whose hash is only claimed, oldest first."""
        return await self._objects.unverified(limit)

    async def doom(self, limit: int) -> int:
        """Doom garbage; return how much of it."""
        return await self._objects.doom(self._age, limit)

    async def doomed(self, limit: int) -> list[HousedObject]:
        """Return doomed objects whose grace time is over."""
        return await self._objects.doomed(self._grace, limit)

    async def forget(self, object_ids: Sequence[str]) -> int:
        """Forget doomed objects that are no longer in S3; return how many."""
        return await self._objects.forget(object_ids)

    async def between(self, after: str, up_to: str | None, limit: int) -> list[HousedObject]:
        """Return live objects by their keys."""
        return await self._objects.between(after, up_to, limit)

    async def alive(self, object_ids: Sequence[str]) -> list[str]:
        """Return those of the objects that have a document."""
        return await self._objects.alive(object_ids)

    async def uses(self, object_ids: Sequence[str]) -> list[Use]:
        """Return the versions that have the objects."""
        return await self._objects.uses(object_ids)

    async def known(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are an object's."""
        return await self._objects.known(keys)
