"""What an S3 can do beyond storing: the facts, and what Lockstep does without them. Pure.

Vendors differ, and releases of one vendor too. Amazon S3 refuses a body that does not have the
checksum its header names, with BadDigest (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html).
MinIO did not look at it in presigned requests before 2022 (https://github.com/storacha/w3infra/issues/72),
RustFS did not in its betas (https://github.com/rustfs/rustfs/issues/4341), Ceph knows the header
since https://github.com/ceph/ceph/pull/55076. MinIO lists multipart uploads by their exact key
only (https://github.com/minio/minio/issues/20989). So what is there is found by trying.
"""

from dataclasses import asdict, dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found; each is True where S3 did what Lockstep would like."""

    put_checksums: bool
    """A presigned PUT with other bytes than its signed SHA-256 names is refused."""
    part_checksums: bool
    """The same for a part of a multipart upload."""
    lengths: bool
    """A body of another length than the signed one is refused."""
    conditional_writes: bool
    """`If-None-Match: *` refuses to replace an object."""
    ranges: bool
    """A Range of a presigned read is answered 206 with its Content-Range."""
    cors: bool
    """Any web page may send and read by presigned requests."""
    cors_etag: bool
    """Web pages may see the ETag of what they sent."""
    part_listing: bool
    """ListParts tells every part, and only those that were accepted."""
    joining: bool
    """Parts are joined when they are named with their SHA-256."""
    copying: bool
    """Parts of a multipart upload can be ranges of another object, of which a certain ETag is required."""
    multi_delete: bool
    """Several objects are deleted in one request, and each is said to be gone."""
    multipart_listing: bool
    """Running multipart uploads are listed by a prefix of their key."""
    abort: bool
    """An aborted multipart upload is gone."""

    def facts(self) -> dict[str, bool]:
        """Return name → fact."""
        return asdict(self)

    def consequences(self) -> dict[str, str]:
        """Return what is missing → what that means here."""
        return {name: _WITHOUT[name] for name, there in self.facts().items() if not there}


_WITHOUT: Final = {
    "put_checksums": "objects count as unverified until the janitor has read and hashed them",
    "part_checksums": "no digests of parts are given to readers; damaged parts are found by the janitor only",
    "lengths": "a client can send more bytes than it announced; completing refuses them afterwards",
    "conditional_writes": "none today: every key is random and written once",
    "ranges": "downloads cannot be resumed and take no part of a file alone",
    "cors": "programs in web browsers can neither send nor read files",
    "cors_etag": "programs in web browsers cannot see the ETag of a part",
    "part_listing": "resuming and completing large files is not safe: use another S3",
    "joining": "files that travel in parts cannot be committed: use another S3",
    "copying": "of a file that was edited the upload service sends S3 every byte, not only the new ones",
    "multi_delete": "the janitor deletes objects one by one, which takes longer",
    "multipart_listing": "the sweep finds no abandoned multipart uploads: have S3 expire them after 8 days",
    "abort": "parts of sessions that were given up take space until S3 expires them",
}
