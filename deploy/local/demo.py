"""`make demo`: a real tree goes from one device to another, through everything, before your eyes.

The tree is Python's standard library, which every machine with Python has. The exit status is 0 only if both
folders are equal in the end.
"""

import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import stack
from deploy.local.errors import StackError
from deploy.local.layout import find_layout

EDITS = 20
BETWEEN_EDITS = 0.3
ARRIVAL_SECONDS = 30.0
FIRST_ARRIVAL_SECONDS = 60.0
AGENT_STOP_SECONDS = 30.0
LOOK_EVERY = 0.002
# The agent's own folder at the top of a synced one.
AGENTS_OWN = ".lockstep"
LOCKSTEP = str(Path(sys.executable).parent / "lockstep")


@dataclass(frozen=True, slots=True)
class Device:
    """One device: its name, its folder, and where its agent keeps its state."""

    name: str
    home: Path
    folder: Path

    def run(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """Run one command of the agent and return what it printed; raise `StackError` when it failed."""
        done = subprocess.run(
            [LOCKSTEP, *arguments, "--json"],
            input=stdin,
            env=self.env(),
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            command = f"lockstep {' '.join(arguments)}"
            raise StackError(
                f"{self.name}: `{command}` ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        lines = done.stdout.strip().splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def sync(self) -> dict[str, Any]:
        return self.run("sync", str(self.folder))

    def env(self) -> dict[str, str]:
        return {**os.environ, "LOCKSTEP_HOME": str(self.home)}


def main() -> int:
    """Run the demo on the running stack, or on one that exists only meanwhile."""
    try:
        with ExitStack() as exit_stack:
            # Ctrl-C and `kill` both unwind, so that nothing is left running.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            exit_stack.enter_context(_running_stack(os.environ))
            return _demo(os.environ)
    except StackError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


@contextmanager
def _running_stack(env: Mapping[str, str]) -> Iterator[None]:
    if stack.running(env):
        stack.up(env)
        _say("Using the stack that is up; it stays up.")
        yield
        return
    _say("Starting the stack …")
    begin = time.monotonic()
    stack.up(env)
    try:
        _say(f"  ready after {time.monotonic() - begin:.1f} s: {stack.gateway_url(env)}")
        yield
    finally:
        _say("Stopping the stack.")
        stack.down(env)


def _demo(env: Mapping[str, str]) -> int:
    a, b = _link_devices(find_layout(env).var / "demo", stack.gateway_url(env))
    _first_sync(a, b)
    _latency(a, b)
    _conflict(a, b)
    return _compare(a, b)


def _link_devices(place: Path, server: str) -> tuple[Device, Device]:
    shutil.rmtree(place, ignore_errors=True)
    a, b = (Device(name, place / name / "home", place / name / "folder") for name in ("A", "B"))
    for device in (a, b):
        device.home.mkdir(parents=True, mode=0o700)
        device.folder.mkdir()
    email, password = f"demo-{secrets.token_hex(4)}@example.com", secrets.token_urlsafe(18)
    for device, command in ((a, "register"), (b, "login")):
        options = (
            "--server",
            server,
            "--email",
            email,
            "--password-stdin",
            "--device",
            f"demo-{device.name}",
        )
        device.run(command, *options, stdin=f"{password}\n")
    _say(f"Account {email} with two devices, in {place}")
    return a, b


def _first_sync(a: Device, b: Device) -> None:
    shutil.copytree(
        sysconfig.get_paths()["stdlib"],
        a.folder,
        ignore=shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__"),
        ignore_dangling_symlinks=True,
        dirs_exist_ok=True,
    )
    files = [path for path in a.folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    _say(f"Python's standard library: {len(files):,} files, {size / 1e6:.1f} MB, from A to B")
    begin = time.monotonic()
    for device, direction in ((a, "uploaded"), (b, "downloaded")):
        start = time.monotonic()
        result = device.sync()
        count, moved = result[f"{direction}_files"], result[f"{direction}_bytes"]
        seconds = time.monotonic() - start
        _say(f"  {device.name} {direction:10} {count:,} files, {moved / 1e6:.1f} MB in {seconds:.1f} s")
    _say(f"  across in {time.monotonic() - begin:.1f} s")


def _latency(a: Device, b: Device) -> None:
    _say(f"Both agents run; {EDITS} edits on A, one after the other")
    edited = sorted(path for path in a.folder.glob("*.py") if path.stat().st_size < 64 * 1024)[:EDITS]
    with _agent(a), _agent(b):
        _arrival(a, b, a.folder / "lockstep-demo.txt", "the agents are there\n", FIRST_ARRIVAL_SECONDS)
        times = []
        for number in range(EDITS):
            time.sleep(BETWEEN_EDITS)
            path = edited[number % len(edited)]
            text = f"{path.read_text(encoding='utf-8')}\n# edit {number} of the demo\n"
            times.append(_arrival(a, b, path, text, ARRIVAL_SECONDS))
    median, longest = statistics.median(times) * 1000, max(times) * 1000
    _say(f"  from the change on A to B: median {median:.0f} ms, maximum {longest:.0f} ms")


def _arrival(a: Device, b: Device, path: Path, text: str, limit: float) -> float:
    """Seconds from the end of a write on A until B's file has the same content."""
    there = b.folder / path.relative_to(a.folder)
    content = text.encode()
    path.write_bytes(content)
    begin = time.monotonic()
    while not _holds(there, content):
        if time.monotonic() - begin > limit:
            raise StackError(f"{there} did not get A's change within {limit:.0f} s")
        time.sleep(LOOK_EVERY)
    return time.monotonic() - begin


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


@contextmanager
def _agent(device: Device) -> Iterator[None]:
    """`lockstep start` in the background, with its output beside its state."""
    with (device.home.parent / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [LOCKSTEP, "start", str(device.folder)],
            env=device.env(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        _stop(device, process)


def _stop(device: Device, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(AGENT_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise StackError(
            f"the agent of {device.name} did not stop within {AGENT_STOP_SECONDS:.0f} s"
        ) from None


def _conflict(a: Device, b: Device) -> None:
    _say("A conflict: both agents are stopped, both devices edit this.py")
    for device in (a, b):
        device.sync()
        (device.folder / "this.py").write_text(
            f"# {device.name} wrote this while it was alone\n", encoding="utf-8"
        )
    for device in (a, b, a):
        device.sync()
    for path in sorted(a.folder.glob("this*.py")):
        first_line = path.read_text(encoding="utf-8").splitlines()[0]
        _say(f"  {path.name}: {first_line}")


def _compare(a: Device, b: Device) -> int:
    trees = [_tree(device.folder) for device in (a, b)]
    different = sorted(
        path for path in trees[0].keys() | trees[1].keys() if trees[0].get(path) != trees[1].get(path)
    )
    if not different:
        _say(f"Both folders are equal, byte for byte: {len(trees[0]):,} entries.")
        return 0
    _say(f"{len(different):,} entries DIFFER:")
    for path in different[:20]:
        _say(f"  {path}")
    return 1


def _tree(folder: Path) -> dict[str, object]:
    """Every entry with what has to be equal."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name != AGENTS_OWN]
        for name in folders + files:
            path = Path(place, name)
            found[str(path.relative_to(folder))] = _entry(path)
    return found


def _entry(path: Path) -> object:
    if path.is_symlink():
        return ("link", str(path.readlink()))
    if path.is_dir():
        return "folder"
    return ("file", bool(path.stat().st_mode & 0o100), path.read_bytes())


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
