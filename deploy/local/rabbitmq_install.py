"""Finding RabbitMQ, and installing the system's package where that is permitted."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deploy.local.errors import StackError

SERVERS = (
    Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),
    Path("/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server"),
    Path("/usr/local/opt/rabbitmq/sbin/rabbitmq-server"),
)
ALTERNATIVES = """Choose one of these:
  * install it yourself: apt-get install --no-install-recommends rabbitmq-server (or: brew install rabbitmq)
  * use a broker that runs elsewhere: LOCKSTEP_AMQP_URL=amqp://USER:PASSWORD@HOST:5672/ make up
    (tests: LOCKSTEP_TEST_AMQP_URL)
  * run everything in containers: docker compose up (docs/operations.md)"""
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = (
    "#!/bin/sh\n# Written for the time of one installation, so that no system-wide broker starts.\nexit 101\n"
)


def find_server() -> Path | None:
    """The start script of an installed broker.

    The package's own folder comes first: the wrapper in /usr/sbin switches to another user, and so cannot
    keep its state in ours.
    """
    for path in SERVERS:
        if os.access(path, os.X_OK):
            return path
    return None


def ensure_installed() -> Path:
    """Return the start script; install the package first when it is missing and permitted.

    Raises `StackError` that names the alternatives otherwise.
    """
    server = find_server()
    if server is not None:
        return server
    if shutil.which("apt-get") is None:
        raise StackError(f"RabbitMQ is not installed, and this system has no apt-get.\n{ALTERNATIVES}")
    _install_package(_privilege())
    server = find_server()
    if server is None:
        raise StackError(f"The package rabbitmq-server was installed but has no server.\n{ALTERNATIVES}")
    return server


def _privilege() -> list[str]:
    """The prefix that makes a command run as root: nothing, or sudo when it asks for no password."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0
    ):
        return ["sudo", "-n"]
    raise StackError(
        f"RabbitMQ is not installed, and installing it needs root or sudo without a password.\n{ALTERNATIVES}"
    )


def _install_package(root: list[str]) -> None:
    print("RabbitMQ is not installed: installing the system's package rabbitmq-server", flush=True)
    # RUNLEVEL=1 keeps SysV machines from starting a system-wide broker, the policy file keeps the others.
    apt = [
        *root,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "RUNLEVEL=1",
        "apt-get",
        "-qq",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]
    with _nothing_starts(root):
        _run([*apt, "update"])
        _run([*apt, "install", "--yes", "--no-install-recommends", "rabbitmq-server"])


@contextlib.contextmanager
def _nothing_starts(root: list[str]) -> Iterator[None]:
    """Forbid service starts meanwhile. A policy that the machine's owner has written is left as it is."""
    if POLICY.exists():
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as draft:
        draft.write(POLICY_TEXT)
        draft.flush()
        _run([*root, "install", "-m", "755", draft.name, str(POLICY)])
    try:
        yield
    finally:
        _run([*root, "rm", "-f", str(POLICY)])


def _run(argv: list[str]) -> None:
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-10:])
        raise StackError(f"`{' '.join(argv)}` failed:\n{tail}\n{ALTERNATIVES}")
