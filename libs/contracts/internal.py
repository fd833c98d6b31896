"""Calls between services (`/internal/…`, a service's token needed). Not part of the public API."""

from typing import Annotated, Final, Literal

from pydantic import Field

from libs.contracts.base import Reply, Request
from libs.contracts.ids import Id, Sha256

MAX_KEYS: Final = 1000
"""Keys or ids in one housekeeping call."""

KeyList = Annotated[list[str], Field(max_length=MAX_KEYS)]


class NamespaceCreation(Request):
    """gateway → metadata, `POST /internal/namespaces`: make a user's root namespace (idempotent)."""

    namespace_id: Id
    user_id: Id


class NamespaceRemoval(Request):
    """gateway → metadata, `DELETE /internal/namespaces/{namespace_id}`: the account is deleted."""

    user_id: Id


class Verification(Request):
    """janitor → metadata, `POST /internal/objects/{object_id}/verification`.

    `ok`: every byte was read and the hash of the whole equals the claim.
    """

    ok: bool


class Collected(Reply):
    """How many things an internal housekeeping call dealt with; 0: nothing is left for now."""

    done: int


class Place(Request):
    """janitor → metadata, `POST /internal/versions/expire` and `POST /internal/usage/measure`.

    From where to go on; None: from the start.
    """

    after: Id | None = None


class Round(Reply):
    """One step of a walk through everything: what it dealt with, and where to go on; None: at the end."""

    done: int
    next: Id | None = None


class HousedObject(Reply):
    """An S3 object as housekeeping sees it."""

    id: Id
    key: str
    size: int
    content_hash: Sha256


class HousedObjects(Reply):
    """metadata's `GET /internal/objects/doomed?limit=` and `GET /internal/objects/unverified?limit=`.

    Doomed: those whose grace time is over, so S3 may delete them. Unverified: live ones whose
    whole hash nobody has checked yet.
    """

    items: list[HousedObject]


class KeyRange(Request):
    """janitor → metadata, `POST /internal/objects/between`: live objects with after < key ≤ up_to, by key.

    At most `MAX_KEYS` at once; corrupt ones are left out.
    """

    after: str
    up_to: str | None = None
    """None: to the end."""


class ObjectIds(Request):
    """janitor → metadata, `POST /internal/objects/uses` and `POST /internal/objects/alive`."""

    ids: Annotated[list[Id], Field(max_length=MAX_KEYS)]


class Use(Reply):
    """A version that has an object."""

    object_id: Id
    version_id: Id
    node_id: Id


class Uses(Reply):
    """The versions that have the objects asked for."""

    items: list[Use]


class Alive(Reply):
    """Those of the objects asked for that have a document, live or doomed."""

    ids: list[Id]


Checkable = Literal["nodes", "versions", "objects", "usage"]


class Check(Request):
    """janitor → metadata, `POST /internal/check`: look at a part of what it keeps, from a place on.

    With `repair`, what can be repaired without losing anything is.
    """

    what: Checkable
    after: Id | None = None
    repair: bool = False


class CheckParts(Request):
    """janitor → upload, `POST /internal/uploads/check-parts`: rows of parts whose session is gone."""

    after: Id | None = None
    repair: bool = False


class Finding(Reply):
    """Something that should not be so: a stable kind, and the id or key of what it is about."""

    kind: str
    id: str
    detail: str = ""
    repaired: bool = False


class Checked(Reply):
    """One step of a check: how many were looked at, what was found, where to go on; None: at the end."""

    seen: int
    findings: list[Finding] = []
    next: Id | None = None


class Forgotten(Request):
    """janitor → metadata, `POST /internal/objects/forget`: these are no longer in S3."""

    ids: Annotated[list[Id], Field(max_length=MAX_KEYS)]


class KnownObjects(Request):
    """janitor → metadata, `POST /internal/objects/known`: which of these keys are an object's?"""

    keys: KeyList


class KnownUploads(Request):
    """janitor → upload, `POST /internal/uploads/known`: which may a session still need?"""

    keys: KeyList = []
    s3_upload_ids: KeyList = []


class Known(Reply):
    """Those of the asked that are known; the others are unowned."""

    keys: list[str] = []
    s3_upload_ids: list[str] = []
