"""Scenario 134: rounds of random operations on two and three devices; equal trees after each round.

`make soak` runs many; these few are always the same.
"""

from pathlib import Path

import pytest

from tests.soak.content import Author, compose, fault_in
from tests.soak.field import new_field, told
from tests.soak.rounds import MODES
from tests.soak.steps import generate
from tests.support.devices import new_account
from tests.support.stack import Stack


@pytest.mark.parametrize(
    ("mode", "devices", "rounds", "length"),
    [("offline", 2, 2, 20), ("offline", 3, 2, 12), ("live", 2, 1, 15), ("kill", 2, 1, 12)],
)
def test_134_devices_are_equal_after_rounds_of_random_operations(
    stack: Stack, tmp_path: Path, mode: str, devices: int, rounds: int, length: int
) -> None:
    stack.ensure_running()
    account = new_account(stack.gateway_url, tmp_path)
    field = new_field(account, devices, "134", strict=mode == "offline")
    with told(field):
        for played in generate("134", devices, rounds, length):
            MODES[mode](field, played, stack)
            field.check()
        field.check_from_nothing()


def test_the_same_seed_gives_the_same_steps() -> None:
    assert generate("7", 3, 4, 20) == generate("7", 3, 4, 20)
    assert generate("7", 3, 4, 20) != generate("8", 3, 4, 20)


@pytest.mark.parametrize("records", [1, 2, 5])
def test_any_part_of_a_content_that_is_lost_doubled_or_mixed_is_found(records: int) -> None:
    content = compose(Author("A", 1, "seed"), 2000, records)
    other = compose(Author("B", 2, "seed"), 2000, records)
    assert fault_in(content) is None
    assert fault_in(content[:-1]) is not None
    assert fault_in(content[:-300] + content[-299:]) is not None
    assert fault_in(content + other) is not None
    assert fault_in(content[:700] + other[700:]) is not None
    assert fault_in(b"\0" * len(content)) is not None


def test_a_content_that_disappears_is_found(stack: Stack, tmp_path: Path) -> None:
    """The search itself: what the ledger owes and no device has fails the check."""
    field = new_field(new_account(stack.gateway_url, tmp_path), 2, "lost")
    field.ledger.wrote("ab" * 32, "A, nowhere")
    with pytest.raises(AssertionError, match="lost"):
        field.check()
