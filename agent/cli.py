"""The grammar of `lockstep`. What commands do is in `agent.commands`, imported when one runs."""

import sys
from typing import Annotated, Literal

import typer

EXIT_CODES = """\b
Exit codes:
  0  in step, or done           1  error
  2  usage                      3  halted by a guard
  4  not signed in              5  some paths are not in step
  6  server unreachable
"""

app = typer.Typer(
    name="lockstep",
    help="Keep a folder in step across devices.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
devices_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
trash_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
uploads_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
service_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(devices_app, name="devices", help="List the devices of the account.")
app.add_typer(trash_app, name="trash", help="List what was deleted, last deleted first.")
app.add_typer(uploads_app, name="uploads", help="List the open upload sessions of the account.")
app.add_typer(service_app, name="service", help="Start the agent at login (systemd user unit).")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Server = Annotated[str, typer.Option(help="URL of the server; plain http only to this machine itself.")]
Email = Annotated[str, typer.Option(help="Email of the account.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password as one line.")]
DeviceName = Annotated[str | None, typer.Option(help="Name of this device; the machine's when absent.")]
RemotePath = Annotated[
    str, typer.Argument(help="Path below the root; a leading / is allowed.", metavar="PATH")
]
Folder = Annotated[str, typer.Argument(help="The folder to keep in step; made when it is missing.")]
LocalPath = Annotated[
    str, typer.Argument(help="Path below the root, or an absolute one in the folder.", metavar="PATH")
]
ServiceFolder = Annotated[
    str | None, typer.Argument(help="The folder; the one that was synced last when absent.")
]
AllowMassDelete = Annotated[
    bool, typer.Option("--allow-mass-delete", help="Let a deletion of most files pass this once.")
]
LimitUp = Annotated[
    str | None,
    typer.Option(help="Bytes a second to the store, such as 500k or 2M; 0: no limit.", metavar="RATE"),
]
LimitDown = Annotated[
    str | None,
    typer.Option(help="Bytes a second from the store, such as 500k or 2M; 0: no limit.", metavar="RATE"),
]


@app.command()
def register(
    server: Server,
    email: Email,
    password_stdin: PasswordStdin = False,
    device: DeviceName = None,
    as_json: Json = False,
) -> int:
    """Create an account and link this device."""
    return _link("register", (server, email, device), password_stdin, as_json)


@app.command()
def login(
    server: Server,
    email: Email,
    password_stdin: PasswordStdin = False,
    device: DeviceName = None,
    as_json: Json = False,
) -> int:
    """Link this device to an account. A device that is linked already is refused: log out first."""
    return _link("login", (server, email, device), password_stdin, as_json)


def _link(
    verb: Literal["register", "login"], to: tuple[str, str, str | None], password_stdin: bool, as_json: bool
) -> int:
    from agent.commands import account, context

    async def link(run: context.Context) -> None:
        server, email, device = to
        password = account.read_password(from_stdin=password_stdin)
        who = account.SignIn(email=email, password=password, device=device)
        await account.link(run, verb, server, who)

    return context.run(link, as_json=as_json)


@app.command()
def logout(as_json: Json = False) -> int:
    """Unlink this device. Files stay where they are."""
    from agent.commands import account, context

    return context.run(account.logout, as_json=as_json)


@app.command()
def sync(
    folder: Folder,
    allow_mass_delete: AllowMassDelete = False,
    limit_up: LimitUp = None,
    limit_down: LimitDown = None,
    as_json: Json = False,
) -> int:
    """Run once in both directions until in step; waits for its commits."""
    from agent.commands import context
    from agent.commands import folder as commands

    return context.run(
        lambda run: commands.sync(run, folder, allow_mass_delete=allow_mass_delete),
        as_json=as_json,
        limits=(limit_up, limit_down),
    )


@app.command()
def start(
    folder: Folder,
    allow_mass_delete: AllowMassDelete = False,
    limit_up: LimitUp = None,
    limit_down: LimitDown = None,
    as_json: Json = False,
) -> int:
    """Keep a folder in step until interrupted (in the foreground)."""
    from agent.commands import context
    from agent.commands import folder as commands

    return context.run(
        lambda run: commands.start(run, folder, allow_mass_delete=allow_mass_delete),
        as_json=as_json,
        log_level="info",
        limits=(limit_up, limit_down),
    )


@app.command()
def status(as_json: Json = False) -> int:
    """Show what this device knows, without asking the server. 0 only when in step as last seen."""
    from agent.commands import context
    from agent.commands import folder as commands

    return context.run(commands.status, as_json=as_json)


@app.command()
def pause(as_json: Json = False) -> int:
    """Have this device rest until `resume`; a running agent stops at once. Holds over restarts."""
    from agent.commands import context
    from agent.commands import folder as commands

    return context.run(commands.pause, as_json=as_json)


@app.command()
def resume(as_json: Json = False) -> int:
    """Go on after `pause`, with everything that came meanwhile."""
    from agent.commands import context
    from agent.commands import folder as commands

    return context.run(commands.resume, as_json=as_json)


@app.command()
def why(path: LocalPath, as_json: Json = False) -> int:
    """Say why a path is in step or not, without asking the server. 0 when it is, or is ignored."""
    from agent.commands import context, explain

    return context.run(lambda run: explain.why(run, path), as_json=as_json)


@app.command()
def plan(folder: Folder, as_json: Json = False) -> int:
    """Show what a sync would do; nothing is changed. 0 when there is nothing to do."""
    from agent.commands import context, explain

    return context.run(lambda run: explain.plan(run, folder), as_json=as_json)


@app.command()
def ignored(path: LocalPath, as_json: Json = False) -> int:
    """Say whether a rule leaves a path alone, and which. The path need not be there."""
    from agent.commands import context, explain

    return context.run(lambda run: explain.ignored(run, path), as_json=as_json)


@app.command()
def ls(path: RemotePath = "/", as_json: Json = False) -> int:
    """List a remote folder, or show one file."""
    from agent.commands import context, tree

    return context.run(lambda run: tree.ls(run, path), as_json=as_json)


@app.command()
def get(
    remote: Annotated[str, typer.Argument(help="A remote file.")],
    local: Annotated[str, typer.Argument(help="A file, a folder to put it in, or - for standard output.")],
    version: Annotated[str | None, typer.Option(help="A version's id; the current one when absent.")] = None,
    limit_up: LimitUp = None,
    limit_down: LimitDown = None,
    as_json: Json = False,
) -> int:
    """Fetch a file. It appears under its name only when it is whole and verified.

    Killed or interrupted, the same command goes on with what has arrived.
    """
    from agent.commands import context
    from agent.commands import get as fetching

    return context.run(
        lambda run: fetching.get(run, remote, local, version), as_json=as_json, limits=(limit_up, limit_down)
    )


@app.command()
def put(
    local: Annotated[str, typer.Argument(help="A local file.")],
    remote: Annotated[str, typer.Argument(help="Its remote path, or a folder that is there.")],
    limit_up: LimitUp = None,
    limit_down: LimitDown = None,
    as_json: Json = False,
) -> int:
    """Send a file. A remote file that is there gets a new version; the folder must be there."""
    from agent.commands import content, context

    return context.run(
        lambda run: content.put(run, local, remote), as_json=as_json, limits=(limit_up, limit_down)
    )


@app.command()
def mv(
    source: Annotated[str, typer.Argument(help="A remote file or folder.")],
    target: Annotated[str, typer.Argument(help="Its new path, or a folder to move it into.")],
    as_json: Json = False,
) -> int:
    """Move or rename on the server. A file that is replaced goes to the trash."""
    from agent.commands import context, tree

    return context.run(lambda run: tree.mv(run, source, target), as_json=as_json)


@app.command()
def rm(path: RemotePath, as_json: Json = False) -> int:
    """Delete on the server; a folder goes with everything in it. `trash restore` brings it back."""
    from agent.commands import context, tree

    return context.run(lambda run: tree.rm(run, path), as_json=as_json)


@app.command()
def versions(path: RemotePath, as_json: Json = False) -> int:
    """List the versions of a file, newest first."""
    from agent.commands import context, tree

    return context.run(lambda run: tree.versions(run, path), as_json=as_json)


@app.command()
def restore(
    path: RemotePath, version: Annotated[str, typer.Option(help="The version's id.")], as_json: Json = False
) -> int:
    """Make an old version of a file current again, as a new version."""
    from agent.commands import context, tree

    return context.run(lambda run: tree.restore(run, path, version), as_json=as_json)


@trash_app.callback()
def trash(context: typer.Context, as_json: Json = False) -> int:
    """List what was deleted, last deleted first."""
    if context.invoked_subcommand is not None:
        return 0
    from agent.commands import context as commands
    from agent.commands import tree

    return commands.run(tree.trash, as_json=as_json)


@trash_app.command("restore")
def trash_restore(path: RemotePath, as_json: Json = False) -> int:
    """Bring back what was deleted last at a path; a folder comes back with everything in it."""
    from agent.commands import context, tree

    return context.run(lambda run: tree.restore_trash(run, path), as_json=as_json)


@uploads_app.callback()
def uploads(context: typer.Context, as_json: Json = False) -> int:
    """List the open upload sessions of the account."""
    if context.invoked_subcommand is not None:
        return 0
    from agent.commands import content
    from agent.commands import context as commands

    return commands.run(content.uploads, as_json=as_json)


@uploads_app.command("resume")
def uploads_resume(
    upload_id: Annotated[str, typer.Argument(help="The session's id.", metavar="ID")],
    source: Annotated[str, typer.Option("--from", help="A file with the session's content.", metavar="FILE")],
    limit_up: LimitUp = None,
    limit_down: LimitDown = None,
    as_json: Json = False,
) -> int:
    """Send what a session lacks, from any file with the same content, and commit it at its path."""
    from agent.commands import content, context

    return context.run(
        lambda run: content.resume_upload(run, upload_id, source),
        as_json=as_json,
        limits=(limit_up, limit_down),
    )


@app.command()
def usage(as_json: Json = False) -> int:
    """Show the bytes used."""
    from agent.commands import account, context

    return context.run(account.usage, as_json=as_json)


@devices_app.callback()
def devices(context: typer.Context, as_json: Json = False) -> int:
    """List the devices of the account."""
    if context.invoked_subcommand is not None:
        return 0
    from agent.commands import account
    from agent.commands import context as commands

    return commands.run(account.devices, as_json=as_json)


@devices_app.command("revoke")
def devices_revoke(
    device_id: Annotated[str, typer.Argument(help="The device's id.", metavar="ID")], as_json: Json = False
) -> int:
    """Revoke a device: it is signed out within seconds, its files stay on it."""
    from agent.commands import account, context

    return context.run(lambda run: account.revoke(run, device_id), as_json=as_json)


@service_app.command("install")
def service_install(folder: ServiceFolder = None, as_json: Json = False) -> int:
    """Start the agent now and at every login."""
    from agent.commands import context, service

    return context.run(lambda run: service.install(run, folder), as_json=as_json)


@service_app.command("uninstall")
def service_uninstall(as_json: Json = False) -> int:
    """Stop the agent that `install` started, and do not start it any more."""
    from agent.commands import context, service

    return context.run(service.uninstall, as_json=as_json)


@service_app.command("status")
def service_status(as_json: Json = False) -> int:
    """Show whether the agent starts at login, and whether it runs."""
    from agent.commands import context, service

    return context.run(service.status, as_json=as_json)


@app.command()
def events(as_json: Json = False) -> int:
    """Print what the server pushes, until interrupted; with --json one object a line."""
    from agent.commands import context
    from agent.commands import events as commands

    return context.run(commands.events, as_json=as_json)


def main() -> int:
    """Run the command line and return the exit code."""
    if sys.platform == "win32":
        print("lockstep: Windows is not supported (unsupported_platform)", file=sys.stderr)
        return 2
    try:
        return int(app(standalone_mode=False) or 0)
    except Exception as error:
        if not _is_usage(error):
            raise
        return _usage_error(error)


def _is_usage(error: Exception) -> bool:
    """Whether the grammar refused the arguments: its errors have an exit code of their own."""
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _usage_error(error: Exception) -> int:
    from agent.commands.output import print_error

    message = error.format_message() if hasattr(error, "format_message") else str(error)
    as_json = "--json" in sys.argv
    if message.startswith("Usage:") and not as_json:  # no arguments at all: the help
        print(message, file=sys.stderr)
    else:
        print_error("usage", message.partition("\n")[0], as_json=as_json)
    return 2
