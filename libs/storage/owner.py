"""Which deployment a bucket belongs to: a mark in it, so that no two ever clean up after each other.

What a deployment does not know it takes for garbage. Two on one bucket would delete each other's
files, and so would one with an empty database on the bucket of its predecessor.
"""

from typing import Final

from libs.contracts.errors import NotFoundError
from libs.storage.port import ObjectStore

MARK: Final = "deployment"
"""The key of the mark; beside the prefixes that are swept."""
_LONGEST: Final = 64


class ForeignBucketError(RuntimeError):
    """The bucket is marked as another deployment's."""


async def owner_of(objects: ObjectStore) -> str | None:
    """Return the deployment that the bucket is marked with; None when it has no mark."""
    try:
        content = b"".join([piece async for piece in objects.read(MARK)])
    except NotFoundError:
        return None
    return content[:_LONGEST].decode("ascii", errors="replace")


async def claim(objects: ObjectStore, deployment: str) -> None:
    """Mark a bucket without a mark. Raises `ForeignBucketError`, `UnavailableError`.

    RACE: two new deployments may write their marks in the same instant and one may read its own before
    the other's comes. Harmless: the mark that stays is looked at again before every sweep.
    """
    if await owner_of(objects) is None:
        await objects.put(MARK, deployment.encode("ascii"))
    found = await owner_of(objects)
    if found != deployment:
        raise ForeignBucketError(foreign(found, deployment))


def foreign(found: str | None, deployment: str | None) -> str:
    """Return what to say of a bucket with another deployment's mark."""
    return (
        f"the bucket belongs to deployment {found}, this is {deployment or 'a new one'}: "
        "use a bucket for each deployment. "
        f"If this database replaces that of {found} for good, delete the object {MARK!r} in the bucket"
    )
