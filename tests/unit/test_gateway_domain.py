"""The gateway's rules: refresh tokens, rate limits, device names, passwords."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.contracts.errors import InvalidRequestError
from libs.contracts.limits import MAX_DEVICE_NAME_BYTES
from libs.contracts.openapi import openapi_document
from services.gateway.domain.accounts import (
    check_device_name,
    check_password,
    device_name_key,
    free_device_name,
)
from services.gateway.domain.limits import RateLimiter, client_address
from services.gateway.domain.page import render_page
from services.gateway.domain.refresh import (
    Chain,
    RefreshToken,
    Use,
    first_chain,
    judge,
    make_token,
    next_turn,
    read_token,
    rotated,
)

KEY = b"k" * 32
DEVICE = "5f" * 12


def fresh() -> RefreshToken:
    return make_token(DEVICE, KEY)


def test_a_fresh_token_is_read_back_as_genuine_and_only_its_digest_differs_from_others() -> None:
    token = fresh()
    again = read_token(token.text, KEY)
    assert again == token
    assert again.digest != fresh().digest


@pytest.mark.parametrize(
    "text", ["", "x", "lockstep_rt_", f"lockstep_rt_{DEVICE}_short", "lockstep_rt_zz_" + "a" * 59]
)
def test_what_has_not_a_tokens_form_is_none(text: str) -> None:
    assert read_token(text, KEY) is None


def test_a_token_that_was_never_given_out_is_invalid_and_revokes_nothing() -> None:
    made_up = read_token(make_token(DEVICE, b"another key").text, KEY)
    assert made_up is not None
    assert judge(first_chain(fresh()), made_up) is Use.INVALID


def test_the_previous_token_stays_valid_until_its_successor_is_used() -> None:
    first, second, third = fresh(), fresh(), fresh()
    chain = rotated(first_chain(first), first, second)
    assert judge(chain, first) is Use.ROTATE
    assert judge(chain, second) is Use.ROTATE
    chain = rotated(chain, second, third)
    assert judge(chain, first) is Use.REUSED
    assert judge(chain, second) is Use.ROTATE
    assert judge(chain, third) is Use.ROTATE


def test_two_refreshes_at_once_give_two_successors_of_which_the_one_used_first_counts() -> None:
    first, left, right, next_one = fresh(), fresh(), fresh(), fresh()
    chain = rotated(rotated(first_chain(first), first, left), first, right)
    assert judge(chain, left) is judge(chain, right) is Use.ROTATE
    chain = rotated(chain, left, next_one)
    assert judge(chain, right) is Use.REUSED
    assert judge(chain, next_one) is Use.ROTATE


@given(st.lists(st.booleans(), max_size=30))
def test_a_device_that_keeps_its_newest_token_is_never_locked_out(lost: list[bool]) -> None:
    held = fresh()
    chain = first_chain(held)
    for answer_lost in lost:
        assert judge(chain, held) is Use.ROTATE
        new = fresh()
        chain = rotated(chain, held, new)
        held = held if answer_lost else new
    assert judge(chain, held) is Use.ROTATE
    assert len(chain.pending) <= 8


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_pass_at_once_the_next_waits_and_time_refills() -> None:
    clock = Clock()
    limiter = RateLimiter(60, clock)
    assert [limiter.take("a") for _ in range(60)] == [0.0] * 60
    assert limiter.take("a") == pytest.approx(1.0)
    assert limiter.take("b") == 0.0
    clock.now = 1.0
    assert limiter.take("a") == 0.0
    assert limiter.take("a") > 0


def test_a_refused_request_takes_nothing() -> None:
    clock = Clock()
    limiter = RateLimiter(1, clock)
    limiter.take("a")
    assert limiter.take("a") == limiter.take("a") == pytest.approx(60.0)


def test_the_limiters_memory_is_bounded_and_busy_keys_are_kept() -> None:
    limiter = RateLimiter(1, Clock(), max_keys=10)
    limiter.take("busy")
    for number in range(100):
        limiter.take("busy")
        limiter.take(f"address {number}")
    assert limiter.take("busy") > 0
    assert len(limiter._buckets) == 10


@pytest.mark.parametrize(
    ("forwarded_for", "proxies", "expected"),
    [
        (None, 0, "peer"),
        ("1.1.1.1", 0, "peer"),
        ("1.1.1.1", 1, "1.1.1.1"),
        ("claimed, 2.2.2.2", 1, "2.2.2.2"),
        ("claimed, 2.2.2.2, 3.3.3.3", 2, "2.2.2.2"),
        ("1.1.1.1", 2, "peer"),
        ("", 1, "peer"),
    ],
)
def test_the_address_is_what_a_trusted_proxy_saw(
    forwarded_for: str | None, proxies: int, expected: str
) -> None:
    assert client_address("peer", forwarded_for, proxies) == expected


@pytest.mark.parametrize("name", ["laptop", "a" * 40, "Büro-Rechner", "my phone"])
def test_a_valid_file_name_of_at_most_40_bytes_is_a_device_name(name: str) -> None:
    assert check_device_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0b", "a" * 41, "ü" * 21, ".lockstep"])
def test_other_device_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_device_name(name)
    assert refused.value.code == "invalid_name"


def test_a_taken_device_name_gets_a_number_whatever_its_case() -> None:
    taken = {device_name_key(name) for name in ("Laptop", "laptop 2")}
    assert free_device_name("laptop", taken) == "laptop 3"
    assert free_device_name("phone", taken) == "phone"


@given(
    st.text("aü😀 ", min_size=1, max_size=40).filter(lambda name: len(name.encode()) <= 40),
    st.integers(0, 12),
)
def test_a_numbered_device_name_fits_and_is_free(name: str, others: int) -> None:
    taken: set[str] = set()
    for _ in range(others):
        taken.add(device_name_key(free_device_name(name, taken)))
    chosen = free_device_name(name, taken)
    assert device_name_key(chosen) not in taken
    assert len(chosen.encode()) <= MAX_DEVICE_NAME_BYTES


@pytest.mark.parametrize("length", [0, 7, 1025])
def test_a_password_outside_8_to_1024_characters_is_weak(length: int) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_password("x" * length)
    assert refused.value.code == "weak_password"


@pytest.mark.parametrize("length", [8, 1024])
def test_a_password_at_the_limits_is_allowed(length: int) -> None:
    assert check_password("x" * length)


def test_the_page_shows_every_endpoint_and_model_and_loads_nothing_from_elsewhere() -> None:
    document = openapi_document()
    page = render_page(document)
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page
    for model in document["components"]["schemas"]:
        assert f"id='model-{model}'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert " src=" not in page


def test_a_token_newer_than_the_chain_is_the_devices_after_a_restore_from_a_backup() -> None:
    """The database lost the last turns; the device goes on, and a copy of an old token does not."""
    old = make_token(DEVICE, KEY, turn=3)
    backup = Chain(turn=5, pending=("later",), previous="earlier")
    held = make_token(DEVICE, KEY, turn=9)
    assert judge(backup, held) is Use.ROTATE
    fresh = make_token(DEVICE, KEY, turn=next_turn(backup, held))
    after = rotated(backup, held, fresh)
    assert (after.turn, after.pending, after.previous) == (10, (fresh.digest,), held.digest)
    assert judge(after, fresh) is Use.ROTATE
    assert judge(after, old) is Use.REUSED


def test_the_turn_of_a_token_cannot_be_changed() -> None:
    token = make_token(DEVICE, KEY, turn=1)
    forged = read_token(token.text.replace(f"{DEVICE}_1_", f"{DEVICE}_7_"), KEY)
    assert forged is not None
    assert not forged.genuine
