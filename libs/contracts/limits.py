"""Limits of the protocol with their defaults; services may lower or raise them by settings."""

from typing import Final

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

MAX_NAME_BYTES: Final = 255
"""Of a name in UTF-8: what ext4, XFS, Btrfs and APFS hold."""
MAX_DEPTH: Final = 128
"""Folders above a node."""
MAX_FILE_BYTES: Final = TIB
MAX_BATCH: Final = 500
"""Items in one batch request, entries of one batch session, changes of one transaction."""
MAX_PAGE: Final = 1000
MAX_OPEN_SESSIONS: Final = 1000
"""Open upload sessions of one user."""
MAX_DEVICE_NAME_BYTES: Final = 40
MAX_SYMLINK_BYTES: Final = 4095
"""Of a link's target: Linux' PATH_MAX less the final NUL."""
MIN_PASSWORD_CHARS: Final = 8
MAX_PASSWORD_CHARS: Final = 1024
MAX_BODY_BYTES: Final = 4 * MIB

BASE_PART_BYTES: Final = 10 * MIB
MAX_PARTS: Final = 9500
"""Kept under S3's 10,000 parts of one multipart upload, so that a session has room."""
S3_MIN_PART_BYTES: Final = 5 * MIB
S3_MAX_PART_BYTES: Final = 5 * GIB
SINGLE_PUT_BYTES: Final = BASE_PART_BYTES
"""Files up to this size travel in one PUT, larger ones in parts."""
MAX_DELTA_BYTES: Final = 64 * GIB
"""Of a delta object; who puts the content together reads it once, as a stream."""
PUT_BATCH_BYTES: Final = 64 * MIB
"""Payload of one batch session as the agent fills it."""
