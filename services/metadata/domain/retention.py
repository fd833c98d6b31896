"""Which versions are kept, and for how long. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.contracts.api import VersionKeep
from services.metadata.domain.model import Version, from_micros, to_micros


@dataclass(frozen=True, slots=True)
class Retention:
    """A version is kept while it is current, among the `count` newest of its file, or younger than `age`."""

    count: int
    age: timedelta

    def why(self, position: int, version: Version, current_id: str | None, now: datetime) -> VersionKeep:
        """Return why the version at a position (0 is the newest) of its file's history is kept."""
        if version.id == current_id:
            return VersionKeep.CURRENT
        if position < self.count:
            return VersionKeep.RECENT
        return VersionKeep.AGE if version.created_us > to_micros(now - self.age) else VersionKeep.OVER

    def over(self, history: Sequence[Version], current_id: str | None, now: datetime) -> list[Version]:
        """Return the versions of a file, given newest first, that nothing keeps: oldest first."""
        return [
            version
            for position, version in reversed(list(enumerate(history)))
            if self.why(position, version, current_id, now) is VersionKeep.OVER
        ]

    def until(self, keep: VersionKeep, version: Version) -> datetime | None:
        """Return until when a version is kept, where it is its age that keeps it."""
        return from_micros(version.created_us) + self.age if keep is VersionKeep.AGE else None
