"""The backends that all other tests rest on."""

import signal
import socket

from tests.support.backends import LocalBackends


def test_a_backend_can_be_stopped_and_started_again_and_nothing_is_left_behind() -> None:
    with LocalBackends() as backends:
        assert all(server.command.ready.ready() for server in backends.servers.values())
        backends.kill("mongo", signal.SIGKILL)
        assert not backends.servers["mongo"].command.ready.ready()
        backends.start("mongo")
        folder = backends.servers["mongo"].log_path.parent
        ports = [port for server in backends.servers.values() for port in server.command.ports]
    assert not folder.exists()
    for port in ports:
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
