"""Settings: frozen typed objects, read once in `__main__` from `LOCKSTEP_*` and passed down.

A service's `settings.py` combines the groups below; nothing else reads the environment.
"""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class _Group(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="LOCKSTEP_", frozen=True, extra="ignore")


class ProcessSettings(_Group):
    """Every process: where it listens and how it logs."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, lt=65536)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    max_body_bytes: int = 4 * 1024 * 1024
    shutdown_timeout: float = 10.0
    """Seconds that running requests get at a stop."""


class MongoSettings(_Group):
    """MongoDB. Options such as `w=majority` and `retryWrites` belong to the URL."""

    mongo_url: SecretStr
    mongo_database: str = "lockstep"
    mongo_timeout: float = 5.0
    """Seconds until an operation that finds no server counts as unavailable."""


class BusSettings(_Group):
    """RabbitMQ."""

    amqp_url: SecretStr
    amqp_prefix: str = "lockstep"
    """Prefix of exchange and queue names."""
    amqp_prefetch: int = Field(default=20, ge=1, le=20)
    amqp_retry_delays: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0, 600.0)
    """Seconds; one retry queue each. After the last, a message is dead-lettered."""
    amqp_publish_timeout: float = 5.0
    outbox_sweep_interval: float = 2.0
    """Seconds between sweeps for events that were not relayed at once."""
    outbox_sweep_age: float = 2.0
    """Seconds that the happy path has before a sweep takes an event over."""


class S3Settings(_Group):
    """S3. `s3_public_endpoint` is the address that presigned URLs carry."""

    s3_endpoint: str
    s3_public_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_bucket: str = "lockstep"
    s3_access_key: SecretStr
    s3_secret_key: SecretStr
    s3_url_seconds: int = Field(default=900, ge=10, le=900)
    """How long a presigned URL is valid; at most 15 minutes."""
    s3_timeout: float = 30.0
    """Seconds to wait for an answer of S3."""
    s3_check_owner: bool = True
    """Whether a bucket is marked as one deployment's, and refused by every other. Only tests turn it off."""
    s3_complete_timeout: float = 600.0
    """Seconds that completing a multipart upload may take."""


class TokenSettings(_Group):
    """Signing of access tokens and of the services' own calls."""

    token_secret: SecretStr = Field(min_length=32)
    access_token_seconds: int = 900
    auth_cache_seconds: float = Field(default=5.0, ge=0, le=5.0)
    """How long rows of devices and members are believed."""
