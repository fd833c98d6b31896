"""The one tree of errors.

    LockstepError
    ├── CallerError               the request is at fault: repeating it as it is does not help
    │   ├── InvalidRequestError   malformed, unknown fields, over a limit
    │   ├── UnauthenticatedError  no valid proof of who asks
    │   ├── NotFoundError         missing, or not yours: the same answer
    │   ├── ConflictError         the state has moved on; `extra["current"]` may hold the row
    │   ├── GoneError             a cursor that cannot be continued
    │   ├── QuotaError            no room left
    │   └── RateLimitedError      too fast: repeat after `retry_after` seconds
    └── UnavailableError          a backend is away: repeat after `retry_after` seconds

Each error carries a stable `code` from `CODES`; the HTTP status of each code stands in
the same table, which the OpenAPI document and the clients read too.
"""

from typing import Any, Final, NamedTuple


class CodeInfo(NamedTuple):
    """What a stable code means on the wire."""

    status: int
    title: str


CODES: Final[dict[str, CodeInfo]] = {
    "invalid_request": CodeInfo(400, "The request is malformed"),
    "invalid_name": CodeInfo(400, "The name cannot be used"),
    "invalid_target": CodeInfo(400, "The target does not fit the operation"),
    "too_many_items": CodeInfo(400, "The list is longer than allowed"),
    "depth_exceeded": CodeInfo(400, "The folder would be nested too deep"),
    "weak_password": CodeInfo(400, "The password is too short or too long"),
    "unauthenticated": CodeInfo(401, "A valid access token is needed"),
    "token_expired": CodeInfo(401, "The access token has expired"),
    "invalid_credentials": CodeInfo(401, "Email or password is wrong"),
    "refresh_invalid": CodeInfo(401, "The refresh token is not valid"),
    "refresh_reused": CodeInfo(401, "The refresh token was used before; the device is revoked"),
    "device_revoked": CodeInfo(401, "This device was revoked"),
    "not_found": CodeInfo(404, "There is nothing here for you"),
    "method_not_allowed": CodeInfo(405, "This method is not offered here"),
    "conflict": CodeInfo(409, "The state does not allow this"),
    "version_conflict": CodeInfo(409, "The file has a newer version"),
    "name_taken": CodeInfo(409, "The name is in use"),
    "id_taken": CodeInfo(409, "The identifier is in use"),
    "parent_deleted": CodeInfo(409, "The folder was deleted"),
    "node_deleted": CodeInfo(409, "The item was deleted"),
    "node_moved": CodeInfo(409, "The item is no longer where the request says"),
    "subtree_changed": CodeInfo(409, "Something below the folder has changed"),
    "cycle": CodeInfo(409, "A folder cannot be moved into itself"),
    "not_a_folder": CodeInfo(409, "The parent is not a folder"),
    "not_a_file": CodeInfo(409, "The item is not a file"),
    "object_gone": CodeInfo(409, "The stored bytes are gone; send them again"),
    "part_digest_fixed": CodeInfo(409, "The digest of this part was given before and differs"),
    "parts_missing": CodeInfo(409, "Parts are missing or differ from what was announced"),
    "bytes_missing": CodeInfo(409, "The bytes have not arrived"),
    "upload_not_open": CodeInfo(409, "The upload session is not open"),
    "committed_elsewhere": CodeInfo(409, "The session's bytes were committed at another place"),
    "delta_under_way": CodeInfo(409, "Another device is sending this content as a difference"),
    "upload_changed": CodeInfo(409, "What travels of this upload is another object now: open it again"),
    "delta_refused": CodeInfo(409, "The delta does not give the content that was announced"),
    "no_delta": CodeInfo(409, "There is no delta between these versions"),
    "verification_pending": CodeInfo(409, "The same content is here and is being verified"),
    "upload_failed": CodeInfo(409, "The upload session has failed for good"),
    "commit_pending": CodeInfo(409, "The commit is still under way"),
    "email_taken": CodeInfo(409, "An account with this email exists"),
    "cursor_expired": CodeInfo(410, "The cursor is too old: list again from the start"),
    "epoch_changed": CodeInfo(410, "The server was restored: list again from the start"),
    "payload_too_large": CodeInfo(413, "The request body is too large"),
    "file_too_large": CodeInfo(413, "The file is larger than allowed"),
    "quota_exceeded": CodeInfo(413, "There is no room left in this account"),
    "too_many_sessions": CodeInfo(429, "Too many open upload sessions"),
    "rate_limited": CodeInfo(429, "Too many requests"),
    "internal": CodeInfo(500, "The server failed"),
    "unavailable": CodeInfo(503, "The server cannot do this right now"),
}
"""Every stable code: HTTP status and title. Codes are added, never changed."""


class LockstepError(Exception):
    """The root: `code` is a key of `CODES`, `detail` is a sentence fit for a person to read."""

    default_code = "internal"

    def __init__(self, detail: str = "", *, code: str | None = None, **extra: Any) -> None:
        self.code = code or self.default_code
        if self.code not in CODES:
            raise KeyError(self.code)
        self.detail = detail or CODES[self.code].title
        self.extra = extra
        super().__init__(f"{self.code}: {self.detail}")

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return CODES[self.code].status


class CallerError(LockstepError):
    """The request is at fault; repeating it unchanged gives the same answer."""

    default_code = "invalid_request"


class InvalidRequestError(CallerError):
    """Malformed, unknown fields, over a limit."""


class UnauthenticatedError(CallerError):
    """No valid proof of who asks."""

    default_code = "unauthenticated"


class NotFoundError(CallerError):
    """Missing, or somebody else's: the answer is the same for both."""

    default_code = "not_found"


class ConflictError(CallerError):
    """The state has moved on since the caller looked."""

    default_code = "conflict"


class GoneError(CallerError):
    """A cursor that cannot be continued."""

    default_code = "cursor_expired"


class QuotaError(CallerError):
    """There is no room left, or the file is larger than allowed."""

    default_code = "quota_exceeded"


class RateLimitedError(CallerError):
    """Too fast. `extra["retry_after"]` is in seconds."""

    default_code = "rate_limited"


class UnavailableError(LockstepError):
    """A backend or service does not answer. `extra["retry_after"]` is in seconds."""

    default_code = "unavailable"


_BY_STATUS: Final[dict[int, type[LockstepError]]] = {
    400: InvalidRequestError,
    401: UnauthenticatedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: QuotaError,
    429: RateLimitedError,
    503: UnavailableError,
}


def error_from_code(code: str, detail: str = "", **extra: Any) -> LockstepError:
    """Rebuild the error that a stored result or a problem document names.

    A code that this version does not know becomes a plain `LockstepError` "internal" whose
    detail names it.
    """
    if code not in CODES:
        return LockstepError(f"{code}: {detail}", **extra)
    kind = _BY_STATUS.get(CODES[code].status, LockstepError)
    return kind(detail, code=code, **extra)
