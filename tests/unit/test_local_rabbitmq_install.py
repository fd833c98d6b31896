"""Installing RabbitMQ: only where that is permitted, and otherwise with a message that helps."""

import os
import shutil
from pathlib import Path

import pytest

from deploy.local import rabbitmq_install
from deploy.local.errors import StackError


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that an installation would run on a machine without RabbitMQ and without a policy."""
    commands: list[list[str]] = []
    server = tmp_path / "rabbitmq-server"

    def run(argv: list[str]) -> None:
        commands.append(argv)
        if "install" in argv and "rabbitmq-server" in argv:
            server.touch(mode=0o755)

    monkeypatch.setattr(rabbitmq_install, "_run", run)
    monkeypatch.setattr(rabbitmq_install, "SERVERS", (server,))
    monkeypatch.setattr(rabbitmq_install, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return commands


def test_an_installed_server_is_used_and_nothing_is_run(ran: list[list[str]]) -> None:
    rabbitmq_install.SERVERS[0].touch(mode=0o755)
    assert rabbitmq_install.ensure_installed() == rabbitmq_install.SERVERS[0]
    assert ran == []


def test_services_may_not_start_while_the_package_is_installed(ran: list[list[str]], tmp_path: Path) -> None:
    policy = str(tmp_path / "policy-rc.d")
    assert rabbitmq_install.ensure_installed() == rabbitmq_install.SERVERS[0]
    assert [argv[0] for argv in ran] == ["install", "env", "env", "rm"]
    assert ran[0][-1] == ran[-1][-1] == policy
    assert "RUNLEVEL=1" in ran[2]


def test_the_policy_is_removed_when_the_installation_fails(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: list[str]) -> None:
        ran.append(argv)
        if "apt-get" in argv:
            raise StackError("no network")

    monkeypatch.setattr(rabbitmq_install, "_run", run)
    with pytest.raises(StackError, match="no network"):
        rabbitmq_install.ensure_installed()
    assert ran[-1][0] == "rm"


def test_a_policy_of_the_machines_owner_is_left_as_it_is(ran: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "policy-rc.d").write_text("mine")
    rabbitmq_install.ensure_installed()
    assert [argv[0] for argv in ran] == ["env", "env"]
    assert (tmp_path / "policy-rc.d").read_text() == "mine"


def test_without_permission_the_alternatives_are_named(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "sudo" else f"/usr/bin/{name}")
    with pytest.raises(StackError) as caught:
        rabbitmq_install.ensure_installed()
    for way in ("apt-get install", "LOCKSTEP_AMQP_URL", "docker compose"):
        assert way in str(caught.value)
    assert ran == []
