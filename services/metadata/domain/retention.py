"""Which versions are kept, and for how long. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from services.metadata.domain.model import Version, from_micros, to_micros


class Why(StrEnum):
    """Why a version is kept."""

    CURRENT = "current"
    RECENT = "recent"
    """It is among the newest of its file."""
    AGE = "age"
    """It is younger than every version may become."""
    OVER = "over"
    """Nothing keeps it: the next round removes it."""


@dataclass(frozen=True, slots=True)
class Retention:
    """A version is kept while it is current, among the `count` newest of its file, or younger than `age`."""

    count: int
    age: timedelta

    def why(self, position: int, version: Version, current_id: str | None, now: datetime) -> Why:
        """Return why the version at a position (0 is the newest) of its file's history is kept."""
        if version.id == current_id:
            return Why.CURRENT
        if position < self.count:
            return Why.RECENT
        return Why.AGE if version.created_us > to_micros(now - self.age) else Why.OVER

    def over(self, history: Sequence[Version], current_id: str | None, now: datetime) -> list[Version]:
        """Return the versions of a file, given newest first, that nothing keeps: oldest first."""
        return [
            version
            for position, version in reversed(list(enumerate(history)))
            if self.why(position, version, current_id, now) is Why.OVER
        ]

    def until(self, version: Version) -> datetime:
        """Return until when a version's age alone keeps it."""
        return from_micros(version.created_us) + self.age
