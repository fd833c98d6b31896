"""Users and devices, and the rules for passwords and device names. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from libs.contracts.errors import InvalidRequestError
from libs.contracts.limits import MAX_DEVICE_NAME_BYTES, MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS
from libs.contracts.paths import check_name, name_key
from services.gateway.domain.refresh import Chain


@dataclass(frozen=True, slots=True)
class User:
    """An account."""

    id: str
    email: str
    password_hash: str
    namespace_id: str
    created_at: datetime
    namespace_ready: bool = False
    """Whether metadata has made the root namespace."""
    deleting: bool = False
    """Whether the deletion of the account was asked for; it is finished by whoever comes next."""


@dataclass(frozen=True, slots=True)
class Device:
    """A linked device."""

    id: str
    user_id: str
    namespace_id: str
    name: str
    created_at: datetime
    last_seen: datetime | None = None
    revoked_at: datetime | None = None
    refresh: Chain | None = None
    """None once revoked."""


def check_password(password: str) -> str:
    """Return a password that may be set, or raise `InvalidRequestError` "weak_password"."""
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        detail = f"A password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS:,} characters"
        raise InvalidRequestError(detail, code="weak_password")
    return password


def check_device_name(name: str) -> str:
    """Return a device's name (it becomes part of file names) or raise "invalid_name"."""
    if len(check_name(name).encode()) > MAX_DEVICE_NAME_BYTES:
        detail = f"A device's name has at most {MAX_DEVICE_NAME_BYTES} bytes"
        raise InvalidRequestError(detail, code="invalid_name")
    return name


def device_name_key(name: str) -> str:
    """Return the form by which device names of an account differ, on disks that fold case too."""
    return name_key(name).casefold()


def free_device_name(name: str, taken: Collection[str]) -> str:
    """Return `name`, or `name 2`, `name 3`, … : the first whose key is not in `taken`."""
    number = 1
    candidate = name
    while device_name_key(candidate) in taken:
        number += 1
        suffix = f" {number}"
        candidate = _cut(name, MAX_DEVICE_NAME_BYTES - len(suffix)) + suffix
    return candidate


def _cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore").rstrip()
