"""Settings of the gateway (`LOCKSTEP_…`)."""

from pydantic import Field

from libs.runtime.settings import BusSettings, MongoSettings, ProcessSettings, TokenSettings


class Settings(ProcessSettings, MongoSettings, BusSettings, TokenSettings):
    """Everything that the gateway can be told."""

    upload_url: str
    download_url: str
    metadata_url: str
    notification_url: str
    """Base URLs of the services behind."""

    forward_timeout: float = 60.0
    """Seconds that a service may take for an answer; streams have no limit."""
    forward_connect_timeout: float = 3.0
    """Seconds until a service that takes no connection counts as unavailable."""

    rate_device_per_minute: int = Field(default=3000, ge=1)
    """Requests of one device."""
    rate_address_per_minute: int = Field(default=600, ge=1)
    """Requests of one address that carry no valid token."""
    rate_signin_per_minute: int = Field(default=60, ge=1)
    """Attempts to register, to sign in or to give a password, of one address."""
    trusted_proxies: int = Field(default=0, ge=0)
    """How many reverse proxies stand in front and append to `X-Forwarded-For`."""

    argon2_time_cost: int = Field(default=3, ge=1)
    argon2_memory_kib: int = Field(default=65536, ge=1024)
    argon2_parallelism: int = Field(default=4, ge=1)
    """Cost of a password's hash: the second profile of RFC 9106 by default."""
    argon2_concurrency: int = Field(default=2, ge=1)
    """Passwords hashed at once; each takes `argon2_memory_kib`."""

    last_seen_interval: float = 60.0
    """Seconds between two writes of a device's `last_seen`."""
