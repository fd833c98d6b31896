"""service install, uninstall, status: the agent started at login, by systemd."""

import asyncio
import sys
from pathlib import Path

from agent.commands.context import Context
from agent.commands.folder import absolute
from agent.credentials import CredentialStore
from agent.errors import LocalError
from agent.files import write_durably
from agent.service import Systemd, by_hand, find_program, unit_for, unit_name, unit_path
from agent.settings import Settings
from agent.verdict import synced_folder


async def install(context: Context, folder: str | None) -> None:
    """Write the unit, and have systemd start it now and at every login where that can be asked."""
    _check_platform()
    CredentialStore(context.settings).require()
    wanted = synced_folder(context.settings) if folder is None else absolute(folder)
    await asyncio.to_thread(_install, context, wanted)


def _install(context: Context, folder: Path) -> None:
    unit, systemd = unit_for(context.settings, folder, find_program()), Systemd()
    write_durably(unit.path, unit.text.encode())
    enabled = systemd.answers()
    if enabled:
        systemd.enable(unit.name)
    commands = () if enabled else by_hand(unit.name)
    context.say(
        {
            "unit": unit.name,
            "path": str(unit.path),
            "folder": str(folder),
            "enabled": enabled,
            "by_hand": list(commands),
        },
        _installed_text(unit.path, folder, commands),
    )


def _installed_text(path: Path, folder: Path, commands: tuple[str, ...]) -> str:
    if not commands:
        return f"{folder} is kept in step from now on, and from every login ({path})."
    lines = [f"{path} is written. systemd cannot be asked from here; run by hand:"]
    return "\n".join([*lines, *(f"  {command}" for command in commands)])


async def uninstall(context: Context) -> None:
    """Stop the unit and remove it; nothing is done when there is none."""
    _check_platform()
    await asyncio.to_thread(_uninstall, context)


def _uninstall(context: Context) -> None:
    name, path = _unit(context.settings)
    systemd, installed = Systemd(), path.exists()
    asked = installed and systemd.answers()
    if asked:
        systemd.disable(name)
    path.unlink(missing_ok=True)
    if asked:
        systemd.reload()
    context.say(
        {"unit": name, "path": str(path), "removed": installed, "stopped": asked},
        f"{path} is removed." if installed else f"{path} is not there.",
    )


async def status(context: Context) -> None:
    """Show whether the unit is there, starts at login, and runs."""
    _check_platform()
    await asyncio.to_thread(_status, context)


def _status(context: Context) -> None:
    name, path = _unit(context.settings)
    systemd = Systemd()
    asked = systemd.answers()
    enabled = systemd.says("is-enabled", name) if asked else "unknown"
    active = systemd.says("is-active", name) if asked else "unknown"
    context.say(
        {"unit": name, "path": str(path), "installed": path.exists(), "enabled": enabled, "active": active},
        f"{name}: {'installed' if path.exists() else 'not installed'}, {enabled}, {active}",
    )


def _unit(settings: Settings) -> tuple[str, Path]:
    name = unit_name(settings.folder)
    return name, unit_path(name)


def _check_platform() -> None:
    if not sys.platform.startswith("linux"):
        raise LocalError("Starting at login is done by systemd, on Linux only", code="unsupported_platform")
