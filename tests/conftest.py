"""The fixtures that all tests share. A backend that does not start is an error, never a skipped test."""

from collections.abc import Generator, Iterator

import pytest

from tests.support.backends import Backends, find_backends
from tests.support.stack import Stack, running_stack

STACK_FIXTURES = {"backends", "stack"}
STACK_SECONDS = 300


@pytest.fixture(scope="session")
def backends() -> Iterator[Backends]:
    """RabbitMQ, MongoDB and S3, started on first use."""
    with find_backends() as found:
        yield found


@pytest.fixture(scope="session")
def stack(backends: Backends) -> Iterator[Stack]:
    """All six services, ready; one stack for the whole run."""
    with running_stack(backends) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs real backends, and leave its first test the time to start them."""
    for item in items:
        if STACK_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.stack)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(STACK_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the services' logs beside the failure of a test that used them."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(running, Stack):
        report.sections.extend((f"log of {name}", text) for name, text in running.logs().items() if text)
    return report
