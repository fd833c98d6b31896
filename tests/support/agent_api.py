"""An agent's API client against a scripted server: quick settings, linked credentials, replies."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.credentials import CredentialStore, DeviceCredentials
from agent.remote import Api, open_api
from agent.settings import Settings
from agent.transfer import Transfer, open_transfer
from tests.support.scripted import ScriptedServer

USER, DEVICE, NAMESPACE = "a" * 24, "b" * 24, "c" * 24
NODE, VERSION, UPLOAD = "1" * 24, "2" * 24, "3" * 24
AT = "2026-11-23T12:00:00Z"


def quick_settings(home: Path, **changes: Any) -> Settings:
    """Settings that give up soon, so that tests of giving up are short."""
    quick: dict[str, Any] = {
        "connect_timeout": 2.0,
        "request_timeout": 2.0,
        "first_contact_seconds": 0.3,
        "retry_seconds": 3.0,
        "rate_limit_seconds": 5.0,
        "stall_seconds": 0.5,
        "transfer_retry_seconds": 3.0,
        "heartbeat_seconds": 0.2,
        "push_retry_cap": 0.05,
        "commit_poll_cap": 0.05,
    }
    return Settings(home=home, **{**quick, **changes})


def link(settings: Settings, server: str, **changes: Any) -> DeviceCredentials:
    """Keep credentials of a linked device."""
    credentials = DeviceCredentials(
        server=server,
        access_token="access-1",
        expires_at=time.time() + 900,
        refresh_token="refresh-1",
        user_id=USER,
        device_id=DEVICE,
        device_name="A",
        namespace_id=NAMESPACE,
    ).model_copy(update=changes)
    CredentialStore(settings).save(credentials)
    return credentials


@asynccontextmanager
async def linked_api(server: ScriptedServer, home: Path, **changes: Any) -> AsyncIterator[Api]:
    """The API of a linked device."""
    settings = quick_settings(home, **changes)
    link(settings, server.url)
    async with open_api(settings) as api:
        yield api


@asynccontextmanager
async def linked_transfer(server: ScriptedServer, home: Path, **changes: Any) -> AsyncIterator[Transfer]:
    """Transfers of a linked device."""
    settings = quick_settings(home, **changes)
    link(settings, server.url)
    async with open_api(settings) as api, open_transfer(settings, api) as transfer:
        yield transfer


def tokens(access: str = "access-2", refresh: str = "refresh-2") -> dict[str, Any]:
    """The body of a refresh."""
    return {
        "access_token": access,
        "expires_in": 900,
        "refresh_token": refresh,
        "user_id": USER,
        "device_id": DEVICE,
        "device_name": "A",
        "namespace_id": NAMESPACE,
    }


def row(**changes: Any) -> dict[str, Any]:
    """A node's row."""
    base = {
        "id": NODE,
        "namespace_id": NAMESPACE,
        "parent_id": NAMESPACE,
        "name": "a.txt",
        "kind": "file",
        "version_id": VERSION,
        "seq": 7,
        "changed_at": AT,
    }
    return {**base, **changes}


def upload(entries: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """An upload session."""
    base = {
        "id": UPLOAD,
        "namespace_id": NAMESPACE,
        "state": "open",
        "batch": len(entries) > 1,
        "size": sum(entry["size"] for entry in entries),
        "entries": entries,
        "created_at": AT,
        "updated_at": AT,
        "expires_at": AT,
    }
    return {**base, **changes}
