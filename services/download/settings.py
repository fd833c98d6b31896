"""Settings of the download service."""

from libs.runtime.settings import BusSettings, MongoSettings, ProcessSettings, S3Settings, TokenSettings


class Settings(ProcessSettings, MongoSettings, BusSettings, S3Settings, TokenSettings):
    """Read once in `__main__`."""
