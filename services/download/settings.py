"""Settings of the download service."""

from pydantic import Field

from libs.contracts.limits import MIB
from libs.runtime.settings import BusSettings, MongoSettings, ProcessSettings, S3Settings, TokenSettings


class Settings(ProcessSettings, MongoSettings, BusSettings, S3Settings, TokenSettings):
    """Read once in `__main__`."""

    manifest_cache_bytes: int = Field(default=64 * MIB, ge=0)
    """Memory for manifests that were asked for last: 1 GiB of content has some 1.3 MB of it."""
    small_manifest_bytes: int = Field(default=16 * MIB, ge=0)
    """Contents up to this size are read when a delta is asked for and their manifest is not there yet."""
    max_recipe_bytes: int = Field(default=MIB, ge=0)
    """Largest recipe that is sent; versions that differ in more places are fetched whole."""
