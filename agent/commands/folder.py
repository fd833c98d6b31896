"""sync, start, status, pause, resume: what concerns the synced folder."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Final

from agent.app import read_status, run_agent, run_sync
from agent.commands.context import Context, until_interrupted
from agent.commands.output import print_error
from agent.credentials import CredentialStore
from agent.errors import ExitCode
from agent.lock import is_locked, nudge
from agent.progress import ProgressBar
from agent.settings import Settings
from agent.state import PHASE, memory_errors, read_meta, set_paused
from agent.status import SyncReport

_SETTLE_SECONDS: Final = 5.0
"""How long `pause` waits for the running agent to rest."""
_LOOK_SECONDS: Final = 0.02


async def sync(context: Context, folder: str, *, allow_mass_delete: bool) -> int:
    """Run once until in step."""
    path = _folder(context, folder)
    with ProgressBar() as bar:
        report = await run_sync(context.settings, path, allow_mass_delete=allow_mass_delete, on_progress=bar)
    return _say_report(context, report)


async def start(context: Context, folder: str, *, allow_mass_delete: bool) -> int:
    """Keep a folder in step until interrupted, or until the device is no longer linked."""
    path = _folder(context, folder)
    agent = run_agent(context.settings, path, allow_mass_delete=allow_mass_delete)
    report = await until_interrupted(agent)
    if report is not None:
        return _say_report(context, report)
    context.say({"stopped": True}, None)
    return ExitCode.DONE


def _say_report(context: Context, report: SyncReport) -> int:
    context.say(report.as_json(), report.as_text())
    if report.failure is not None:
        print_error(report.failure.code, report.failure.detail, as_json=context.as_json)
    return report.exit_code


def _folder(context: Context, folder: str) -> Path:
    """Return the absolute folder; the device must be linked."""
    CredentialStore(context.settings).require()
    return absolute(folder)


def absolute(path: str) -> Path:
    """Return a path from the root of the file system, links kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


async def status(context: Context) -> int:
    """Show what this device knows, without asking the server."""
    known = await asyncio.to_thread(read_status, context.settings)
    context.say(known.as_json(), known.as_text())
    return known.exit_code


async def pause(context: Context) -> None:
    """Have this device rest until `resume`; a running agent stops at once and keeps listening."""
    await _rest(context, paused=True)


async def resume(context: Context) -> None:
    """Go on after `pause`."""
    await _rest(context, paused=False)


async def _rest(context: Context, *, paused: bool) -> None:
    CredentialStore(context.settings).require()
    settings = context.settings
    with memory_errors():
        await asyncio.to_thread(set_paused, settings.state_path, paused=paused)
        running = nudge(settings.nudge_path) or is_locked(settings.lock_path)
        settled = not (running and paused) or await _rests(settings)
    context.say(
        {"paused": paused, "running": running, "settled": settled},
        _rest_text(paused=paused, running=running, settled=settled),
    )


async def _rests(settings: Settings) -> bool:
    """Wait a moment for the running agent to say that it rests; return whether it did."""
    end = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < end:
        said = await asyncio.to_thread(read_meta, settings.state_path, PHASE)
        if said is not None and json.loads(said).get("phase") in {"paused", "stopped"}:
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False


def _rest_text(*, paused: bool, running: bool, settled: bool) -> str:
    if not paused:
        return "Resumed." if running else "Resumed; the agent is not running."
    if not running:
        return "Paused; the agent is not running."
    return "Paused." if settled else "Paused; the agent finishes what it is looking at first."
