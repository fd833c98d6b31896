"""How each server is started. The local stack and the tests both start what is defined here."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals

from deploy.local.probes import AmqpProbe, HttpProbe, Probe, TcpProbe

HOST = "127.0.0.1"
SERVICES = ("upload", "download", "metadata", "notification", "janitor", "gateway")
BACKENDS = ("rabbitmq", "mongo", "s3")
AMQP_USER = "lockstep"
# A server occupies its port and the ones right above it.
PORTS_OF_BACKEND: Mapping[str, int] = {"rabbitmq": 3, "mongo": 1, "s3": 8}
# Variables of the caller that a server may see; everything else it gets is written down here.
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class Stop:
    """How a server is asked to stop, and after how many seconds it is killed."""

    signal: Signals = SIGTERM
    grace: int = 10


@dataclass(frozen=True, slots=True)
class Command:
    """One server: what to run, what it needs on disk first, when it is ready, how it is stopped."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready: Probe
    ports: tuple[int, ...]
    files: Mapping[Path, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    stop: Stop = Stop()
    # Run once the server is gone, with the same environment; its failure means nothing.
    afterwards: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Make the folders and write the configuration files, readable by their owner only."""
        for folder in (*self.folders, *(path.parent for path in self.files)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, text in self.files.items():
            write_private(path, text)


@dataclass(frozen=True, slots=True)
class S3Keys:
    """The credentials of the one identity of the local S3, and the key its parts trust each other by."""

    access_key: str
    secret_key: str = field(repr=False)
    internal_key: str = field(repr=False)


def write_private(path: Path, text: str) -> None:
    """Replace a file by one of mode 0600 in one step."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
    draft.replace(path)


def inherited() -> dict[str, str]:
    """The part of the caller's environment that every server gets."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def amqp_url(port: int, password: str) -> str:
    return f"amqp://{AMQP_USER}:{password}@{HOST}:{port}/"


def mongo_url(port: int) -> str:
    """The embedded default needs `retryWrites=false` for its speed and `journal=true` for its promises."""
    return f"mongodb://{HOST}:{port}/?replicaSet=secantus&retryWrites=false&w=majority&journal=true"


def s3_url(port: int) -> str:
    return f"http://{HOST}:{port}"


def rabbitmq(server: Path, home: Path, port: int, password: str) -> Command:
    """A private broker: own cookie, own port mapper (`port + 2`), nothing shared with a system-wide one."""
    etc = home / "etc"
    env = inherited() | {
        "HOME": str(home / "home"),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_PORT": str(port + 2),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(etc / "advanced.config"),
        "RABBITMQ_CONFIG_FILE": str(etc / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(etc / "rabbitmq-env.conf"),
        "RABBITMQ_DIST_PORT": str(port + 1),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(etc / "enabled_plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_NODENAME": "lockstep@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": HOST,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_PID_FILE": str(home / "rabbitmq.pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            # Few threads that spin for an instant before they sleep: with ten threads for files that sleep at
            # once, handing work over is most of the start (14 s instead of 5 s on two virtual cores).
            "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +SDio 2"
            " +sbwt very_short +sbwtdcpu none +sbwtdio very_short"
        ),
        # The start script then becomes the server instead of waiting for it: one process id, one process.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    return Command(
        name="rabbitmq",
        argv=(str(server),),
        env=env,
        ready=AmqpProbe(HOST, port),
        ports=(port, port + 1),
        files={
            etc / "rabbitmq.conf": _rabbitmq_conf(port, password),
            etc / "rabbitmq-env.conf": "",
            etc / "advanced.config": "[].\n",
            etc / "enabled_plugins": "[].\n",
        },
        folders=(home / "home", home / "mnesia", home / "log"),
        stop=Stop(SIGTERM, 15),
        afterwards=("epmd", "-kill"),
    )


def _rabbitmq_conf(port: int, password: str) -> str:
    lines = {
        "listeners.tcp.default": f"{HOST}:{port}",
        "default_user": AMQP_USER,
        "default_pass": password,
        "default_vhost": "/",
        "log.console": "true",
        "log.console.level": "warning",
        "log.file": "false",
        "vm_memory_high_watermark.absolute": "1GB",
        "disk_free_limit.absolute": "200MB",
        "heartbeat": "30",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def mongo(home: Path, port: int) -> Command:
    """SecantusDB; without accounts, so only for a machine whose local users may see the data."""
    return Command(
        name="mongo",
        argv=(
            _tool("secantusd-py"),
            *("--host", HOST, "--port", str(port)),
            *("--storage-path", str(home / "data"), "--log-level", "WARNING"),
        ),
        env=inherited() | {"HOME": str(home), "PYTHONUNBUFFERED": "1"},
        ready=TcpProbe(HOST, port),
        ports=(port,),
        folders=(home / "data",),
    )


def s3(home: Path, port: int, keys: S3Keys, sockets: Path) -> Command:
    """SeaweedFS, all parts in one process. `sockets` is a short path: names of sockets end at 100 bytes."""
    etc = home / "etc"
    identity = {
        "name": "lockstep",
        "credentials": [{"accessKey": keys.access_key, "secretKey": keys.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    jwt_keys = ("SIGNING_KEY", "SIGNING_READ_KEY", "FILER_SIGNING_KEY", "FILER_SIGNING_READ_KEY")
    return Command(
        name="s3",
        argv=(_tool("weed"), "-logtostderr=true", "server", *_weed_options(home, port, sockets)),
        env=inherited()
        | {"HOME": str(home), "TMPDIR": str(sockets), "GOMEMLIMIT": "768MiB"}
        | {f"WEED_JWT_{name}": keys.internal_key for name in jwt_keys},
        # The root is refused to the anonymous, by a server that works.
        ready=HttpProbe(f"{s3_url(port)}/", frozenset({403})),
        ports=tuple(range(port, port + PORTS_OF_BACKEND["s3"])),
        files={etc / "s3.json": json.dumps({"identities": [identity]}, indent=1)},
        folders=(home / "data", sockets),
        # SIGTERM can hang for minutes; a kill loses nothing that was acknowledged.
        stop=Stop(SIGTERM, 3),
        afterwards=("rm", "-f", *_left_sockets(port)),
    )


def _weed_options(home: Path, port: int, sockets: Path) -> tuple[str, ...]:
    return (
        *(f"-dir={home / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}"),
        *("-master.telemetry=false", "-master.peers=none", "-master.electionTimeout=1s"),
        *("-master.volumeSizeLimitMB=1024", "-master.vacuumIntervalSeconds=300"),
        *(f"-master.port={port + 1}", f"-master.port.grpc={port + 2}"),
        *(
            f"-volume.port={port + 3}",
            f"-volume.port.grpc={port + 4}",
            "-volume.max=0",
            "-volume.preStopSeconds=1",
        ),
        *("-filer", f"-filer.port={port + 5}", f"-filer.port.grpc={port + 6}", "-filer.disableHttp"),
        f"-filer.localSocket={sockets / 'filer.sock'}",
        *("-s3", f"-s3.port={port}", f"-s3.port.grpc={port + 7}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-s3.localSocket={sockets / 's3.sock'}", f"-s3.config={home / 'etc' / 's3.json'}"),
        *("-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false"),
    )


def _left_sockets(port: int) -> tuple[str, ...]:
    """What weed leaves in /tmp whatever TMPDIR says."""
    parts = {"master": 2, "volume": 4, "filer": 6, "s3": 7}
    return tuple(f"/tmp/seaweedfs-{part}-grpc-{port + offset}.sock" for part, offset in parts.items())  # noqa: S108 - weed's choice, not ours


def service(name: str, port: int, env: Mapping[str, str]) -> Command:
    """One of our services; `env` holds the settings that all of them share."""
    return Command(
        name=name,
        argv=(sys.executable, "-m", f"services.{name}"),
        env=inherited()
        | dict(env)
        | {"LOCKSTEP_HOST": HOST, "LOCKSTEP_PORT": str(port), "PYTHONUNBUFFERED": "1"},
        ready=HttpProbe(f"http://{HOST}:{port}/readyz"),
        ports=(port,),
        stop=Stop(SIGTERM, 20),
    )


def service_urls(ports: Mapping[str, int]) -> dict[str, str]:
    """The settings by which the gateway and the janitor find the others."""
    return {
        f"LOCKSTEP_{name.upper()}_URL": f"http://{HOST}:{ports[name]}"
        for name in ("upload", "download", "metadata", "notification")
    }


def _tool(name: str) -> str:
    """A program that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)
