"""why, plan, ignored: what the agent knows and would do, with nothing done."""

import asyncio

from agent.commands.context import Context
from agent.commands.folder import absolute
from agent.credentials import CredentialStore
from agent.errors import ExitCode
from agent.preview import preview
from agent.verdict import judge_ignored
from agent.why import explain


async def why(context: Context, path: str) -> int:
    """Say why a path is in step or not."""
    credentials = CredentialStore(context.settings).require()
    found = await asyncio.to_thread(explain, context.settings, credentials, path)
    context.say(found.as_json(), found.as_text())
    return found.exit_code


async def plan(context: Context, folder: str) -> int:
    """Show what a sync would do."""
    CredentialStore(context.settings).require()
    async with context.api() as api:
        found = await preview(context.settings, api, absolute(folder))
    context.say(found.as_json(), found.as_text())
    return found.exit_code


async def ignored(context: Context, path: str) -> int:
    """Say whether a rule leaves a path alone."""
    found = await asyncio.to_thread(judge_ignored, context.settings, path)
    context.say(found.as_json(), found.as_text())
    return ExitCode.DONE
