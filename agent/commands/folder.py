"""sync, start, status, events: what concerns the synced folder."""

import asyncio
import os
from pathlib import Path

from agent.app import read_status, run_agent, run_sync
from agent.commands.context import Context, until_interrupted
from agent.commands.output import print_error
from agent.credentials import CredentialStore
from agent.errors import ExitCode
from agent.progress import ProgressBar
from agent.settings import Choices, save_choices
from agent.status import SyncReport


async def sync(context: Context, folder: str, *, allow_mass_delete: bool) -> int:
    """Run once until in step."""
    path = _folder(context, folder)
    with ProgressBar() as bar:
        report = await run_sync(context.settings, path, allow_mass_delete=allow_mass_delete, on_progress=bar)
    return _say_report(context, report)


async def start(context: Context, folder: str) -> int:
    """Keep a folder in step until interrupted, or until the device is no longer linked."""
    path = _folder(context, folder)
    report = await until_interrupted(run_agent(context.settings, path))
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
    """Return the absolute folder and remember it for `status`; the device must be linked."""
    credentials = CredentialStore(context.settings).require()
    path = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
    save_choices(context.settings, Choices(server=credentials.server, folder=str(path)))
    return path


async def status(context: Context) -> int:
    """Show what this device knows, without asking the server."""
    known = await asyncio.to_thread(read_status, context.settings)
    context.say(known.as_json(), known.as_text())
    return known.exit_code
