"""One more upload service beside a world's own, as a process that can be killed or stopped."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from deploy.local import commands
from services.upload.settings import Settings
from tests.support.processes import Server, free_ports
from tests.support.reaper import Reaper


@asynccontextmanager
async def upload_process(settings: Settings) -> AsyncIterator[Server]:
    """Run a process with these settings, ready; its URL is `url_of`'s.

    Waits beside the loop: what the process needs may run in it.
    """
    reaper = Reaper()
    try:
        folder = Path(tempfile.mkdtemp(prefix="lockstep-upload-"))
        reaper.remove(folder)
        server = Server(commands.service("upload", free_ports(1), environment(settings)), folder, reaper)
        try:
            server.start()
            await asyncio.to_thread(server.wait_ready)
            yield server
        finally:
            await asyncio.to_thread(server.kill)
    finally:
        reaper.close()


def url_of(server: Server) -> str:
    """The base URL of the process."""
    return f"http://{commands.HOST}:{server.command.ports[0]}"


def environment(settings: Settings) -> dict[str, str]:
    """The settings as the process reads them."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set - {"port", "host"}}
    return {f"LOCKSTEP_{name.upper()}": _text(value) for name, value in given.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if isinstance(value, str) else json.dumps(value)
