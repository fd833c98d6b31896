"""Indexes of the service's collections."""

from typing import Final

from pymongo import ASCENDING, IndexModel

from libs.mongo.names import UPLOAD_PARTS, UPLOADS, outbox_of
from libs.mongo.schema import Migration, create_indexes

_ONE_LIVE_SESSION: Final = IndexModel(
    [("dedupe_key", ASCENDING)], name="one_live_session", unique=True, sparse=True
)
"""The key is there only while a session is open, completing or committing, and never for batches.

Sparse and not partial: the embedded default answers queries from a partial index by a scan.
"""

MIGRATIONS: Final[tuple[Migration, ...]] = (
    create_indexes(
        UPLOADS,
        [
            _ONE_LIVE_SESSION,
            IndexModel([("user_id", ASCENDING), ("state", ASCENDING)], name="of_user"),
            IndexModel([("user_id", ASCENDING), ("created_at", ASCENDING)], name="newest_of_user"),
            IndexModel([("state", ASCENDING), ("expires_at", ASCENDING)], name="expiring"),
            IndexModel([("state", ASCENDING), ("updated_at", ASCENDING)], name="stuck"),
            IndexModel([("state", ASCENDING), ("lease.until", ASCENDING)], name="lapsed"),
            IndexModel([("key_prefix", ASCENDING)], name="owner_of_key"),
            IndexModel([("s3_upload_id", ASCENDING)], name="owner_of_multipart"),
        ],
    ),
    create_indexes(UPLOAD_PARTS, [IndexModel([("upload_id", ASCENDING)], name="of_upload")]),
    create_indexes(outbox_of("upload"), [IndexModel([("created_at", ASCENDING)], name="waiting")]),
    create_indexes(UPLOADS, [IndexModel([("delta_upload_id", ASCENDING)], name="owner_of_delta")]),
)
