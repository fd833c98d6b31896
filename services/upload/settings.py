"""Settings of the upload service."""

from pydantic import Field

from libs.contracts.limits import (
    BASE_PART_BYTES,
    MAX_DELTA_BYTES,
    MAX_FILE_BYTES,
    MAX_OPEN_SESSIONS,
    S3_MIN_PART_BYTES,
    SINGLE_PUT_BYTES,
)
from libs.runtime.settings import BusSettings, MongoSettings, ProcessSettings, S3Settings, TokenSettings

_DAY = 24 * 3600.0


class Settings(ProcessSettings, MongoSettings, BusSettings, S3Settings, TokenSettings):
    """Read once in `__main__`."""

    single_put_bytes: int = Field(default=SINGLE_PUT_BYTES, ge=0)
    """Files up to this size travel in one PUT, larger ones in parts."""
    part_bytes: int = Field(default=BASE_PART_BYTES, ge=S3_MIN_PART_BYTES)
    """The smallest part that is chosen; parts grow with the file and the client's throughput."""
    max_file_bytes: int = Field(default=MAX_FILE_BYTES, ge=0, le=MAX_FILE_BYTES)
    max_open_sessions: int = Field(default=MAX_OPEN_SESSIONS, ge=1)
    """Of one user."""
    quota_bytes: int | None = Field(default=None, ge=0)
    """Bytes each user may hold, open sessions included; none by default."""
    max_delta_bytes: int = Field(default=MAX_DELTA_BYTES, ge=0, le=MAX_FILE_BYTES)
    """Largest delta object; a content that differs by more is sent whole. 0: no deltas are taken. It travels
    as a file of its size does, in one PUT or in parts."""
    delta_wait_seconds: float = Field(default=900.0, ge=0)
    """How long nothing may be heard of a device that sends a delta in parts before another device, that
    cannot help with it, sends the same content in its own way."""
    max_compositions: int = Field(default=2, ge=1)
    """Contents up to 4 GiB put together from a delta at once, and one larger beside them; each holds some
    four parts in memory."""
    session_seconds: float = Field(default=7 * _DAY, gt=0)
    """How long an open session lives without being touched."""
    stored_session_seconds: float = Field(default=3600.0, gt=0)
    """The same of one for which nothing has to be sent: it can be opened again for nothing."""
    keep_seconds: float = Field(default=7 * _DAY, gt=0)
    """How long an ended session can still be read, so that a lost answer can be asked for again."""
    commit_wait: float = Field(default=5.0, ge=0)
    """Seconds a completing request waits for the commit before it is answered 202."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """How long the process that joins the parts is believed to be alive without a sign of it."""
    redrive_seconds: float = Field(default=60.0, ge=0)
    """Age at which a commit that nobody answered is announced again; each further time it is twice as long,
    up to 15 minutes."""
    s3_trust_checksums: bool | None = None
    """Whether S3 refuses bytes that do not have the SHA-256 that their URL is bound to.

    When absent, this is found by trying, at the start. Where S3 does not, whole objects count as
    unverified until the janitor has read and hashed them, and digests of parts are not given out.
    """
