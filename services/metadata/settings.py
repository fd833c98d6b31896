"""Settings of the metadata service."""

from pydantic import Field

from libs.contracts.limits import MAX_BATCH, MAX_DEPTH
from libs.runtime.settings import BusSettings, MongoSettings, ProcessSettings, TokenSettings


class Settings(ProcessSettings, MongoSettings, BusSettings, TokenSettings):
    """What this service can be told by `LOCKSTEP_*`."""

    max_depth: int = Field(default=MAX_DEPTH, ge=1)
    """Folders above a node."""
    max_transaction_ops: int = Field(default=MAX_BATCH, ge=1)
    """Waiting changes of one namespace are joined up to this number; one request is never divided."""
    max_unseen_rows: int = Field(default=10_000, ge=0)
    """A folder's deletion by a caller who is more rows behind is refused without looking at them."""
    quota_bytes: int | None = Field(default=None, ge=0)
    """Bytes of content that a namespace may hold; no limit when absent."""
    garbage_age_seconds: float = Field(default=24 * 3600.0, ge=0)
    """How long ago an object without versions must have been referred to last, to be doomed."""
    doom_grace_seconds: float = Field(default=24 * 3600.0, ge=0)
    """How long an object stays doomed before S3 may delete it; longer than any presigned URL."""
    retention_versions: int = Field(default=100, ge=1)
    """The newest versions of each file that are kept whatever their age; the current one always is."""
    retention_version_seconds: float = Field(default=180 * 24 * 3600.0, ge=0)
    """How long every version is kept, however many there are."""
    retention_trash_seconds: float = Field(default=90 * 24 * 3600.0, ge=0)
    """How long a deleted file or folder can be restored; then it is purged with its versions."""
    usage_history_seconds: float = Field(default=60.0, ge=0)
    """How long a measurement of what history costs is shown although something has changed since."""
    usage_history_rows: int = Field(default=10_000, ge=0)
    """Accounts with more changes than this are measured in the background only."""
    commit_record_seconds: int = Field(default=30 * 24 * 3600, ge=3600)
    """How long the outcome of a completion is kept for one that asks again."""
    epoch_refresh_seconds: float = Field(default=1.0, gt=0)
    """How long a read of the server's epoch is believed."""
