"""The agent's settings: `LOCKSTEP_HOME` and `LOCKSTEP_AGENT_*`, read once and passed down.

`LOCKSTEP_HOME` is one device with one synced folder; everything the agent keeps is in it.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_dir
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent.errors import LocalError
from agent.files import write_durably
from agent.rates import parse_rate
from libs.contracts.limits import GIB


def default_home() -> Path:
    """Return the home of the device of who set none: the platform's user data folder."""
    return Path(user_data_dir("lockstep", appauthor=False))


def _rate(value: Any) -> Any:
    """Return a text as `parse_rate` reads it."""
    if not isinstance(value, str):
        return value
    try:
        return parse_rate(value)
    except LocalError as error:
        raise ValueError(error.detail) from error


class Settings(BaseSettings):
    """Paths, limits and times. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="LOCKSTEP_AGENT_",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
    )

    home: Path = Field(default_factory=default_home, validation_alias="LOCKSTEP_HOME")
    """One device: settings, credentials, state."""

    poll_seconds: float = 300.0
    """Between readings of the feed when nothing was pushed."""
    rescan_seconds: float = 3600.0
    """Between full scans by stat."""
    unwatched_seconds: float = 10.0
    """Between full scans where the system has no watches left."""
    rewatch_seconds: float = 300.0
    """Between tries to watch again there."""
    changing_looks: int = Field(default=5, ge=1)
    """How often one `sync` looks again at files that were just written; two seconds apart while
    they change."""
    rehash_days: float = 7.0
    """Within this time every file's content is read again."""
    trash_days: float = 30.0
    """How long files that the server deleted are kept in `.lockstep/trash`."""

    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """What goes to standard error; unset: "info" for `start`, "error" for other commands."""

    connect_timeout: float = 5.0
    """To open a connection."""
    request_timeout: float = 60.0
    """For one answer of the server."""
    first_contact_seconds: float = 4.0
    """How long a server that has not answered yet in this process is tried."""
    retry_seconds: float = 30.0
    """How long a call is repeated while the server is away or busy."""
    rate_limit_seconds: float = Field(default=900.0, ge=0)
    """How long a call waits in all for a server that says (429) that it is asked too often."""
    commit_wait_seconds: float = 900.0
    """How long a commit that was accepted (202) is waited for."""
    verification_wait_seconds: float = 600.0
    """How long a large file whose content the server is just verifying is not sent: then it need not be."""
    commit_poll_cap: float = 2.0
    """The longest pause between two looks at a commit under way."""
    refresh_margin_seconds: float = 20.0
    """An access token that expires sooner is refreshed before it is used."""
    credentials_lock_seconds: float = 60.0
    """How long another process may hold the credentials."""

    stall_seconds: float = 30.0
    """A transfer that moves no byte for so long is started again."""
    transfer_retry_seconds: float = 60.0
    """How long transfers are repeated while none succeeds."""
    transfer_attempts: int = Field(default=12, ge=1)
    """Tries of one file or part."""
    small_parallel: int = Field(default=8, ge=1, le=64)
    """Small files at once, in each direction."""
    part_parallel: int = Field(default=8, ge=1, le=8)
    """Parts of large files at once, at most, in each direction; how many are depends on what it brings."""
    delta: bool = True
    """Whether of an edited large file only the difference travels, where that saves half or more."""
    spool_bytes: int = Field(default=16 * GIB, ge=0)
    """Disk that delta objects may take in `spool` of the home until they are sent; what needs more is sent
    whole."""
    url_batch: int = Field(default=8, ge=1, le=500)
    """Part URLs fetched at once, just in time."""

    limit_up: Annotated[float, BeforeValidator(_rate)] = Field(default=0.0, ge=0)
    """Bytes a second to the store, over all connections; 0: no limit."""
    limit_down: Annotated[float, BeforeValidator(_rate)] = Field(default=0.0, ge=0)
    """Bytes a second from the store, over all connections; 0: no limit."""

    heartbeat_seconds: float = 15.0
    """The server's heartbeat on the push channel; 2.5 of them without a byte is a dead connection."""
    push_retry_cap: float = 30.0
    """The longest pause before the push channel is opened again."""

    @property
    def folder(self) -> Path:
        """`home` as an absolute path."""
        return Path(os.path.abspath(self.home.expanduser()))  # noqa: PTH100 - resolve() would follow links

    @property
    def credentials_path(self) -> Path:
        """The device's tokens, mode 0600."""
        return self.folder / "credentials.json"

    @property
    def credentials_lock_path(self) -> Path:
        """Locked while tokens are refreshed, so that two processes do not refresh at once."""
        return self.folder / "credentials.lock"

    @property
    def state_path(self) -> Path:
        """The SQLite database; losing it loses no file and no sign-in."""
        return self.folder / "state.db"

    @property
    def lock_path(self) -> Path:
        """Locked by the one `sync` or `start` of this home."""
        return self.folder / "lock"

    @property
    def nudge_path(self) -> Path:
        """The pipe by which other commands tell the running agent to look at the memory."""
        return self.folder / "nudge"

    @property
    def choices_path(self) -> Path:
        """What the user chose once: `Choices`."""
        return self.folder / "settings.json"


class Choices(BaseModel):
    """What the user chose once and every command may know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    server: str | None = None
    folder: str | None = None
    """The synced folder, absolute."""


def read_settings() -> Settings:
    """Read the environment. Raises `LocalError` "usage" that names the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        names = ", ".join(str(item["loc"][0]).upper() for item in error.errors())
        raise LocalError(f"Wrong setting in the environment: {names}", code="usage") from error


def read_choices(settings: Settings) -> Choices:
    """Return the choices; a file that is missing or damaged holds none."""
    try:
        return Choices.model_validate_json(settings.choices_path.read_bytes())
    except (OSError, ValidationError):
        return Choices()


def save_choices(settings: Settings, choices: Choices) -> None:
    """Keep the choices durably."""
    write_durably(settings.choices_path, choices.model_dump_json().encode())
