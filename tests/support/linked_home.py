"""A LOCKSTEP_HOME as a linked device leaves it, without any server."""

from pathlib import Path

from agent.credentials import CredentialStore, DeviceCredentials
from agent.settings import Choices, Settings, save_choices

ROOT_ID = "a" * 24
"""The namespace of the account."""


def linked_home(home: Path, folder: Path | None) -> Settings:
    """Make the home of a device "A" whose folder is `folder`; its server is nowhere."""
    settings = Settings(home=home)
    credentials = DeviceCredentials(
        server="http://127.0.0.1:9",
        access_token="access",
        expires_at=0.0,
        refresh_token="refresh",
        user_id="b" * 24,
        device_id="c" * 24,
        device_name="A",
        namespace_id=ROOT_ID,
    )
    CredentialStore(settings).save(credentials)
    if folder is not None:
        save_choices(settings, Choices(server=credentials.server, folder=str(folder)))
    return settings
