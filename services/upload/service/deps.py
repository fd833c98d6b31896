"""What the use cases stand on."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from libs.mongo.views import Views
from libs.storage.port import ObjectStore
from services.upload.domain.modes import Sizes
from services.upload.service.trust import Trust
from services.upload.settings import Settings
from services.upload.store.parts import PartStore
from services.upload.store.sessions import SessionStore

_MICROSECONDS = 1000


def now() -> datetime:
    """Return the time as MongoDB keeps it: UTC, whole milliseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // _MICROSECONDS * _MICROSECONDS)


@dataclass(frozen=True, slots=True)
class Deps:
    """Collaborators of the use cases."""

    settings: Settings
    sessions: SessionStore
    parts: PartStore
    objects: ObjectStore
    views: Views
    trust: Trust
    now: Callable[[], datetime] = now

    @property
    def sizes(self) -> Sizes:
        """The settings that decide how bytes travel."""
        return Sizes(self.settings.single_put_bytes, self.settings.part_bytes)

    def expiry(self) -> datetime:
        """Return when a session that is touched now expires."""
        return self.now() + timedelta(seconds=self.settings.session_seconds)
