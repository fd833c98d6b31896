"""Supervisor as used here: its configuration, and talking to it."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from supervisor.xmlrpc import SupervisorTransport

from deploy.local.commands import BACKENDS, Command, inherited, write_private
from deploy.local.errors import StackError
from deploy.local.layout import ROOT, Layout
from deploy.local.plan import Plan

# In every process's environment, so that a process id found in a file can be told from a stranger's.
MARK = "LOCKSTEP_STACK"


@dataclass(frozen=True, slots=True)
class Process:
    """A program as Supervisor sees it."""

    name: str
    state: str
    pid: int
    started: int


def write_configuration(plan: Plan, layout: Layout) -> None:
    """Write everything that the servers and Supervisor read at start."""
    for command in plan.everything:
        command.prepare()
        write_private(layout.spec_file(command.name), json.dumps(_spec(command, layout)))
    write_private(layout.supervisor_file, configuration(plan, layout))


def _spec(command: Command, layout: Layout) -> dict[str, Any]:
    return {
        "argv": command.argv,
        "env": {**command.env, MARK: str(layout.var)},
        "pid_file": str(layout.pid_file(command.name)),
        "afterwards": command.afterwards,
    }


def configuration(plan: Plan, layout: Layout) -> str:
    """The text of supervisord.conf. The services are started by `up`, once the backends are ready."""
    head: dict[str, dict[str, Any]] = {
        "unix_http_server": {"file": _socket(layout), "chmod": "0700"},
        "supervisord": {
            "logfile": layout.log_file("supervisord"),
            "logfile_maxbytes": "5MB",
            "logfile_backups": "1",
            "pidfile": layout.pid_file("supervisord"),
            "directory": ROOT,
            "umask": "077",
            "strip_ansi": "false",
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    programs = {f"program:{command.name}": _program(command, layout) for command in plan.everything}
    # In a group of their own all are stopped at once; the backends go after the services.
    groups: dict[str, dict[str, Any]] = {
        f"group:{group}": {"programs": ",".join(command.name for command in members), "priority": priority}
        for group, members, priority in (("backends", plan.backends, 10), ("services", plan.services, 20))
        if members
    }
    return "\n".join(_section(name, options) for name, options in (head | programs | groups).items())


def _program(command: Command, layout: Layout) -> dict[str, Any]:
    launcher = (sys.executable, "-m", "deploy.local.launcher", str(layout.spec_file(command.name)))
    return {
        "command": shlex.join(launcher),
        "autostart": "true" if command.name in BACKENDS else "false",
        "autorestart": "true",
        "startsecs": 1,
        # A service may fail for as long as its backends are down; each further try waits a second longer.
        "startretries": 1000,
        "stopsignal": command.stop.signal.name.removeprefix("SIG"),
        "stopwaitsecs": command.stop.grace,
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": layout.log_file(command.name),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": 2,
    }


def _section(name: str, options: dict[str, Any]) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}\n" for key, value in options.items()]
    return f"[{name}]\n{''.join(lines)}"


def _socket(layout: Layout) -> Path:
    return layout.sockets / "supervisor.sock"


class _Transport(SupervisorTransport):  # type: ignore[misc] # Supervisor has no type information
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Its own `close` forgets the connection without closing the socket.
        if self.connection is not None:
            self.connection.close()


class Supervisor:
    """The running supervisord of one stack."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @contextlib.contextmanager
    def _rpc(self) -> Iterator[Any]:
        """A connection of its own for each use: a failed call leaves Supervisor's transport unusable."""
        with _Transport(None, None, f"unix://{_socket(self._layout)}") as transport:
            yield xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def answers(self) -> bool:
        try:
            with self._rpc() as rpc:
                return bool(rpc.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def launch(self) -> None:
        """Start supervisord in the background; it starts the backends by itself."""
        _socket(self._layout).unlink(missing_ok=True)
        argv = [str(Path(sys.executable).parent / "supervisord"), "-c", str(self._layout.supervisor_file)]
        env = inherited() | {MARK: str(self._layout.var), "HOME": str(self._layout.var)}
        done = subprocess.run(argv, env=env, check=False, capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            raise StackError(f"supervisord did not start:\n{done.stdout}{done.stderr}")

    def processes(self) -> list[Process]:
        with self._rpc() as rpc:
            found = rpc.getAllProcessInfo()
        return [Process(info["name"], info["statename"], info["pid"], info["start"]) for info in found]

    def start_missing(self, names: Sequence[str]) -> None:
        """Start those of `names` that do not run, without waiting for them."""
        with self._rpc() as rpc:
            for info in rpc.getAllProcessInfo():
                if info["name"] in names and info["statename"] in {"STOPPED", "EXITED", "FATAL"}:
                    rpc.startProcess(f"{info['group']}:{info['name']}", False)

    def shut_down(self) -> None:
        """Ask supervisord to stop everything and itself; returns at once."""
        with self._rpc() as rpc:
            rpc.shutdown()


def marked(pid: int, layout: Layout) -> bool:
    """Whether this process was started by the stack of this layout."""
    mark = f"{MARK}={layout.var}"
    environ = Path(f"/proc/{pid}/environ")
    if Path("/proc/self/environ").exists():
        try:
            return os.fsencode(mark) in environ.read_bytes().split(b"\0")
        except OSError:
            return False
    shown = subprocess.run(
        ["ps", "eww", "-o", "command=", "-p", str(pid)], check=False, capture_output=True, text=True
    )
    return mark in shown.stdout
