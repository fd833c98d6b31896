"""Accounts and devices for end-to-end tests: the real command line, one process a call.

Each `Device` has its own LOCKSTEP_HOME and its own folder. `sync` runs `lockstep sync`, `started`
runs `lockstep start` beside the test.
"""

import asyncio
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import unicodedata
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.app import read_status, run_sync
from agent.settings import Settings
from tests.support.command_line import call
from tests.support.waiting import wait_until

REPO = Path(__file__).resolve().parents[2]
LOCKSTEP = Path(sys.executable).with_name("lockstep")
SECONDS = 120
OWN = ".lockstep"


class CommandError(AssertionError):
    """A command ended with another exit code than the test expected."""


@dataclass
class Device:
    """One linked device with its folder."""

    name: str
    home: Path
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    """What the user of this device wrote with `write`: SHA-256 → the first path it was written to."""

    def ask(self, *arguments: str, stdin: str = "", expect: int = 0) -> Any:
        """The same as `run` inside this process, without its start-up; for what only asks or tells."""
        code, out, err = call([*arguments, "--json"], home=self.home, cwd=self.home, stdin=stdin.encode())
        if code != expect:
            raise CommandError(f"{self.name}: {arguments} → {code}\n{out.decode()}\n{err.decode()}")
        lines = (out if out.strip() else err).decode().strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def run(self, *arguments: str, stdin: str = "", expect: int | None = 0) -> Any:
        """Run a command with `--json` and return what it printed last (errors: from stderr)."""
        done = subprocess.run(
            [LOCKSTEP, *arguments, "--json"],
            input=stdin, capture_output=True, text=True, timeout=SECONDS, env=self.environment(), check=False,
        )  # fmt: skip
        if expect is not None and done.returncode != expect:
            raise CommandError(f"{self.name}: {arguments} → {done.returncode}\n{done.stdout}\n{done.stderr}")
        lines = (done.stdout if done.stdout.strip() else done.stderr).strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def sync(self, *options: str, expect: int = 0) -> Any:
        """One two-way run by the command line; its report."""
        return self.run("sync", str(self.folder), *options, expect=expect)

    def quick_sync(self, *, allow_mass_delete: bool = False, expect: int | None = 0, **limits: Any) -> Any:
        """The same run inside this process: what `lockstep sync` calls, without its start-up.

        `expect`: the exit code; None takes any. `limits` are settings of the agent by name.
        """
        settings = Settings(home=self.home, **limits)
        report = asyncio.run(run_sync(settings, self.folder, allow_mass_delete=allow_mass_delete))
        if expect is not None and report.exit_code != expect:
            raise CommandError(f"{self.name}: sync → {report.exit_code}\n{report.as_json()}")
        return report.as_json()

    @contextmanager
    def started(self, **env: str) -> Iterator["Device"]:
        """Keep the folder in step while the body runs."""
        log = self.home.with_suffix(".log").open("ab")
        process = subprocess.Popen(
            [LOCKSTEP, "start", str(self.folder)], stdout=log, stderr=log, env={**self.environment(), **env}
        )
        try:
            wait_until(lambda: self.phase() == "in_step", 60, f"{self.name} is in step")
            yield self
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()

    def phase(self) -> str | None:
        """What the running agent says of itself."""
        return read_status(Settings(home=self.home)).phase

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LOCKSTEP_HOME": str(self.home), **self.env}

    def get(self, path: str) -> Any:
        """Ask the API as this device."""
        credentials = json.loads((self.home / "credentials.json").read_text())
        headers = {"Authorization": f"Bearer {credentials['access_token']}"}
        request = urllib.request.Request(credentials["server"] + path, headers=headers)  # noqa: S310 - our own
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own
            return json.load(answer)

    # The folder ---------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """A path in the folder."""
        return self.folder / name

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file, with the folders above it."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(data)
        self.written.setdefault(hash_of(data), name)
        return path

    def read(self, name: str) -> str:
        """A file's text."""
        return self.path(name).read_text()

    def names(self) -> set[str]:
        """Every path below the folder, the agent's own left out."""
        return set(tree_of(self.folder))

    def ls(self, path: str = "/") -> dict[str, dict[str, Any]]:
        """The server's listing of a folder by name."""
        return {Path(row["path"]).name: row for row in self.ask("ls", path)["items"]}


