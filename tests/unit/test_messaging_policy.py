"""What becomes of a message, and the names on the broker."""

import pytest
from pydantic import BaseModel, ValidationError

from libs.contracts.errors import (
    ConflictError,
    InvalidRequestError,
    LockstepError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
)
from libs.contracts.events import EVENTS
from libs.messaging.policy import Verdict, judge
from libs.messaging.topology import BINDINGS, Topology, delay_for


def invalid() -> ValidationError:
    class Model(BaseModel):
        field: int

    try:
        Model.model_validate({})
    except ValidationError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, Verdict.DONE),
        (UnavailableError(), Verdict.WAIT),
        (RateLimitedError(), Verdict.RETRY),
        (invalid(), Verdict.DEAD),
        (ConflictError(), Verdict.DEAD),
        (NotFoundError(), Verdict.DEAD),
        (InvalidRequestError(), Verdict.DEAD),
        (LockstepError(), Verdict.RETRY),
        (RuntimeError(), Verdict.RETRY),
        (KeyError("x"), Verdict.RETRY),
    ],
)
def test_the_verdict_says_whose_fault_it_was_and_whether_a_repeat_helps(
    error: Exception | None, verdict: Verdict
) -> None:
    assert judge(error) is verdict


def test_delays_grow_and_then_there_is_no_further_try() -> None:
    assert [delay_for(attempts, (1.0, 5.0)) for attempts in (1, 2, 3, 4)] == [1.0, 5.0, None, None]


def test_every_bound_key_is_of_an_event_that_exists() -> None:
    topics = {event.topic for event in EVENTS}
    for keys in BINDINGS.values():
        for key in keys:
            topic, _, namespace = key.rpartition(".")
            assert topic in topics
            assert namespace == "*"


def test_names_of_two_prefixes_never_meet() -> None:
    one, other = Topology("one"), Topology("other")
    names = [
        {
            t.exchange,
            t.dead_exchange,
            t.queue("upload"),
            t.dead_queue("upload"),
            t.retry_queue(1),
            t.retry_exchange(1),
        }
        for t in (one, other)
    ]
    assert not names[0] & names[1]


def test_durable_queues_are_quorum_queues_with_a_delivery_limit_and_a_dead_letter_exchange() -> None:
    arguments = Topology("t").queue_arguments("upload")
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-delivery-limit"] == 50
    assert arguments["x-dead-letter-exchange"] == "t.dead"
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
