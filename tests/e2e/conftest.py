"""Two or three linked devices on the real stack."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.devices import Account, Device, new_account
from tests.support.stack import Stack

Devices = Callable[[str], list[Device]]


@pytest.fixture
def account(stack: Stack, tmp_path: Path) -> Account:
    """An account of this test alone, with no device yet."""
    stack.ensure_running()
    return new_account(stack.gateway_url, tmp_path)


@pytest.fixture
def two(account: Account) -> tuple[Device, Device]:
    """Devices A and B."""
    return account.link("A", register=True), account.link("B")


@pytest.fixture
def three(two: tuple[Device, Device], account: Account) -> tuple[Device, Device, Device]:
    """Devices A, B and C."""
    return (*two, account.link("C"))
