"""The device's tokens on disk: replaced as a whole, refreshed by one process at a time.

A new token is durable before it is used: the server lets the previous refresh token live until
its successor is used once, so a crash at any point leaves a token that works.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import LocalError
from agent.files import sync_folder, write_durably
from agent.settings import Settings
from libs.contracts.api import Tokens
from libs.contracts.ids import Id

_LOCK_POLL = 0.05


class DeviceCredentials(BaseModel):
    """What a linked device keeps. Tokens never show in a `repr`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    server: str
    access_token: str = Field(repr=False)
    expires_at: float
    """When the access token ends, in seconds since 1970 by this machine's clock."""
    refresh_token: str = Field(repr=False)
    user_id: Id
    device_id: Id
    device_name: str
    namespace_id: Id

    @staticmethod
    def of(server: str, tokens: Tokens) -> "DeviceCredentials":
        """Return what to keep of the server's answer, received now."""
        return DeviceCredentials(
            server=server,
            access_token=tokens.access_token,
            expires_at=time.time() + tokens.expires_in,
            refresh_token=tokens.refresh_token,
            user_id=tokens.user_id,
            device_id=tokens.device_id,
            device_name=tokens.device_name,
            namespace_id=tokens.namespace_id,
        )


class CredentialStore:
    """`credentials.json` and the lock beside it."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.credentials_path
        self._lock_path = settings.credentials_lock_path
        self._patience = settings.credentials_lock_seconds

    def load(self) -> DeviceCredentials | None:
        """Return the credentials, or None when the device is not linked.

        Raises `LocalError` "not_signed_in" when the file is there but cannot be used.
        """
        try:
            return DeviceCredentials.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            message = f"{self._path} cannot be used; sign in again after removing it"
            raise LocalError(message, code="not_signed_in") from error

    def require(self) -> DeviceCredentials:
        """Return the credentials or raise `LocalError` "not_signed_in"."""
        credentials = self.load()
        if credentials is None:
            raise LocalError(code="not_signed_in")
        return credentials

    def save(self, credentials: DeviceCredentials) -> None:
        """Replace the credentials; they are durable when this returns."""
        write_durably(self._path, credentials.model_dump_json().encode())

    def remove(self) -> None:
        """Forget the credentials; missing ones count as forgotten."""
        self._path.unlink(missing_ok=True)
        if self._path.parent.is_dir():
            sync_folder(self._path.parent)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Be the only process, and the only task, that changes the credentials.

        Raises `LocalError` "unwritable" when another holds the lock for too long.
        """
        self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await self._acquire(handle)
            yield
        finally:
            os.close(handle)

    async def _acquire(self, handle: int) -> None:
        deadline = time.monotonic() + self._patience
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise LocalError(f"{self._lock_path} is held by another process", code="unwritable")
            await asyncio.sleep(_LOCK_POLL)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_server(url: str) -> str:
    """Return a server's URL without a final slash.

    Raises `LocalError` "insecure_server" for plain http to any other machine, "usage" for what
    is no URL of a server.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise LocalError("The server must be a URL such as https://lockstep.example.org", code="usage")
    if parts.scheme == "http" and not is_loopback(host):
        raise LocalError(code="insecure_server")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine itself: localhost, 127.0.0.0/8 or ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
