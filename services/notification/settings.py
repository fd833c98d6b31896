"""Settings of the notification service (`LOCKSTEP_…`)."""

from pydantic import Field

from libs.runtime.settings import BusSettings, MongoSettings, ProcessSettings, TokenSettings


class Settings(ProcessSettings, MongoSettings, BusSettings, TokenSettings):
    """Everything that the notification service can be told."""

    push_heartbeat: float = Field(default=15.0, gt=0)
    """Seconds of silence after which a comment is sent."""
    push_recheck: float = Field(default=60.0, gt=0)
    """Seconds between two looks at whether the device was revoked and the epoch is still the same."""
    push_queue_events: int = Field(default=256, ge=1)
    """Events that may wait for a slow reader; beyond that it is told to read the feed."""
    push_queue_bytes: int = Field(default=4 * 1024 * 1024, ge=1)
    """Bytes that may wait for a slow reader."""
    push_write_timeout: float = Field(default=60.0, gt=0)
    """Seconds until a reader that takes no bytes at all is let go."""
    push_catch_up_rows: int = Field(default=1000, ge=0)
    """Missed changes that are sent at connect; a reader that missed more is told the heads only."""
    push_progress_interval: float = Field(default=0.25, ge=0)
    """Seconds between two reports of one upload's progress."""
