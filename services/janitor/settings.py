"""Settings of the janitor (`LOCKSTEP_…`)."""

from pydantic import Field

from libs.runtime.settings import BusSettings, MongoSettings, ProcessSettings, S3Settings, TokenSettings

_HOUR = 3600.0
_DAY = 24 * _HOUR


class Settings(ProcessSettings, MongoSettings, BusSettings, S3Settings, TokenSettings):
    """Everything that the janitor can be told. Intervals are in seconds."""

    upload_url: str
    metadata_url: str
    """Base URLs of the services whose housekeeping it asks for."""

    janitor_call_timeout: float = Field(default=60.0, gt=0)
    """Seconds that one housekeeping call may take."""
    janitor_lease: float = Field(default=60.0, gt=0)
    """Seconds after which another janitor takes over the jobs of one that has died."""

    janitor_expire_interval: float = Field(default=60.0, gt=0)
    """Between two rounds of expiring upload sessions."""
    janitor_redrive_interval: float = Field(default=15.0, gt=0)
    """Between two rounds of re-driving sessions that are stuck."""
    janitor_verify_interval: float = Field(default=60.0, gt=0)
    """Between two looks for objects whose verification was missed."""
    janitor_garbage_interval: float = Field(default=600.0, gt=0)
    """Between two rounds of dooming and deleting objects without a version."""
    janitor_sweep_interval: float = Field(default=6 * _HOUR, gt=0)
    """Between two sweeps of S3 for what nobody owns."""
    janitor_purge_interval: float = Field(default=600.0, gt=0)
    """Between two rounds of purging removed namespaces and what has been in the trash for too long."""
    janitor_versions_interval: float = Field(default=_DAY, gt=0)
    """Between two looks at the history of all files for versions that retention does not keep."""
    janitor_usage_interval: float = Field(default=6 * _HOUR, gt=0)
    """Between two measurements of what history costs large accounts."""
    janitor_dead_letter_interval: float = Field(default=30.0, gt=0)
    """Between two counts of dead letters."""

    sweep_grace: float = Field(default=_DAY, ge=0)
    """Age at which an unowned object or multipart upload is removed: longer than any URL lives."""
    sweep_recheck: float = Field(default=60.0, ge=0)
    """Seconds between the two looks after which an object is believed to be missing in S3."""
    epoch_quiet: float = Field(default=30 * _DAY, ge=0)
    """After a new epoch no unowned object is removed for so long: the database may lack its owner."""
    verify_concurrency: int = Field(default=2, ge=1)
    """Objects read and hashed at once."""
