"""The local stack: up, down, ps, logs, and commands in its environment."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploy.local.commands import BACKENDS, HOST, SERVICES, Command
from deploy.local.errors import StackError
from deploy.local.layout import (
    Layout,
    find_layout,
    find_ports,
    load_secrets,
    read_env,
    variable_of_port,
    write_env,
)
from deploy.local.plan import GIVEN_BY, Plan, make_plan
from deploy.local.probes import port_is_free
from deploy.local.supervision import Supervisor, marked, write_configuration

COMPONENTS = SERVICES + BACKENDS
READY_SECONDS = 180.0
STOP_SECONDS = 60.0
GOING_SECONDS = 3.0
LOOK_EVERY = 0.1
LOG_LINES = 25
# A process that was started so often without getting ready will not get ready by itself.
MOST_STARTS = 4


@dataclass(frozen=True, slots=True)
class Component:
    """One line of `ps`."""

    name: str
    state: str
    pid: int | None
    ready: bool


def up(env: Mapping[str, str]) -> bool:
    """Start the stack and return once everything is ready; True when it was down before.

    Raises `StackError` with the failed component's last log lines; what was started is stopped again then.
    """
    layout = find_layout(env)
    layout.make_folders()
    with _locked(layout):
        supervisor = Supervisor(layout)
        if supervisor.answers():
            _complete(_plan(_then(layout), layout), layout, supervisor)
            return False
        plan = _plan(env, layout)
        _kill_left_over(layout)
        _check_ports(plan)
        write_env(layout.caller_file, {name: env[name] for name in env if name.startswith("LOCKSTEP_")})
        write_env(layout.services_file, plan.settings)
        write_configuration(plan, layout)
        supervisor.launch()
        try:
            _complete(plan, layout, supervisor)
        except BaseException:
            _stop(layout, supervisor)
            raise
        return True


def down(env: Mapping[str, str]) -> bool:
    """Stop everything; False when nothing was running. The data stays."""
    layout = find_layout(env)
    if not layout.run.exists():
        return False
    with _locked(layout):
        return _stop(layout, Supervisor(layout))


def components(env: Mapping[str, str]) -> list[Component]:
    """Every component with its process and whether it is ready."""
    layout = find_layout(env)
    supervisor = Supervisor(layout)
    if not supervisor.answers():
        return [Component(name, "down", None, ready=False) for name in COMPONENTS]
    running = {process.name: process for process in supervisor.processes()}
    ready = {command.name: command.ready for command in _plan(_then(layout), layout).everything}
    return [
        Component(name, process.state.lower(), process.pid or None, ready[name].ready())
        if (process := running.get(name))
        else Component(name, f"given by {GIVEN_BY.get(name)}", None, ready=True)
        for name in COMPONENTS
    ]


def urls(env: Mapping[str, str]) -> dict[str, str]:
    """What a person wants to open or connect to."""
    gateway = gateway_url(env)
    return {
        "gateway": gateway,
        "API page": f"{gateway}/docs",
        "S3": settings(env)["LOCKSTEP_S3_PUBLIC_ENDPOINT"],
    }


def gateway_url(env: Mapping[str, str]) -> str:
    """The address of the gateway of the last `up`."""
    return f"http://{HOST}:{find_ports(_then(find_layout(env)))['gateway']}"


def running(env: Mapping[str, str]) -> bool:
    """Whether the stack has been started and not stopped."""
    return Supervisor(find_layout(env)).answers()


def settings(env: Mapping[str, str]) -> dict[str, str]:
    """The settings of the services, as of the last `up`."""
    layout = find_layout(env)
    _then(layout)
    return read_env(layout.services_file)


def log_files(env: Mapping[str, str], names: Sequence[str]) -> list[Path]:
    """The logs of these components, of all when none is named."""
    layout = find_layout(env)
    unknown = set(names) - set(COMPONENTS)
    if unknown:
        raise StackError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(COMPONENTS)}")
    return [path for name in names or COMPONENTS if (path := layout.log_file(name)).exists()]


def tail(path: Path, lines: int = LOG_LINES) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 256 * lines))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def _plan(env: Mapping[str, str], layout: Layout) -> Plan:
    return make_plan(env, layout, load_secrets(layout), find_ports(env))


def _then(layout: Layout) -> dict[str, str]:
    """The environment that the running stack was started with."""
    if not layout.caller_file.exists():
        raise StackError("the stack has never been up: run `make up` first")
    return read_env(layout.caller_file)


def _complete(plan: Plan, layout: Layout, supervisor: Supervisor) -> None:
    """Start what does not run and wait for it: the backends first."""
    for commands in (plan.backends, plan.services):
        supervisor.start_missing([command.name for command in commands])
        _wait_ready(commands, layout, supervisor)


def _wait_ready(commands: Sequence[Command], layout: Layout, supervisor: Supervisor) -> None:
    waiting = {command.name: command for command in commands}
    starts: dict[str, set[int]] = {name: set() for name in waiting}
    end = time.monotonic() + READY_SECONDS
    while waiting:
        for process in supervisor.processes():
            if process.name in waiting:
                starts[process.name].add(process.pid)
                _check_progress(process.name, len(starts[process.name]), end, layout)
                if process.state == "RUNNING" and waiting[process.name].ready.ready():
                    del waiting[process.name]
        time.sleep(LOOK_EVERY)


def _check_progress(name: str, starts: int, end: float, layout: Layout) -> None:
    if starts > MOST_STARTS:
        reason = "ends again and again"
    elif time.monotonic() > end:
        reason = f"was not ready after {READY_SECONDS:.0f} s"
    else:
        return
    path = layout.log_file(name)
    log = tail(path) if path.exists() else "(no log)"
    raise StackError(f"{name} {reason}. The end of {path}:\n{log}")


def _soon(condition: Callable[[], bool]) -> bool:
    """Whether it holds now or a little later: what was just killed may still be going."""
    end = time.monotonic() + GOING_SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_EVERY)
    return True


def _check_ports(plan: Plan) -> None:
    for command in plan.everything:
        for port in command.ports:
            if not _soon(partial(port_is_free, HOST, port)):
                raise StackError(
                    f"port {port} of {HOST}, which {command.name} needs, is taken by another program: "
                    f"stop that, or set {variable_of_port(command.name)} to another port"
                )


def _stop(layout: Layout, supervisor: Supervisor) -> bool:
    was_up = supervisor.answers()
    if was_up:
        process = _read_pid(layout.pid_file("supervisord"))
        supervisor.shut_down()
        _wait_gone(process)
    killed = _kill_left_over(layout)
    for name in BACKENDS:
        if layout.spec_file(name).exists():
            _tidy_up(layout.spec_file(name))
    for name in COMPONENTS:
        layout.spec_file(name).unlink(missing_ok=True)
    return was_up or killed


def _wait_gone(pid: int | None) -> None:
    end = time.monotonic() + STOP_SECONDS
    while pid is not None and _alive(pid):
        if time.monotonic() > end:
            raise StackError(f"supervisord (process {pid}) did not stop within {STOP_SECONDS:.0f} s")
        time.sleep(LOOK_EVERY)


def _tidy_up(spec_file: Path) -> None:
    spec = json.loads(spec_file.read_text(encoding="utf-8"))
    if spec["afterwards"]:
        subprocess.run(spec["afterwards"], env=spec["env"], check=False, capture_output=True, timeout=10)


def _kill_left_over(layout: Layout) -> bool:
    """Kill what an earlier stack left running (its supervisor was killed), and remove stale pid files.

    Supervisor goes first, or it would start the others again.
    """
    killed = False
    for name in ("supervisord", *COMPONENTS):
        path = layout.pid_file(name)
        pid = _read_pid(path)
        if pid is not None and marked(pid, layout):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
                killed = True
            _wait_gone(pid)
        path.unlink(missing_ok=True)
    return killed


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _zombie(pid)


def _zombie(pid: int) -> bool:
    """Whether the process has ended and only waits for its parent to notice."""
    try:
        return (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="ascii", errors="replace")
            .rpartition(")")[2]
            .split()[0]
            == "Z"
        )
    except OSError:
        return False


@contextlib.contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """One `up` or `down` at a time."""
    with (layout.run / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
