"""Housekeeping calls of the services that own the data; each may be repeated."""

from collections.abc import Sequence

from libs.contracts.internal import (
    MAX_KEYS,
    Alive,
    Check,
    Checkable,
    Checked,
    CheckParts,
    Collected,
    Forgotten,
    HousedObject,
    HousedObjects,
    KeyRange,
    Known,
    KnownObjects,
    KnownUploads,
    ObjectIds,
    Place,
    Round,
    Use,
    Uses,
    Verification,
)
from libs.web.client import ServiceClient


class Housekeeping:
    """metadata's and upload's internal endpoints. All raise `UnavailableError` when they are away."""

    def __init__(self, client: ServiceClient, *, metadata_url: str, upload_url: str) -> None:
        self._client = client
        self._metadata = f"{metadata_url.rstrip('/')}/internal"
        self._upload = f"{upload_url.rstrip('/')}/internal"

    async def expire_uploads(self) -> int:
        """Have sessions expired that were left alone for too long."""
        return await self._collect(f"{self._upload}/uploads/expire")

    async def redrive_uploads(self) -> int:
        """Have sessions that are stuck in completing or committing taken up again."""
        return await self._collect(f"{self._upload}/uploads/redrive")

    async def doom_objects(self) -> int:
        """Have objects without a version doomed."""
        return await self._collect(f"{self._metadata}/objects/doom")

    async def purge_namespaces(self) -> int:
        """Have removed namespaces purged."""
        return await self._collect(f"{self._metadata}/namespaces/purge")

    async def purge_trash(self) -> int:
        """Have what was deleted longer ago than the trash is kept removed."""
        return await self._collect(f"{self._metadata}/trash/purge")

    async def expire_versions(self, after: str | None) -> Round:
        """Have versions removed that retention does not keep, from a place on."""
        return await self._client.fetch(
            "POST", f"{self._metadata}/versions/expire", Round, Place(after=after)
        )

    async def measure_usage(self, after: str | None) -> Round:
        """Have measured what history costs large accounts, from a place on."""
        return await self._client.fetch("POST", f"{self._metadata}/usage/measure", Round, Place(after=after))

    async def doomed(self) -> list[HousedObject]:
        """Return doomed objects whose grace time is over."""
        url = f"{self._metadata}/objects/doomed?limit={MAX_KEYS}"
        return (await self._client.fetch("GET", url, HousedObjects)).items

    async def forget(self, ids: Sequence[str]) -> None:
        """Say that these are no longer in S3."""
        await self._client.call("POST", f"{self._metadata}/objects/forget", Forgotten(ids=list(ids)))

    async def unverified(self) -> list[HousedObject]:
        """Return live objects that nobody has verified yet."""
        url = f"{self._metadata}/objects/unverified?limit={MAX_KEYS}"
        return (await self._client.fetch("GET", url, HousedObjects)).items

    async def verified(self, object_id: str, *, ok: bool) -> None:
        """Report what reading an object gave."""
        url = f"{self._metadata}/objects/{object_id}/verification"
        await self._client.call("POST", url, Verification(ok=ok))

    async def known_keys(self, keys: Sequence[str]) -> set[str]:
        """Return those keys that a session or an object has.

        Sessions are asked first: one that ends in between has its object by then.
        """
        asked = KnownUploads(keys=list(keys))
        sessions = await self._client.fetch("POST", f"{self._upload}/uploads/known", Known, asked)
        objects = await self._client.fetch(
            "POST", f"{self._metadata}/objects/known", Known, KnownObjects(keys=list(keys))
        )
        return {*sessions.keys, *objects.keys}

    async def between(self, after: str, up_to: str | None) -> list[HousedObject]:
        """Return live, not corrupt objects with after < key ≤ up_to, by key; at most `MAX_KEYS`."""
        url = f"{self._metadata}/objects/between"
        return (
            await self._client.fetch("POST", url, HousedObjects, KeyRange(after=after, up_to=up_to))
        ).items

    async def uses(self, ids: Sequence[str]) -> list[Use]:
        """Return the versions that have these objects."""
        asked = ObjectIds(ids=list(ids))
        return (await self._client.fetch("POST", f"{self._metadata}/objects/uses", Uses, asked)).items

    async def alive(self, ids: Sequence[str]) -> set[str]:
        """Return those of the objects that have a document."""
        asked = ObjectIds(ids=list(ids))
        return set((await self._client.fetch("POST", f"{self._metadata}/objects/alive", Alive, asked)).ids)

    async def check(self, what: Checkable, after: str | None, *, repair: bool) -> Checked:
        """Have metadata look at a part of what it keeps."""
        asked = Check(what=what, after=after, repair=repair)
        return await self._client.fetch("POST", f"{self._metadata}/check", Checked, asked)

    async def check_parts(self, after: str | None, *, repair: bool) -> Checked:
        """Have upload look for rows of parts whose session is gone."""
        asked = CheckParts(after=after, repair=repair)
        return await self._client.fetch("POST", f"{self._upload}/uploads/check-parts", Checked, asked)

    async def known_multiparts(self, s3_upload_ids: Sequence[str]) -> set[str]:
        """Return those multipart uploads that belong to a session."""
        asked = KnownUploads(s3_upload_ids=list(s3_upload_ids))
        known = await self._client.fetch("POST", f"{self._upload}/uploads/known", Known, asked)
        return set(known.s3_upload_ids)

    async def _collect(self, url: str) -> int:
        return (await self._client.fetch("POST", url, Collected)).done
