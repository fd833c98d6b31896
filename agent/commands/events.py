"""events: what the server pushes."""

from agent.commands.context import Context, until_interrupted
from agent.commands.output import print_line, to_json
from agent.errors import ExitCode
from agent.push import Connected, Disconnected, Push, as_object, pushes
from libs.contracts.api import PushChanges, PushHeads, PushRevoked, PushUpload
from libs.contracts.errors import UnauthenticatedError, UnavailableError


async def events(context: Context) -> int:
    """Print what the server pushes, until interrupted."""
    await until_interrupted(_follow(context))
    return ExitCode.DONE


async def _follow(context: Context) -> None:
    async with context.api() as api:
        connected = False
        async for push in pushes(api, context.settings, lambda: None):
            connected = connected or isinstance(push, Connected)
            if isinstance(push, Disconnected) and not connected:
                raise UnavailableError(push.detail)
            _print_push(push, as_json=context.as_json)
            if isinstance(push, PushRevoked):
                raise UnauthenticatedError(code="device_revoked")


def _print_push(push: Push, *, as_json: bool) -> None:
    value = as_object(push)
    if value is None:
        return
    for line in [to_json(value)] if as_json else _lines(push):
        print_line(line)


def _lines(push: Push) -> list[str]:
    match push:
        case PushChanges():
            return [
                f"{row.seq}\t{'deleted' if row.deleted else row.kind.value}\t{row.device or ''}\t{row.name}"
                for row in push.rows
            ]
        case PushUpload():
            return [f"upload {push.state.value} {push.parts_done}/{push.parts_total} {push.path}"]
        case PushHeads():
            return [f"connected, head {max(push.heads.values(), default=0)}"]
        case PushRevoked():
            return ["this device was revoked"]
        case _:
            return []
