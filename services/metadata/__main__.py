"""`python -m services.metadata` serves; `python -m services.metadata new-epoch` begins a new epoch."""

import asyncio
import sys
from datetime import UTC, datetime

from libs.mongo.client import open_database
from libs.runtime import logs
from libs.runtime.settings import MongoSettings
from libs.web.app import run
from services.metadata.app import SERVICE, build_app
from services.metadata.settings import Settings
from services.metadata.store.namespaces import EpochStore


def main(arguments: list[str]) -> None:
    """Serve until told to stop, or carry the named command out."""
    if arguments == ["new-epoch"]:
        sys.stdout.write(f"{asyncio.run(new_epoch(MongoSettings()))}\n")
    elif arguments:
        sys.exit(f"unknown arguments: {' '.join(arguments)}; the only command is new-epoch")
    else:
        serve()


def serve() -> None:
    settings = Settings()
    logs.configure(level=settings.log_level, style=settings.log_format, service=SERVICE)
    run(build_app(settings), settings)


async def new_epoch(settings: MongoSettings) -> int:
    """Begin a new epoch and return it: the last step of a restore from a backup."""
    async with open_database(settings) as database:
        return await EpochStore(database).renew(datetime.now(UTC))


if __name__ == "__main__":
    main(sys.argv[1:])
