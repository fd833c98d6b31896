"""The table of every public endpoint.

The gateway forwards by it, each service serves its rows of it, the OpenAPI document is made of it.
"""

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from libs.contracts import api, tree


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter; `kind` is a JSON schema type."""

    name: str
    kind: str = "string"
    required: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method on one path of `/v1`. `codes` are those beside the ones every endpoint has."""

    name: str
    method: str
    path: str
    service: str
    summary: str
    request: type[BaseModel] | None = None
    reply: type[BaseModel] | None = None
    status: int = 200
    auth: bool = True
    query: tuple[Query, ...] = ()
    codes: tuple[str, ...] = ()
    stream: bool = False
    """Whether the answer is an unbounded stream of server-sent events."""


COMMON_CODES: Final = ("invalid_request", "payload_too_large", "rate_limited", "unavailable", "internal")
AUTH_CODES: Final = ("unauthenticated", "token_expired", "device_revoked")

_PAGE: Final = (
    Query("cursor", doc="Where the last page ended."),
    Query("limit", "integer", doc="Items of a page, at most 1,000."),
)
_NAMESPACE: Final = Query("namespace_id", doc="The caller's root namespace when absent.")
_COMMIT_CODES: Final = (
    "not_found",
    "version_conflict",
    "name_taken",
    "parent_deleted",
    "node_deleted",
    "not_a_folder",
    "not_a_file",
    "object_gone",
    "quota_exceeded",
    "bytes_missing",
    "parts_missing",
    "upload_not_open",
    "committed_elsewhere",
    "delta_refused",
    "upload_failed",
    "depth_exceeded",
)
_OP_CODES: Final = (
    "not_found",
    "name_taken",
    "id_taken",
    "parent_deleted",
    "node_deleted",
    "node_moved",
    "not_a_folder",
    "cycle",
    "depth_exceeded",
    "version_conflict",
    "subtree_changed",
)

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint(
        "register", "POST", "/v1/auth/register", "gateway", "Create an account and link this device",
        api.Credentials, api.Tokens, status=201, auth=False,
        codes=("email_taken", "weak_password", "invalid_name"),
    ),
    Endpoint(
        "login", "POST", "/v1/auth/login", "gateway", "Link this device to an account",
        api.Credentials, api.Tokens, auth=False, codes=("invalid_credentials", "invalid_name"),
    ),
    Endpoint(
        "refresh", "POST", "/v1/auth/refresh", "gateway", "Trade the refresh token for new tokens",
        api.RefreshRequest, api.Tokens, auth=False,
        codes=("refresh_invalid", "refresh_reused", "device_revoked"),
    ),
    Endpoint("logout", "POST", "/v1/auth/logout", "gateway", "Unlink this device", status=204),
    Endpoint(
        "change_password", "POST", "/v1/auth/password", "gateway", "Change the password",
        api.PasswordChange, status=204, codes=("invalid_credentials", "weak_password"),
    ),
    Endpoint(
        "delete_account", "DELETE", "/v1/account", "gateway", "Delete the account and everything in it",
        api.AccountDeletion, status=204, codes=("invalid_credentials",),
    ),
    Endpoint("list_devices", "GET", "/v1/devices", "gateway", "List the linked devices", None, api.Devices),
    Endpoint(
        "revoke_device", "DELETE", "/v1/devices/{device_id}", "gateway", "Revoke a device",
        status=204, codes=("not_found",),
    ),
    Endpoint(
        "create_upload", "POST", "/v1/uploads", "upload", "Open, or join, an upload session",
        api.UploadRequest, api.Upload, status=201,
        codes=(
            "not_found",
            "file_too_large",
            "quota_exceeded",
            "too_many_sessions",
            "verification_pending",
            "delta_under_way",
        ),
    ),
    Endpoint(
        "create_upload_batch", "POST", "/v1/uploads/batch", "upload", "Open a session of many small files",
        api.UploadBatchRequest, api.Upload, status=201,
        codes=("not_found", "file_too_large", "quota_exceeded", "too_many_sessions"),
    ),
    Endpoint(
        "list_uploads", "GET", "/v1/uploads", "upload", "List upload sessions", None, api.Uploads,
        query=(
            Query("state", doc="`open` (open, completing, committing) or `all`; `open` when absent."),
            Query("content_hash", doc="Only sessions of this content."),
            *_PAGE,
        ),
    ),
    Endpoint(
        "get_upload", "GET", "/v1/uploads/{upload_id}", "upload", "Show a session with the parts S3 holds",
        None, api.Upload, codes=("not_found",),
    ),
    Endpoint(
        "upload_urls", "POST", "/v1/uploads/{upload_id}/urls", "upload", "Presign parts or entries",
        api.UrlsRequest, api.UrlsReply,
        codes=("not_found", "part_digest_fixed", "upload_not_open", "upload_changed"),
    ),
    Endpoint(
        "record_parts", "POST", "/v1/uploads/{upload_id}/parts", "upload", "Record parts as sent",
        api.PartsRequest, api.Upload,
        codes=("not_found", "part_digest_fixed", "parts_missing", "upload_not_open", "upload_changed"),
    ),
    Endpoint(
        "complete_upload", "POST", "/v1/uploads/{upload_id}/complete", "upload",
        "Commit the bytes of a session of one file; 202 when it takes longer",
        tree.CommitTarget, api.CompleteReply, codes=_COMMIT_CODES,
    ),
    Endpoint(
        "complete_upload_batch", "POST", "/v1/uploads/{upload_id}/complete-batch", "upload",
        "Commit entries of a batch session; 202 when it takes longer",
        api.CompleteBatch, api.CompleteReply, codes=_COMMIT_CODES,
    ),
    Endpoint(
        "abort_upload", "DELETE", "/v1/uploads/{upload_id}", "upload", "Give a session up",
        status=204, codes=("not_found", "commit_pending"),
    ),
    Endpoint(
        "download", "GET", "/v1/files/{node_id}/download", "download", "Presign a read of a file",
        None, api.Download,
        query=(
            Query("version", doc="A version's id; the current one when absent."),
            Query("redirect", doc="`1`: answer 302 to the bytes, as an attachment."),
        ),
        codes=("not_found", "not_a_file", "object_gone"),
    ),
    Endpoint(
        "download_delta", "GET", "/v1/files/{node_id}/delta", "download",
        "Show how a version is made of ranges of another one", None, api.DownloadDelta,
        query=(
            Query("from", doc="The version whose bytes the client has."),
            Query("to", doc="The version wanted; the current one when absent."),
            Query("base", doc="The file that `from` is a version of; this one when absent."),
        ),
        codes=("not_found", "not_a_file", "object_gone", "no_delta"),
    ),
    Endpoint(
        "part_digests", "GET", "/v1/files/{node_id}/parts", "download",
        "Show the digests of the parts in which a file was sent", None, api.PartDigests,
        query=(
            Query("version", doc="A version's id; the current one when absent."),
            Query("first", "integer", doc="Number of the page's first part, from 1."),
            Query("limit", "integer", doc="Parts of a page, at most 1,000."),
        ),
        codes=("not_found", "not_a_file", "object_gone"),
    ),
    Endpoint(
        "download_batch", "POST", "/v1/downloads/batch", "download", "Presign reads of many files",
        api.DownloadBatchRequest, api.DownloadBatchReply,
    ),
    Endpoint(
        "list_files", "GET", "/v1/files", "metadata",
        "Show the node at a path (`path`), or list a folder (`parent`)", None, api.Page,
        query=(
            Query("path", doc="The node at this path; its row is the one item."),
            Query("parent", doc="A folder's id, or the namespace's for the root."),
            _NAMESPACE, *_PAGE,
        ),
        codes=("not_found", "not_a_folder", "invalid_name"),
    ),
    Endpoint(
        "get_file", "GET", "/v1/files/{node_id}", "metadata", "Show a node", None, tree.NodeRow,
        codes=("not_found",),
    ),
    Endpoint(
        "create_folder", "POST", "/v1/folders", "metadata", "Make a folder",
        api.FolderRequest, tree.NodeRow, status=201, codes=(*_OP_CODES, "invalid_name"),
    ),
    Endpoint(
        "move_file", "PATCH", "/v1/files/{node_id}", "metadata", "Move or rename a node",
        api.MoveRequest, tree.NodeRow, codes=(*_OP_CODES, "invalid_name"),
    ),
    Endpoint(
        "delete_file", "DELETE", "/v1/files/{node_id}", "metadata", "Delete a node", None, tree.NodeRow,
        query=(
            Query("version_id", doc="Files: the version that was seen."),
            Query("seen_seq", "integer", doc="Folders and links: the sequence number seen."),
        ),
        codes=_OP_CODES,
    ),
    Endpoint(
        "tree_batch", "POST", "/v1/files/batch", "metadata", "Carry out up to 500 operations",
        tree.TreeBatch, tree.BatchResults, codes=("invalid_name",),
    ),
    Endpoint(
        "list_versions", "GET", "/v1/files/{node_id}/versions", "metadata", "List the versions of a file",
        None, api.Versions, query=_PAGE, codes=("not_found", "not_a_file"),
    ),
    Endpoint(
        "restore_version", "POST", "/v1/files/{node_id}/restore", "metadata", "Make an old version current",
        api.RestoreVersion, tree.NodeRow,
        codes=("not_found", "not_a_file", "version_conflict", "node_deleted", "object_gone",
               "parent_deleted"),
    ),
    Endpoint(
        "list_trash", "GET", "/v1/trash", "metadata", "List deleted nodes, last deleted first",
        None, api.Trash,
        query=(_NAMESPACE, *_PAGE),
    ),
    Endpoint(
        "restore_trash", "POST", "/v1/trash/{node_id}/restore", "metadata", "Bring a deleted node back",
        None, tree.NodeRow, codes=("not_found", "parent_deleted"),
    ),
    Endpoint("usage", "GET", "/v1/usage", "metadata", "Show the bytes used", None, api.Usage),
    Endpoint(
        "sync", "GET", "/v1/sync", "metadata", "Read the change feed", None, api.SyncPage,
        query=(
            Query("cursor", doc="Where the last page ended; absent: from the start."),
            Query("changed_since", doc="RFC 3339 time: every node changed at or after it."),
            Query("limit", "integer", doc="Rows of a page, at most 1,000."),
        ),
        codes=("cursor_expired", "epoch_changed"),
    ),
    Endpoint(
        "events", "GET", "/v1/events", "notification", "Be pushed changes (server-sent events)",
        stream=True,
        query=(Query("cursor", doc="As `Last-Event-ID`, for clients that cannot set headers."),),
    ),
)  # fmt: skip

BY_NAME: Final[dict[str, Endpoint]] = {endpoint.name: endpoint for endpoint in ENDPOINTS}


def served_by(service: str) -> list[Endpoint]:
    """Return the endpoints of one service."""
    return [endpoint for endpoint in ENDPOINTS if endpoint.service == service]
