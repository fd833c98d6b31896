"""A server that lets a device in only now and then: its syncs take longer, and fail at nothing."""

from collections.abc import Iterator
from urllib.error import HTTPError

import pytest

from tests.support.backends import Backends
from tests.support.devices import Device, check_same, tree_of
from tests.support.stack import Stack, running_stack

PER_MINUTE = 90
FILES = 30


@pytest.fixture(scope="module")
def stack(backends: Backends) -> Iterator[Stack]:
    """A stack of its own, whose gateway allows little."""
    with running_stack(backends, {"LOCKSTEP_RATE_DEVICE_PER_MINUTE": str(PER_MINUTE)}) as running:
        yield running


def refusal(device: Device) -> int | None:
    """Ask once; the status with which that is refused."""
    try:
        device.get("/v1/usage")
    except HTTPError as refused:
        with refused:
            return refused.code
    return None


def use_up(device: Device) -> None:
    """Ask until the server has enough."""
    statuses = (refusal(device) for _ in range(10 * PER_MINUTE))
    assert next(status for status in statuses if status is not None) == 429


def test_a_sync_waits_for_a_server_that_is_asked_too_often(two: tuple[Device, Device]) -> None:
    """Without having time for one that is away."""
    a, b = two
    for number in range(FILES):
        a.write(f"folder {number % 5}/{number}", f"content {number}")
    a.write("large", bytes(11 * 1024 * 1024))
    use_up(a)
    sent = a.quick_sync(retry_seconds=0.0)
    use_up(b)
    fetched = b.quick_sync(retry_seconds=0.0)
    assert (sent["uploaded_files"], fetched["downloaded_files"]) == (FILES + 1, FILES + 1)
    assert sent["problems"] == fetched["problems"] == []
    check_same(tree_of(a.folder), tree_of(b.folder), "A and B")


def test_a_sync_that_may_not_wait_says_why_and_loses_nothing(two: tuple[Device, Device]) -> None:
    a, _ = two
    a.quick_sync()
    a.write("file", "content")
    use_up(a)
    report = a.quick_sync(expect=None, retry_seconds=0.0, rate_limit_seconds=0.0)
    assert report["in_step"] is False
    assert a.read("file") == "content"
    assert a.quick_sync()["uploaded_files"] == 1
