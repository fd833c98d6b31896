"""The backends in containers, where a Docker engine answers."""

import json
import os
import secrets
import shutil
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

import docker
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from deploy.local.probes import AmqpProbe, HttpProbe, Probe, TcpProbe
from tests.support.waiting import wait_until

# The versions of docker-compose.yml.
RABBITMQ_IMAGE = "rabbitmq:4.1.4"
MONGO_IMAGE = "mongo:8.0.13"
SEAWEEDFS_IMAGE = "chrislusf/seaweedfs:4.48"
START_SECONDS = 120.0


def docker_answers() -> bool:
    """Whether there is an engine to talk to; its absence costs no time."""
    if not os.environ.get("DOCKER_HOST") and not _socket_answers():
        return False
    try:
        client = docker.from_env(timeout=3)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


def _socket_answers() -> bool:
    """Asked before Docker's own library is, which leaves the socket of a refused connection open."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex("/var/run/docker.sock") == 0


class DockerBackends:
    """Three containers with random credentials; testcontainers' own watchdog removes them after a crash."""

    def __init__(self) -> None:
        self._exit = ExitStack()

    def __enter__(self) -> dict[str, str]:
        """Start them and return the fields of `Backends`."""
        try:
            return self._rabbitmq() | self._mongo() | self._s3()
        except BaseException:
            self._exit.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _run(self, container: DockerContainer, port: int) -> tuple[str, int]:
        self._exit.enter_context(container)
        return container.get_container_host_ip(), int(container.get_exposed_port(port))

    def _rabbitmq(self) -> dict[str, str]:
        password = secrets.token_hex(16)
        container = (
            DockerContainer(RABBITMQ_IMAGE)
            .with_env("RABBITMQ_DEFAULT_USER", "lockstep")
            .with_env("RABBITMQ_DEFAULT_PASS", password)
            .with_exposed_ports(5672)
        )
        host, port = self._run(container, 5672)
        _wait(AmqpProbe(host, port))
        return {"amqp_url": f"amqp://lockstep:{password}@{host}:{port}/"}

    def _mongo(self) -> dict[str, str]:
        container = (
            DockerContainer(MONGO_IMAGE).with_command("--replSet rs0 --bind_ip_all").with_exposed_ports(27017)
        )
        host, port = self._run(container, 27017)
        _wait(TcpProbe(host, port))
        for script in ("rs.initiate()", "while (!db.hello().isWritablePrimary) sleep(50)"):
            status, output = container.exec(["mongosh", "--quiet", "--eval", script])
            if status != 0:
                raise RuntimeError(f"mongosh: {output.decode(errors='replace')}")
        # The set knows itself by the container's name, which this machine cannot resolve.
        return {"mongo_url": f"mongodb://{host}:{port}/?directConnection=true&w=majority"}

    def _s3(self) -> dict[str, str]:
        access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
        folder = Path(tempfile.mkdtemp(prefix="lockstep-test-"))
        self._exit.callback(shutil.rmtree, folder, ignore_errors=True)
        identity = {
            "name": "lockstep",
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        container = (
            DockerContainer(SEAWEEDFS_IMAGE)
            .with_volume_mapping(str(folder), "/etc/lockstep", "ro")
            .with_command(
                "server -dir=/data -master.telemetry=false -filer -s3 -s3.config=/etc/lockstep/s3.json"
            )
            .with_exposed_ports(8333)
        )
        host, port = self._run(container, 8333)
        _wait(HttpProbe(f"http://{host}:{port}/", frozenset({403})))
        return {
            "s3_endpoint": f"http://{host}:{port}",
            "s3_access_key": access_key,
            "s3_secret_key": secret_key,
        }


def _wait(probe: Probe) -> None:
    wait_until(probe.ready, START_SECONDS, f"{probe} did not answer")
