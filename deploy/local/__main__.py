"""`python -m deploy.local up|down|ps|logs|exec`: what `make` runs."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping

from deploy.local import stack
from deploy.local.errors import StackError


def main(arguments: list[str]) -> int:
    """Run one command; 0 is success, 1 a failure whose reason is printed."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Mapping[str, str]], int] = options.command
    try:
        return command(options, os.environ)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The local stack.")
    commands = parser.add_subparsers(required=True)
    for name, command in (("up", _up), ("down", _down), ("ps", _ps)):
        commands.add_parser(name).set_defaults(command=command)
    logs = commands.add_parser("logs")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("-n", "--lines", type=int, default=stack.LOG_LINES)
    logs.add_argument("names", nargs="*")
    logs.set_defaults(command=_logs)
    execute = commands.add_parser("exec", help="run a program with the services' settings")
    execute.add_argument("argv", nargs="+")
    execute.set_defaults(command=_exec)
    return parser


def _up(_: argparse.Namespace, env: Mapping[str, str]) -> int:
    started = stack.up(env)
    print("Lockstep is up." if started else "Lockstep was up already; settings of this call change nothing.")
    for name, url in stack.urls(env).items():
        print(f"  {name:10} {url}")
    return 0


def _down(_: argparse.Namespace, env: Mapping[str, str]) -> int:
    print("Lockstep is down; its data stays in var/." if stack.down(env) else "Lockstep was not running.")
    return 0


def _ps(_: argparse.Namespace, env: Mapping[str, str]) -> int:
    components = stack.components(env)
    print(f"{'NAME':14}{'PID':>8}  {'STATE':12}READY")
    for item in components:
        print(f"{item.name:14}{item.pid or '-':>8}  {item.state:12}{'yes' if item.ready else 'no'}")
    return 0 if all(item.ready for item in components) else 1


def _logs(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    paths = stack.log_files(env, options.names)
    if options.follow:
        sys.stdout.flush()
        os.execvp("tail", ["tail", "-n", str(options.lines), "-F", *map(str, paths)])
    for path in paths:
        print(f"==> {path.stem} <==")
        print(stack.tail(path, options.lines))
    return 0


def _exec(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    merged = {**env, **stack.settings(env)}
    os.execvpe(options.argv[0], options.argv, merged)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
