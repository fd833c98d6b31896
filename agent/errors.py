"""What the agent itself finds wrong, and which exit code each error means.

The errors that the server tells are those of `libs.contracts.errors`.
"""

from enum import IntEnum
from typing import Final

from typing_extensions import override

from libs.contracts.errors import LockstepError, UnauthenticatedError, UnavailableError

AGENT_CODES: Final[dict[str, str]] = {
    "usage": "The command cannot be carried out like this",
    "unsupported_platform": "This system is not supported",
    "insecure_server": "Plain http:// is refused, except to this machine itself",
    "already_linked": "This device is linked already; sign out first with `lockstep logout`",
    "not_signed_in": "This device is not linked to an account; use `lockstep login`",
    "tls_invalid": "The server's certificate is not valid; nothing was sent",
    "not_lockstep": "What answered is not a Lockstep server",
    "changed": "The file changed while it was read",
    "unreadable": "The file cannot be read",
    "unwritable": "The file cannot be written",
    "corrupt_download": "The bytes that arrived are not those of the file",
    "other_content": "The file has another content than the upload",
    "corrupt_upload": "The bytes arrived damaged at the store several times",
    "refused_by_store": "The store refused the transfer",
    "interrupted": "Interrupted",
    "in_use": "Another command is writing the same file",
    "already_running": "Another sync or agent of this device is running",
    "home_unusable": "The agent's own folder (LOCKSTEP_HOME) cannot be used",
    "state_unwritable": "The agent's memory cannot be written",
    "state_too_new": "The state was written by a newer version of the agent",
    "state_damaged": "The state is damaged; the next sync sets it aside and observes everything anew",
    "folder_unusable": "The folder cannot be used",
    "no_folder": "No folder was synced on this device yet; use `lockstep sync FOLDER`",
    "unknown_path": "Neither server nor folder have anything at this path",
    "outside_folder": "The path is not in the synced folder",
    "no_executable": "The `lockstep` program was not found on this machine",
    "unit_impossible": "A path holds characters that a systemd unit cannot",
    "systemd_failed": "systemd refused",
}
"""Every code of the agent's own with its sentence."""


class ExitCode(IntEnum):
    """How a command ends. When several apply, `worst` says which is used."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    HALTED = 3
    NOT_SIGNED_IN = 4
    PROBLEMS = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


_PRECEDENCE: Final = (
    ExitCode.INTERRUPTED,
    ExitCode.USAGE,
    ExitCode.NOT_SIGNED_IN,
    ExitCode.HALTED,
    ExitCode.UNREACHABLE,
    ExitCode.ERROR,
    ExitCode.PROBLEMS,
    ExitCode.DONE,
)
_USAGE: Final = frozenset(
    {"usage", "insecure_server", "already_linked", "unsupported_platform", "no_folder", "outside_folder"}
)


class LocalError(LockstepError):
    """Something that this machine found; `code` is a key of `AGENT_CODES`."""

    def __init__(self, detail: str = "", *, code: str) -> None:
        super().__init__(detail or AGENT_CODES[code])
        self.code = code
        self.args = (f"{code}: {self.detail}",)

    @property
    @override
    def status(self) -> int:
        """Never answered over HTTP; the server's "internal" stands for it."""
        return 500


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code that an error means."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if not isinstance(error, LockstepError):
        return ExitCode.ERROR
    if isinstance(error, UnauthenticatedError) or error.code == "not_signed_in":
        return ExitCode.NOT_SIGNED_IN
    if isinstance(error, UnavailableError):
        return ExitCode.UNREACHABLE
    return ExitCode.USAGE if error.code in _USAGE else ExitCode.ERROR


def worst(*codes: ExitCode) -> ExitCode:
    """Return the code to exit with when several apply."""
    return min(codes, key=_PRECEDENCE.index, default=ExitCode.DONE)
