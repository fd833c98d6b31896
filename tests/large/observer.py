"""What the server and S3 say while an agent is at work; asked as another device of the account."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from botocore.exceptions import ClientError
from pymongo import MongoClient

from libs.contracts.keys import OBJECTS_PREFIX
from libs.mongo.names import OBJECTS
from tests.support.devices import Device
from tests.support.s3_client import s3_client
from tests.support.stack import Stack


@dataclass(frozen=True, slots=True)
class Sent:
    """A part at S3: when it was put tells whether it was put again."""

    size: int
    put_at: datetime


class Observer:
    """Reads only. Its tokens are renewed when they have expired: a run takes longer than they live."""

    def __init__(self, device: Device, stack: Stack, s3_folder: Path) -> None:
        self._device = device
        self._env = stack.env
        self._s3_folder = s3_folder

    def get(self, path: str) -> Any:
        """Ask the API."""
        try:
            return self._device.get(path)
        except HTTPError as error:
            if error.code != 401:
                raise
        self._device.ask("usage")
        return self._device.get(path)

    def session(self) -> dict[str, Any] | None:
        """The account's upload session that was opened last."""
        items = self.get("/v1/uploads?state=all")["items"]
        found: dict[str, Any] | None = items[0] if items else None
        return found

    def parts(self) -> dict[int, Sent]:
        """The parts that S3 holds of the one multipart upload, asked at S3 itself; none once it is joined."""
        try:
            return self._parts(s3_client(self._env), self._env["LOCKSTEP_S3_BUCKET"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            return {}

    def _parts(self, client: Any, bucket: str) -> dict[int, Sent]:
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        if not uploads:
            return {}
        if len(uploads) > 1:
            raise AssertionError(f"S3 knows {len(uploads)} multipart uploads, not one")
        pages = client.get_paginator("list_parts").paginate(
            Bucket=bucket, Key=uploads[0]["Key"], UploadId=uploads[0]["UploadId"]
        )
        return {
            part["PartNumber"]: Sent(part["Size"], part["LastModified"])
            for page in pages
            for part in page.get("Parts", [])
        }

    def objects(self) -> list[int]:
        """The sizes of users' objects in the bucket, manifests left out."""
        listing = s3_client(self._env).get_paginator("list_objects_v2")
        pages = listing.paginate(Bucket=self._env["LOCKSTEP_S3_BUCKET"], Prefix=OBJECTS_PREFIX)
        return [item["Size"] for page in pages for item in page.get("Contents", [])]

    def stored_bytes(self) -> int:
        """What S3's data take of the disk, so also what was sent twice or broken off."""
        return sum(path.stat().st_blocks * 512 for path in self._s3_folder.rglob("*.dat") if path.is_file())

    def verified(self) -> bool:
        """Whether the janitor has read and hashed all that is stored."""
        with MongoClient[dict[str, Any]](self._env["LOCKSTEP_MONGO_URL"]) as client:
            objects = list(client[self._env["LOCKSTEP_MONGO_DATABASE"]][OBJECTS].find({}))
        return bool(objects) and all(item["verified"] for item in objects)
