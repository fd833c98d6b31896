"""What the local stack decides from its environment."""

import configparser
import stat
from pathlib import Path

import pytest

from deploy.local import commands, plan
from deploy.local.commands import BACKENDS, SERVICES
from deploy.local.errors import StackError
from deploy.local.layout import (
    LONGEST_SOCKET_FOLDER,
    Layout,
    Secrets,
    find_layout,
    find_ports,
    load_secrets,
    read_env,
    write_env,
)
from deploy.local.supervision import configuration

KEYS = Secrets("t" * 32, "rabbit", commands.S3Keys("access", "secret", "internal"))


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ensure_installed", lambda: Path("/opt/rabbitmq-server"))


def make(env: dict[str, str], tmp_path: Path) -> plan.Plan:
    return plan.make_plan(env, Layout(tmp_path), KEYS, find_ports(env))


def test_everything_runs_here_when_nothing_is_given(tmp_path: Path) -> None:
    made = make({}, tmp_path)
    assert {command.name for command in made.backends} == set(BACKENDS)
    assert {command.name for command in made.services} == set(SERVICES)
    assert made.gateway_url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("variable", "name", "url"),
    [
        ("LOCKSTEP_AMQP_URL", "rabbitmq", "amqp://elsewhere/"),
        ("LOCKSTEP_MONGO_URL", "mongo", "mongodb://elsewhere/"),
        ("LOCKSTEP_S3_ENDPOINT", "s3", "https://elsewhere"),
    ],
)
def test_a_backend_that_is_given_by_address_is_not_started(
    variable: str, name: str, url: str, tmp_path: Path
) -> None:
    env = {variable: url, "LOCKSTEP_S3_ACCESS_KEY": "a", "LOCKSTEP_S3_SECRET_KEY": "s"}
    made = make(env, tmp_path)
    assert name not in {command.name for command in made.backends}
    assert made.settings[variable] == url
    assert all(command.env[variable] == url for command in made.services)


def test_s3_elsewhere_needs_its_credentials(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="LOCKSTEP_S3_SECRET_KEY"):
        make({"LOCKSTEP_S3_ENDPOINT": "https://elsewhere"}, tmp_path)


def test_presigned_urls_carry_the_endpoint_unless_told_otherwise(tmp_path: Path) -> None:
    made = make({}, tmp_path)
    assert made.settings["LOCKSTEP_S3_PUBLIC_ENDPOINT"] == made.settings["LOCKSTEP_S3_ENDPOINT"]
    public = {"LOCKSTEP_S3_PUBLIC_ENDPOINT": "https://files.example"}
    assert make(public, tmp_path).settings["LOCKSTEP_S3_PUBLIC_ENDPOINT"] == "https://files.example"


def test_the_callers_settings_reach_the_services_and_those_of_others_do_not(tmp_path: Path) -> None:
    env = {"LOCKSTEP_QUOTA_BYTES": "7", "LOCKSTEP_TEST_AMQP_URL": "x", "LOCKSTEP_HOME": "/h", "OTHER": "y"}
    settings = make(env, tmp_path).settings
    assert settings["LOCKSTEP_QUOTA_BYTES"] == "7"
    assert not {"LOCKSTEP_TEST_AMQP_URL", "LOCKSTEP_HOME", "OTHER"} & set(settings)


def test_no_two_components_share_a_port(tmp_path: Path) -> None:
    ports = [port for command in make({}, tmp_path).everything for port in command.ports]
    assert len(ports) == len(set(ports))


def test_everything_listens_on_loopback_only(tmp_path: Path) -> None:
    made = make({}, tmp_path)
    assert all(command.env["LOCKSTEP_HOST"] == "127.0.0.1" for command in made.services)
    rabbitmq, mongo, s3 = made.backends
    assert rabbitmq.env["ERL_EPMD_ADDRESS"] == rabbitmq.env["RABBITMQ_NODE_IP_ADDRESS"] == "127.0.0.1"
    assert "127.0.0.1" in mongo.argv
    assert "-ip.bind=127.0.0.1" in s3.argv


def test_no_secret_is_an_argument(tmp_path: Path) -> None:
    secrets = ("rabbit", "secret", "internal", "t" * 32)
    for command in make({}, tmp_path).everything:
        assert not any(secret in arg.split("/")[-1].split("=") for secret in secrets for arg in command.argv)


@pytest.mark.parametrize("text", ["0", "-1", "x", "70000", "\N{FULLWIDTH DIGIT EIGHT}"])
def test_a_port_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(StackError, match="LOCKSTEP_GATEWAY_PORT"):
        find_ports({"LOCKSTEP_GATEWAY_PORT": text})


def test_secrets_differ_are_long_and_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make_folders()
    made = load_secrets(layout)
    assert load_secrets(layout) == made
    values = read_env(layout.secrets_file).values()
    assert len(set(values)) == len(values)
    assert all(len(value) >= 20 for value in values)
    assert len(made.token_secret) >= 32
    assert stat.S_IMODE(layout.secrets_file.stat().st_mode) == 0o600


def test_a_setting_cannot_add_another_line(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="LOCKSTEP_X"):
        write_env(tmp_path / "env", {"LOCKSTEP_X": "a\nLOCKSTEP_Y=b"})


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = {"A": "x=y#z", "B": "", "C": "with space"}
    write_env(tmp_path / "env", values)
    assert read_env(tmp_path / "env") == values


def test_sockets_have_short_names_however_deep_the_repository_is(tmp_path: Path) -> None:
    deep = Layout(tmp_path / ("x" * 120) / "var")
    assert len(str(deep.sockets)) <= LONGEST_SOCKET_FOLDER
    assert deep.sockets != Layout(tmp_path / ("y" * 120) / "var").sockets


def test_state_is_where_it_is_asked_for() -> None:
    assert find_layout({"LOCKSTEP_VAR": "/elsewhere"}).run == Path("/elsewhere/run")


def test_supervisor_restarts_everything_and_survives_odd_paths(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "100% odd path")
    parser = configparser.RawConfigParser()
    parser.read_string(configuration(make({}, tmp_path), layout))
    programs = {name.removeprefix("program:") for name in parser.sections() if name.startswith("program:")}
    assert programs == {*BACKENDS, *SERVICES}
    for name in programs:
        assert parser[f"program:{name}"]["autorestart"] == "true"
        assert "100%% odd path" in parser[f"program:{name}"]["command"]
