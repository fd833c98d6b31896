"""What S3's errors mean to Lockstep: the driver's exceptions as ours."""

from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from libs.contracts.errors import LockstepError, NotFoundError, UnavailableError
from libs.storage.port import UploadGoneError

P = ParamSpec("P")
T = TypeVar("T")

GONE: Final = {"404", "NoSuchKey", "NotFound"}
NO_KEY: Final = {"NoSuchKey"}
"""A 404 that says no more may come from something in front of S3, and is no reason to give bytes up."""
NO_UPLOAD: Final = {"NoSuchUpload"}
BEYOND_END: Final = {"InvalidRange"}
REPLACED: Final = {"PreconditionFailed", "412"}
"""Another object than the one that was meant."""
BAD_PART: Final = {"InvalidPart", "BadDigest"}
"""What sending parts again can cure; other refusals mean that this S3 does not join as Lockstep asks."""


def code_of(error: ClientError) -> str:
    """Return the code that S3 gave, or ""."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def translated(error: Exception) -> LockstepError:
    """Map a driver's error: 4xx that S3 means becomes `NotFoundError` or "internal"."""
    if isinstance(error, ClientError):
        code = code_of(error)
        if code in NO_KEY:
            return NotFoundError("There is no such object")
        if code in NO_UPLOAD:
            return UploadGoneError()
        if code in REPLACED:
            return NotFoundError("There is another object now")
        vague = code in {"", *GONE} or _status(error) in {403, 408, 429}
        if 400 <= _status(error) < 500 and not vague:
            return LockstepError(f"S3 refused the request: {code}")
    return UnavailableError("S3 does not answer", retry_after=2)


def translate(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Return a call of the driver with its errors as ours."""

    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except (ClientError, BotoCoreError) as error:
            raise translated(error) from error

    return wrapped
