"""What the local stack consists of, decided from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.local import commands
from deploy.local.commands import Command
from deploy.local.errors import StackError
from deploy.local.layout import Layout, Secrets
from deploy.local.rabbitmq_install import ensure_installed

# The variable that gives a backend by address; then it is not started here.
GIVEN_BY = {"rabbitmq": "LOCKSTEP_AMQP_URL", "mongo": "LOCKSTEP_MONGO_URL", "s3": "LOCKSTEP_S3_ENDPOINT"}
S3_CREDENTIALS = ("LOCKSTEP_S3_ACCESS_KEY", "LOCKSTEP_S3_SECRET_KEY")
# These speak to the stack, the agent or the tests, not to the services.
NOT_FOR_SERVICES = (
    "LOCKSTEP_GATEWAY_PORT",
    "LOCKSTEP_HOME",
    "LOCKSTEP_HOST",
    "LOCKSTEP_PORT",
    "LOCKSTEP_PORT_BASE",
)
NOT_FOR_SERVICES_PREFIXES = ("LOCKSTEP_TEST_", "LOCKSTEP_VAR")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start, and the settings that all services share."""

    backends: tuple[Command, ...]
    services: tuple[Command, ...]
    settings: Mapping[str, str]
    gateway_url: str

    @property
    def everything(self) -> tuple[Command, ...]:
        return self.backends + self.services


def make_plan(env: Mapping[str, str], layout: Layout, keys: Secrets, ports: Mapping[str, int]) -> Plan:
    """Decide what runs here. Installs RabbitMQ when it is needed and missing."""
    given = {name for name, variable in GIVEN_BY.items() if env.get(variable)}
    if "s3" in given and not all(env.get(name) for name in S3_CREDENTIALS):
        raise StackError(f"LOCKSTEP_S3_ENDPOINT is set, so these are needed too: {', '.join(S3_CREDENTIALS)}")
    settings = _settings(keys, ports) | _overrides(env)
    if "LOCKSTEP_S3_PUBLIC_ENDPOINT" not in settings:
        settings["LOCKSTEP_S3_PUBLIC_ENDPOINT"] = settings["LOCKSTEP_S3_ENDPOINT"]
    return Plan(
        backends=tuple(
            _backend(name, layout, keys, ports) for name in commands.BACKENDS if name not in given
        ),
        services=tuple(commands.service(name, ports[name], settings) for name in commands.SERVICES),
        settings=settings,
        gateway_url=f"http://{commands.HOST}:{ports['gateway']}",
    )


def _settings(keys: Secrets, ports: Mapping[str, int]) -> dict[str, str]:
    return {
        "LOCKSTEP_AMQP_URL": commands.amqp_url(ports["rabbitmq"], keys.amqp_password),
        "LOCKSTEP_AMQP_PREFIX": "lockstep",
        "LOCKSTEP_MONGO_URL": commands.mongo_url(ports["mongo"]),
        "LOCKSTEP_MONGO_DATABASE": "lockstep",
        "LOCKSTEP_S3_ENDPOINT": commands.s3_url(ports["s3"]),
        "LOCKSTEP_S3_REGION": "us-east-1",
        "LOCKSTEP_S3_BUCKET": "lockstep",
        "LOCKSTEP_S3_ACCESS_KEY": keys.s3.access_key,
        "LOCKSTEP_S3_SECRET_KEY": keys.s3.secret_key,
        "LOCKSTEP_TOKEN_SECRET": keys.token_secret,
        "LOCKSTEP_LOG_LEVEL": "info",
        "LOCKSTEP_LOG_FORMAT": "json",
        **commands.service_urls(ports),
    }


def _overrides(env: Mapping[str, str]) -> dict[str, str]:
    """The caller's own settings for the services."""
    return {
        name: value
        for name, value in env.items()
        if name.startswith("LOCKSTEP_")
        and name not in NOT_FOR_SERVICES
        and not name.startswith(NOT_FOR_SERVICES_PREFIXES)
        and value
    }


def _backend(name: str, layout: Layout, keys: Secrets, ports: Mapping[str, int]) -> Command:
    home, port = layout.data / name, ports[name]
    match name:
        case "rabbitmq":
            return commands.rabbitmq(ensure_installed(), home, port, keys.amqp_password)
        case "mongo":
            return commands.mongo(home, port)
        case "s3":
            return commands.s3(home, port, keys.s3, layout.sockets)
        case _:
            raise StackError(f"there is no backend {name}")
