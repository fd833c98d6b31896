"""Reading on where a reading broke off."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from libs.contracts.errors import UnavailableError
from libs.contracts.recipe import Range
from libs.runtime.logs import get_logger
from libs.storage.port import ObjectStore

log = get_logger("steady")


async def read_on(
    objects: ObjectStore, key: str, wanted: Range, *, etag: str | None = None
) -> AsyncGenerator[bytes, None]:
    """Stream a range as `ObjectStore.read` does, begun again where it breaks off.

    Between two literals gigabytes can be copied, and no S3 keeps a stream open for ever to one who
    does not read; what takes hours must not start over for one broken connection. Raises
    `UnavailableError` when a new beginning brings nothing: then S3 is away.
    """
    at = wanted.offset
    while at < wanted.end:
        began = at
        try:
            async with aclosing(objects.read(key, at, wanted.end - at, etag=etag)) as pieces:
                async for piece in pieces:
                    at += len(piece)
                    yield piece
        except UnavailableError:
            if at == began:
                raise
            log.warning("a reading broke off and is begun again", key=key, offset=at)
        else:
            return
