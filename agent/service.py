"""The systemd user unit that starts the agent at login: its text, and asking systemd to use it.

One unit per home: the default home's is `lockstep.service`, another's carries a name of its own.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from platformdirs import user_config_dir

from agent.errors import ExitCode, LocalError
from agent.settings import Settings, default_home

_NEVER_AGAIN: Final = (ExitCode.USAGE, ExitCode.NOT_SIGNED_IN)
"""Exit codes that a restart cannot cure."""
_RESTART_SECONDS: Final = 30
_SYSTEMCTL_SECONDS: Final = 60
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.]+")
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f]")
_FORBIDDEN_PROGRAM: Final = re.compile(r"[\"'\\]")


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit file."""

    name: str
    path: Path
    text: str


def unit_for(settings: Settings, folder: Path, program: Path) -> Unit:
    """Return the unit that keeps `folder` in step. Raises `LocalError` "unit_impossible"."""
    name = unit_name(settings.folder)
    return Unit(name, unit_path(name), unit_text(settings.folder, folder, program))


def unit_path(name: str) -> Path:
    """Return where systemd looks for a unit of this user."""
    return Path(user_config_dir("systemd", appauthor=False)) / "user" / name


def unit_name(home: Path) -> str:
    """Return the name of a home's unit: readable, and no other home's."""
    if home == Path(os.path.abspath(default_home())):  # noqa: PTH100 - resolve() would follow links
        return "lockstep.service"
    readable = _UNSAFE.sub("-", home.name.lstrip("."))[:40].strip("-")
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:8]
    return f"lockstep-{readable}-{digest}.service" if readable else f"lockstep-{digest}.service"


def unit_text(home: Path, folder: Path, program: Path) -> str:
    """Return the unit's text. Raises `LocalError` "unit_impossible". Pure."""
    codes = " ".join(str(int(code)) for code in _NEVER_AGAIN)
    return f"""\
[Unit]
Description=Lockstep keeps {specifiers_escaped(_text(folder))} in step

[Service]
Type=exec
Environment={quoted("LOCKSTEP_HOME=" + _text(home))}
ExecStart={_program(program)} start -- {argument(_text(folder))}
Restart=on-failure
RestartSec={_RESTART_SECONDS}
RestartPreventExitStatus={codes}

[Install]
WantedBy=default.target
"""


def quoted(text: str) -> str:
    """Quote one word of a setting, as systemd.syntax(7) and systemd.unit(5) say."""
    return '"' + specifiers_escaped(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def argument(text: str) -> str:
    """Quote one argument of a command line: there `$` would name a variable."""
    return quoted(text).replace("$", "$$")


def specifiers_escaped(text: str) -> str:
    """Return text in which `%` stands for itself."""
    return text.replace("%", "%%")


def _program(program: Path) -> str:
    """Quote the program: no variables are put into it, and systemd takes no quotes in its name."""
    text = _text(program)
    if _FORBIDDEN_PROGRAM.search(text):
        raise LocalError(f"systemd cannot start {text}: its name holds quotes", code="unit_impossible")
    return quoted(text)


def _text(path: Path) -> str:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LocalError("A path is not text, and a unit must be", code="unit_impossible") from error
    if _FORBIDDEN.search(text):
        raise LocalError("A path holds control characters", code="unit_impossible")
    return text


def find_program() -> Path:
    """Return the absolute path of `lockstep`. Raises `LocalError` "no_executable"."""
    beside = Path(sys.executable).with_name("lockstep")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(sys.argv[0])
    if found is None or Path(found).name.startswith("python"):
        raise LocalError(code="no_executable")
    return Path(os.path.abspath(found))  # noqa: PTH100 - resolve() would follow links


# systemd --------------------------------------------------------------------------------------


class Systemd:
    """The user's systemd, where there is one."""

    def __init__(self) -> None:
        self._systemctl = shutil.which("systemctl")

    def answers(self) -> bool:
        """Whether it can be asked: systemctl is there and the user has a session bus."""
        return self._systemctl is not None and self._run("show-environment").returncode == 0

    def enable(self, name: str) -> None:
        """Start a unit now and at every login. Raises `LocalError` "systemd_failed"."""
        self._must("daemon-reload")
        self._must("enable", name)
        self._must("restart", name)  # starts it too

    def disable(self, name: str) -> None:
        """Stop a unit and start it no more. Raises `LocalError` "systemd_failed"."""
        self._must("disable", "--now", name)

    def reload(self) -> None:
        """Have the unit files read anew. Raises `LocalError` "systemd_failed"."""
        self._must("daemon-reload")

    def says(self, question: str, name: str) -> str:
        """Return what `is-enabled` or `is-active` says of a unit."""
        return self._run(question, name).stdout.strip() or "unknown"

    def _must(self, *arguments: str) -> None:
        done = self._run(*arguments)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise LocalError(
                f"systemctl --user {' '.join(arguments)}: {said[-1] if said else done.returncode}",
                code="systemd_failed",
            )

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self._systemctl or "systemctl", "--user", *arguments]
        try:
            return subprocess.run(  # noqa: S603 - our own arguments, no shell
                command, capture_output=True, text=True, timeout=_SYSTEMCTL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))


def by_hand(name: str) -> tuple[str, ...]:
    """Return the commands that do what `Systemd.enable` does."""
    return ("systemctl --user daemon-reload", f"systemctl --user enable --now {name}")
