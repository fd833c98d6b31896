"""What has moved so far."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Payload bytes to and from S3. `on_change` is told after each change, with the bytes added."""

    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    on_change: Callable[[int], None] | None = None

    def sent(self, count: int) -> None:
        """Count bytes that the store has acknowledged."""
        self.uploaded_bytes += count
        self._tell(count)

    def received(self, count: int) -> None:
        """Count bytes that arrived."""
        self.downloaded_bytes += count
        self._tell(count)

    def _tell(self, count: int) -> None:
        if self.on_change is not None:
            self.on_change(count)
