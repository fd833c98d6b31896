"""What the janitor has removed from time to time: accounts, what was deleted long ago, old versions."""

from libs.contracts.internal import Round
from services.metadata.store.history import HistoryStore
from services.metadata.store.purge import PurgeStore
from services.metadata.store.trash import TrashStore


class Removals:
    """Every call does a part and can be repeated; bytes are left to the collection of garbage."""

    def __init__(self, purges: PurgeStore, trash: TrashStore, history: HistoryStore) -> None:
        self._purges = purges
        self._trash = trash
        self._history = history

    async def namespaces(self) -> int:
        """Remove some of what removed namespaces left; 0: nothing is left."""
        return await self._purges.purge()

    async def trash(self) -> int:
        """Remove some of what was deleted longer ago than the trash is kept; 0: nothing is left."""
        return await self._trash.purge()

    async def versions(self, place: str | None) -> Round:
        """Remove the versions of some files that retention does not keep, from a place on."""
        done, following = await self._history.thin(place)
        return Round(done=done, next=following)
