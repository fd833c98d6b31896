"""The compose file against the code: nothing in it can be misspelt, open, or secret by default."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from deploy.local.commands import SERVICES
from tests.support import docker

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"mongo-init"}
LONG_RUNNING = sorted(set(CONTAINERS) - ONE_SHOT)
# The gateway is the one entrance, and clients move bytes to and from S3 themselves.
PUBLISHED = {"gateway", "s3"}
SECRET_WORDS = ("SECRET", "PASSWORD", "PASS", "KEY")
SECRETS_OF_ENV = {
    "LOCKSTEP_S3_ACCESS_KEY",
    "LOCKSTEP_S3_SECRET_KEY",
    "LOCKSTEP_TOKEN_SECRET",
    "MONGO_PASSWORD",
    "MONGO_REPLICA_KEY",
    "MONGO_ROOT_PASSWORD",
    "RABBITMQ_PASSWORD",
    "S3_INTERNAL_KEY",
}


def settings_of(service: str) -> type[BaseSettings]:
    settings: type[BaseSettings] = importlib.import_module(f"services.{service}.settings").Settings
    return settings


def environment_file(path: str) -> dict[str, str]:
    lines = (ROOT / path).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(value: str, env: dict[str, str]) -> str:
    """What compose makes of `${NAME:?message}` and `${NAME:-default}`."""

    def replace(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        return env[name] if name in env else {"?": "", "-": rest}[kind]

    return re.sub(r"\$\{(\w+):([?-])([^}]*)\}", replace, value)


def test_all_services_are_there() -> None:
    assert set(SERVICES) <= set(CONTAINERS)


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_of_a_service_is_a_setting_of_it(service: str) -> None:
    fields = {f"LOCKSTEP_{name.upper()}" for name in settings_of(service).model_fields}
    assert set(CONTAINERS[service]["environment"]) <= fields


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gets_every_setting_that_it_needs(service: str) -> None:
    fields = settings_of(service).model_fields
    needed = {f"LOCKSTEP_{name.upper()}" for name, field in fields.items() if field.is_required()}
    assert needed <= set(CONTAINERS[service]["environment"])


@pytest.mark.parametrize("service", SERVICES)
def test_the_development_settings_are_valid(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment_file("deploy/development.env")
    for name, value in CONTAINERS[service]["environment"].items():
        monkeypatch.setenv(name, interpolated(str(value), env))
    assert settings_of(service)().model_dump()


def test_only_the_gateway_and_s3_publish_a_port_and_on_loopback_by_default() -> None:
    published = {name: container["ports"] for name, container in CONTAINERS.items() if "ports" in container}
    assert set(published) == PUBLISHED
    for ports in published.values():
        assert [port.startswith("${LOCKSTEP_BIND:-127.0.0.1}:") for port in ports] == [True]


def test_backends_and_services_cannot_be_reached_from_outside() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert {name for name, container in CONTAINERS.items() if "outside" in container["networks"]} == PUBLISHED


def test_no_secret_has_a_default() -> None:
    for name, rest in re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT):
        assert not any(word in name for word in SECRET_WORDS), f"{name} defaults to {rest}"


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_every_secret_comes_from_the_environment_or_compose_refuses(name: str) -> None:
    for variable, value in CONTAINERS[name].get("environment", {}).items():
        if any(word in variable for word in SECRET_WORDS) or re.search(r"://[^/]*@", str(value)):
            assert re.search(r"\$\{\w+:\?[^}]+\}", str(value)), variable


def test_the_example_names_every_needed_variable_and_gives_none() -> None:
    needed = set(re.findall(r"\$\{(\w+):\?", TEXT))
    example = environment_file(".env.example")
    assert set(example) == needed
    assert set(example.values()) == {""}
    assert needed >= SECRETS_OF_ENV


def test_development_secrets_are_complete_and_call_themselves_so() -> None:
    development = environment_file("deploy/development.env")
    assert set(development) == set(environment_file(".env.example"))
    assert all(development[name].replace("-", "").startswith("developmentonly") for name in SECRETS_OF_ENV)


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_images_are_pinned_by_version(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?(-[\w.]+)?", CONTAINERS[name]["image"])


def test_the_image_of_the_services_is_pinned_and_runs_without_root() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-[\w-]+$", text, re.MULTILINE)
    assert re.search(r"^USER [1-9]\d+$", text, re.MULTILINE)
    assert "--require-hashes" in text


def test_the_tests_run_the_same_images() -> None:
    images = {CONTAINERS[name]["image"] for name in ("rabbitmq", "mongo", "s3")}
    assert {docker.RABBITMQ_IMAGE, docker.MONGO_IMAGE, docker.SEAWEEDFS_IMAGE} == images


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_everything_that_stays_has_a_health_check_and_is_restarted(name: str) -> None:
    assert CONTAINERS[name]["healthcheck"]["test"]
    assert CONTAINERS[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_waits_for_its_backends(service: str) -> None:
    conditions = {name: how["condition"] for name, how in CONTAINERS[service]["depends_on"].items()}
    assert all(conditions[name] == "service_healthy" for name in ("rabbitmq", "mongo", "s3"))
    assert all(
        condition == "service_healthy" for name, condition in conditions.items() if name not in ONE_SHOT
    ), json.dumps(conditions)


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_mounted_files_exist(name: str) -> None:
    for volume in CONTAINERS[name].get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), source