@dataclass
class Account:
    """An account with its devices."""

    email: str
    password: str
    server: str
    root: Path
    devices: list[Device] = field(default_factory=list)

    def link(self, name: str, *, register: bool = False) -> Device:
        """Link another device."""
        device = Device(name, self.root / f"home-{name}", self.root / f"folder-{name}")
        device.folder.mkdir(parents=True)
        device.home.mkdir(parents=True)
        command = "register" if register else "login"
        device.ask(
            command, "--server", self.server, "--email", self.email, "--password-stdin", "--device", name,
            stdin=self.password + "\n",
        )  # fmt: skip
        self.devices.append(device)
        return device


def new_account(server: str, root: Path) -> Account:
    """Return an account that is not registered yet: link its first device with `register`."""
    return Account(f"{secrets.token_hex(6)}@example.org", secrets.token_hex(12), server, root)


def tree_of(folder: Path) -> dict[str, str]:
    """Path → what is there, for comparing: kind, hash, executable bit, link's target."""
    found: dict[str, str] = {}
    for base, folders, files in os.walk(folder):
        at = Path(base)
        if OWN in folders:
            folders.remove(OWN)
        for name in [*folders, *files]:
            path = at / name
            found[str(path.relative_to(folder))] = _described(path)
    return found


def hash_of(content: bytes) -> str:
    """SHA-256 as the server writes it."""
    return hashlib.sha256(content).hexdigest()


def _described(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "special"
    mode = "x" if path.stat().st_mode & 0o100 else "-"
    return f"file {mode} {hash_of(path.read_bytes())}"


def converge(*devices: Device) -> None:
    """Sync the devices in turn until a whole round does nothing, then compare their trees."""
    for _ in range(6):
        reports = [device.quick_sync() for device in devices]
        if not any(moved(report) for report in reports):
            break
    else:
        raise AssertionError("the devices do not come to rest")
    for other in devices[1:]:
        check_same(tree_of(devices[0].folder), tree_of(other.folder), f"{devices[0].name} and {other.name}")


def check_same(one: dict[str, str], other: dict[str, str], whose: str) -> None:
    """Raise an `AssertionError` that names the differences of two trees, if there are any."""
    differing = differences(one, other)
    assert not differing, f"{whose} differ: " + "; ".join(differing)


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """What two trees have not in common; spellings of a name in Unicode's forms are the same name."""
    here, there = (
        {unicodedata.normalize("NFC", path): what for path, what in t.items()} for t in (one, other)
    )
    return [
        f"{path}: {here.get(path)} | {there.get(path)}"
        for path in sorted({*here, *there})
        if here.get(path) != there.get(path)
    ]


def are_same(*devices: Device) -> bool:
    """Whether the folders are equal; false while one of them changes under the look."""
    try:
        first, *others = [tree_of(device.folder) for device in devices]
    except FileNotFoundError:
        return False
    return not any(differences(first, other) for other in others)


def wait_until_same(*devices: Device, seconds: float = 60) -> None:
    """Return when the folders of running agents are equal; say what differs, and why, when time is up."""
    try:
        wait_until(lambda: are_same(*devices), seconds, "the running agents have one tree")
    except TimeoutError:
        first, *others = devices
        said = [str(device.run("status", expect=None)) for device in devices]
        for other in others:
            here, there = tree_of(first.folder), tree_of(other.folder)
            check_same(here, there, f"{first.name} and {other.name}, of which {said}")


def moved(report: dict[str, Any]) -> bool:
    """Whether a run did anything."""
    keys = ("uploaded_files", "downloaded_files", "conflicts", "deleted", "moved")
    return any(report[key] for key in keys)


def copies(names: set[str], of: str) -> set[str]:
    """The conflicted copies of a file among names."""
    stem = Path(of).stem
    return {name for name in names if Path(name).name.startswith(f"{stem} (conflicted copy, ")}
