"""`make up` and what it promises, with the real backends and with services that do nothing."""

import dataclasses
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy.local import commands, stack
from deploy.local.__main__ import main
from deploy.local.commands import Command
from deploy.local.errors import StackError
from deploy.local.layout import find_layout
from tests.support import stub_service
from tests.support.processes import free_ports
from tests.support.waiting import wait_until

real_service = commands.service


def stub(name: str, port: int, env: Mapping[str, str]) -> Command:
    argv = (sys.executable, str(Path(stub_service.__file__)), str(port))
    return dataclasses.replace(real_service(name, port, env), argv=argv)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    base = free_ports(60)
    env = {
        "LOCKSTEP_VAR": str(tmp_path_factory.mktemp("var")),
        "LOCKSTEP_PORT_BASE": str(base),
        "LOCKSTEP_GATEWAY_PORT": str(base + 10),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "service", stub)
        try:
            assert stack.up(env)
            yield env
        finally:
            stack.down(env)


def pids(env: Mapping[str, str]) -> dict[str, int]:
    layout = find_layout(env)
    return {name: int(layout.pid_file(name).read_text()) for name in stack.COMPONENTS}


def all_ready(env: Mapping[str, str]) -> bool:
    return all(item.ready and item.state == "running" for item in stack.components(env))


def test_up_returns_when_everything_is_ready(env: dict[str, str]) -> None:
    assert all_ready(env)


def test_up_on_a_running_stack_changes_nothing(env: dict[str, str]) -> None:
    before = pids(env)
    assert not stack.up(env)
    assert pids(env) == before


def test_pid_files_hold_the_processes_that_serve(env: dict[str, str]) -> None:
    for item in stack.components(env):
        assert pids(env)[item.name] == item.pid


def test_secrets_are_made_once_and_readable_by_the_owner_only(env: dict[str, str]) -> None:
    etc = find_layout(env).etc
    for file in etc.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    text = find_layout(env).secrets_file.read_text()
    assert len(text.splitlines()) == len({line.partition("=")[2] for line in text.splitlines()})


@pytest.mark.parametrize("name", ["gateway", "s3", "rabbitmq"])
def test_a_process_that_dies_is_started_again_under_a_new_id(env: dict[str, str], name: str) -> None:
    before = pids(env)[name]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: pids(env)[name] != before and all_ready(env), 60, f"{name} did not come back")


def test_up_after_everything_was_killed_finds_the_data(env: dict[str, str]) -> None:
    before = pids(env)
    secrets_before = find_layout(env).secrets_file.read_bytes()
    supervisor = int(find_layout(env).pid_file("supervisord").read_text())
    for pid in (supervisor, *before.values()):
        os.kill(pid, signal.SIGKILL)
    assert stack.up(env)
    assert all_ready(env)
    assert find_layout(env).secrets_file.read_bytes() == secrets_before


def test_up_replaces_what_a_killed_supervisor_left_running(env: dict[str, str]) -> None:
    before = pids(env)
    os.kill(int(find_layout(env).pid_file("supervisord").read_text()), signal.SIGKILL)
    assert stack.up(env)
    assert not set(pids(env).values()) & set(before.values())


def test_a_component_that_cannot_start_is_named_with_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = free_ports(60)
    env = {
        "LOCKSTEP_VAR": str(tmp_path),
        "LOCKSTEP_PORT_BASE": str(base),
        "LOCKSTEP_AMQP_URL": "amqp://127.0.0.1:1/",
    }

    def broken(name: str, port: int, env: Mapping[str, str]) -> Command:
        argv = (sys.executable, "-c", "raise SystemExit('I cannot start')")
        return dataclasses.replace(real_service(name, port, env), argv=argv)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "service", broken)
        patch.setattr(
            os, "environ", {"PATH": os.environ["PATH"], **env, "LOCKSTEP_GATEWAY_PORT": str(base + 10)}
        )
        assert main(["up"]) == 1
    printed = capsys.readouterr().err
    assert "ends again and again" in printed
    assert "I cannot start" in printed
    assert not stack.running(env)


def test_a_taken_port_is_named_with_the_way_out(env: dict[str, str], tmp_path: Path) -> None:
    other = {**env, "LOCKSTEP_VAR": str(tmp_path)}
    with pytest.raises(StackError, match=r"port \d+ .* taken .* LOCKSTEP_"):
        stack.up(other)
