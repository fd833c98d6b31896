"""Where the local stack keeps its state, which ports it uses, and its secrets."""

import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from deploy.local.commands import BACKENDS, S3Keys, write_private
from deploy.local.errors import StackError

ROOT = Path(__file__).resolve().parents[2]
# A socket's name may have some 100 bytes, the file's own name included.
LONGEST_SOCKET_FOLDER = 80
GATEWAY_PORT = 8080
PORT_BASE = 11080
# Offsets from the base; a backend occupies several ports from its own on.
OFFSETS: Mapping[str, int] = {
    "upload": 1,
    "download": 2,
    "metadata": 3,
    "notification": 4,
    "janitor": 5,
    "rabbitmq": 20,
    "mongo": 30,
    "s3": 40,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one stack; everything stands below `var`."""

    var: Path

    @property
    def etc(self) -> Path:
        return self.var / "etc"

    @property
    def run(self) -> Path:
        return self.var / "run"

    @property
    def log(self) -> Path:
        return self.var / "log"

    @property
    def data(self) -> Path:
        return self.var / "data"

    @property
    def secrets_file(self) -> Path:
        return self.etc / "stack.env"

    @property
    def services_file(self) -> Path:
        """The settings of the last `up`, for commands that work on the running stack."""
        return self.etc / "services.env"

    @property
    def caller_file(self) -> Path:
        """What the environment of the last `up` said; the running stack is described by it, not today's."""
        return self.etc / "caller.env"

    @property
    def supervisor_file(self) -> Path:
        return self.etc / "supervisord.conf"

    @property
    def sockets(self) -> Path:
        """Beside the pid files, or in the temporary folder when that path is too long for a socket."""
        if len(os.fsencode(self.run)) <= LONGEST_SOCKET_FOLDER:
            return self.run
        name = sha256(os.fsencode(self.var)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"lockstep-{os.getuid()}-{name}"

    def pid_file(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        return self.log / f"{name}.log"

    def spec_file(self, name: str) -> Path:
        return self.etc / f"{name}.json"

    def make_folders(self) -> None:
        for folder in (self.var, self.etc, self.run, self.log, self.data, self.sockets):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.sockets.stat().st_uid != os.getuid():
            raise StackError(f"{self.sockets} belongs to someone else")


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made once per stack; there are no default ones."""

    token_secret: str
    amqp_password: str
    s3: S3Keys


def find_layout(env: Mapping[str, str]) -> Layout:
    """The layout at `LOCKSTEP_VAR`, else below the repository."""
    return Layout(Path(env.get("LOCKSTEP_VAR") or ROOT / "var").absolute())


def find_ports(env: Mapping[str, str]) -> dict[str, int]:
    """The first port of each component."""
    base = _port(env, "LOCKSTEP_PORT_BASE", PORT_BASE)
    return {"gateway": _port(env, "LOCKSTEP_GATEWAY_PORT", GATEWAY_PORT)} | {
        name: base + offset for name, offset in OFFSETS.items()
    }


def variable_of_port(name: str) -> str:
    """The variable that moves a component to another port."""
    return "LOCKSTEP_GATEWAY_PORT" if name == "gateway" else "LOCKSTEP_PORT_BASE"


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**16 - 100:
        raise StackError(f"{name} is not a port: {text}")
    return int(text)


def load_secrets(layout: Layout) -> Secrets:
    """Read the stack's secrets; the first time, make them."""
    if not layout.secrets_file.exists():
        write_env(layout.secrets_file, _new_secrets())
    values = read_env(layout.secrets_file)
    try:
        return Secrets(
            token_secret=values["LOCKSTEP_TOKEN_SECRET"],
            amqp_password=values["RABBITMQ_PASSWORD"],
            s3=S3Keys(
                values["LOCKSTEP_S3_ACCESS_KEY"],
                values["LOCKSTEP_S3_SECRET_KEY"],
                values["SEAWEEDFS_JWT_KEY"],
            ),
        )
    except KeyError as error:
        raise StackError(f"{layout.secrets_file} has no {error.args[0]}") from error


def _new_secrets() -> dict[str, str]:
    return {
        "LOCKSTEP_TOKEN_SECRET": secrets.token_hex(32),
        "LOCKSTEP_S3_ACCESS_KEY": secrets.token_hex(10),
        "LOCKSTEP_S3_SECRET_KEY": secrets.token_hex(20),
        "RABBITMQ_PASSWORD": secrets.token_hex(16),
        "SEAWEEDFS_JWT_KEY": secrets.token_hex(32),
    }


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Write `NAME=value` lines, readable by the owner only."""
    broken = [name for name, value in values.items() if "\n" in value]
    if broken:
        raise StackError(f"a setting may have one line only: {', '.join(broken)}")
    write_private(path, "".join(f"{name}={value}\n" for name, value in sorted(values.items())))


def read_env(path: Path) -> dict[str, str]:
    """Read what `write_env` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def is_backend(name: str) -> bool:
    return name in BACKENDS
