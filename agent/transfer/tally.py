"""What has moved so far."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Payload bytes to and from S3, and what that settles. `on_change` is told the settled bytes added."""

    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    settled_bytes: int = 0
    """Bytes of files or parts that are where they are to be, those that S3 held before too."""
    settled_files: int = 0
    on_change: Callable[[int], None] | None = None

    def sent(self, count: int) -> None:
        """Count bytes that the store has acknowledged."""
        self.uploaded_bytes += count
        self.settled(count)

    def received(self, count: int) -> None:
        """Count bytes that arrived."""
        self.downloaded_bytes += count
        self.settled(count)

    def settled(self, count: int) -> None:
        """Count bytes that did not have to travel."""
        self.settled_bytes += count
        self._tell(count)

    def file_done(self) -> None:
        """Count a file that is there as a whole."""
        self.settled_files += 1
        self._tell(0)

    def _tell(self, count: int) -> None:
        if self.on_change is not None:
            self.on_change(count)
