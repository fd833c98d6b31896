"""register, login, logout, devices, usage."""

import asyncio
import getpass
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from agent.commands.context import Context
from agent.credentials import CredentialStore, DeviceCredentials, check_server
from agent.errors import LocalError
from agent.remote import open_api
from agent.status import human_size, stamp
from libs.contracts.api import Device, Usage
from libs.contracts.errors import UnauthenticatedError
from libs.contracts.limits import MAX_DEVICE_NAME_BYTES
from libs.contracts.paths import cut_to_bytes, name_problem

Verb = Literal["register", "login"]


@dataclass(frozen=True, slots=True)
class SignIn:
    """Who signs in, and how the device is to be called (None: as the machine)."""

    email: str
    password: str = field(repr=False)
    device: str | None


async def link(context: Context, verb: Verb, server: str, who: SignIn) -> None:
    """Create an account or sign in to one, and keep the device's tokens.

    Raises `LocalError` "already_linked": one home is one device.
    """
    url, store = check_server(server), CredentialStore(context.settings)
    async with store.locked():
        if _is_linked(store):
            raise LocalError(code="already_linked")
        async with open_api(context.settings, server=url) as api:
            ask = api.register if verb == "register" else api.login
            tokens = await ask(who.email, who.password, who.device or default_device_name())
        credentials = DeviceCredentials.of(url, tokens)
        await asyncio.to_thread(store.save, credentials)
    public = credentials.model_dump(include={"server", "user_id", "device_id", "device_name", "namespace_id"})
    context.say(public, f"This device is linked as {credentials.device_name}.")


def _is_linked(store: CredentialStore) -> bool:
    """Whether there are credentials that can be used; damaged ones may be replaced."""
    with suppress(LocalError):
        return store.load() is not None
    return False


async def logout(context: Context) -> None:
    """Unlink this device; files stay where they are.

    Tokens that the server does not know any more count as unlinked.
    """
    store = CredentialStore(context.settings)
    device = store.require()
    with suppress(UnauthenticatedError):
        async with context.api() as api:
            await api.logout()
    async with store.locked():
        await asyncio.to_thread(store.remove)
    context.say({"device_id": device.device_id, "linked": False}, "This device is not linked any more.")


async def devices(context: Context) -> None:
    """List the devices of the account."""
    async with context.api() as api:
        reply = await api.devices()
    context.table([_device(item) for item in reply.items], ("id", "name", "current", "last_seen", "revoked"))


async def revoke(context: Context, device_id: str) -> None:
    """Revoke a device: its tokens are refused from now on; its files stay on it."""
    async with context.api() as api:
        await api.revoke(device_id)
    context.say({"id": device_id, "revoked": True}, "The device is revoked.")


async def usage(context: Context) -> None:
    """Show the bytes used, and what history costs of them."""
    async with context.api() as api:
        used = await api.usage()
    quota = "no quota" if used.quota_bytes is None else f"of {human_size(used.quota_bytes)}"
    reserved = f", {human_size(used.reserved_bytes)} reserved by open uploads" if used.reserved_bytes else ""
    context.say(
        used.model_dump(mode="json"),
        f"{human_size(used.used_bytes)} used in {used.files:,} files, {quota}{reserved}{_history(used)}",
    )


def _history(used: Usage) -> str:
    """Return the lines about what history costs; nothing where it has not been measured yet."""
    costs = used.history
    if costs is None:
        return ""
    rest = used.used_bytes - costs.current_bytes - costs.older_bytes - costs.deleted_bytes
    parts = [
        (costs.current_bytes, "what the files hold now"),
        (costs.older_bytes, "older versions"),
        (costs.deleted_bytes, "deleted files, in the trash"),
        (rest, "given back soon"),
    ]
    lines = [f"  {human_size(size):>10}  {what}" for size, what in parts if size > 0]
    measured = f"  {costs.versions:,} versions in {costs.objects:,} objects, {stamp(costs.measured_at)}"
    return "\n" + "\n".join([*lines, measured])


def read_password(*, from_stdin: bool) -> str:
    """Return the password: one line of standard input, or asked for at the terminal."""
    if from_stdin:
        password = sys.stdin.buffer.readline().decode(errors="surrogateescape").rstrip("\r\n")
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ")
    else:
        raise LocalError("Give the password with --password-stdin", code="usage")
    if not password or not password.isprintable():
        raise LocalError("The password is empty or not text", code="usage")
    return password


def default_device_name() -> str:
    """Return the machine's name as a device name."""
    name = cut_to_bytes(platform.node().partition(".")[0], MAX_DEVICE_NAME_BYTES).strip()
    return "device" if name_problem(name) else name


def _device(item: Device) -> dict[str, object]:
    return {
        "id": item.id,
        "name": item.name,
        "current": item.current,
        "last_seen": stamp(item.last_seen),
        "revoked": item.revoked,
        "created_at": stamp(item.created_at),
    }
