"""What the use cases stand on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from libs.contracts.api import UploadMode
from libs.mongo.views import Views
from libs.storage.port import ObjectStore
from services.upload.domain.modes import Sizes
from services.upload.domain.session import Entry
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

    def expiry(self, entries: Iterable[Entry], touched: datetime) -> datetime:
        """Return when a session of these entries expires that was touched then.

        One of which nothing is to be sent holds no progress: it can be opened again for nothing.
        """
        seconds = self.settings.session_seconds
        if all(entry.mode is UploadMode.STORED for entry in entries):
            seconds = min(seconds, self.settings.stored_session_seconds)
        return touched + timedelta(seconds=seconds)
