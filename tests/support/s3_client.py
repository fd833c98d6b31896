"""The S3 of a stack, asked without the services."""

from collections.abc import Mapping
from typing import Any

from botocore.client import Config
from botocore.session import get_session


def s3_client(env: Mapping[str, str]) -> Any:
    """A blocking client with the credentials of a stack's settings."""
    return get_session().create_client(
        "s3",
        endpoint_url=env["LOCKSTEP_S3_ENDPOINT"],
        region_name=env["LOCKSTEP_S3_REGION"],
        aws_access_key_id=env["LOCKSTEP_S3_ACCESS_KEY"],
        aws_secret_access_key=env["LOCKSTEP_S3_SECRET_KEY"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
