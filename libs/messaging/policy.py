"""What becomes of a message after its handler has ended: one table, pure."""

from enum import Enum, auto

from pydantic import ValidationError

from libs.contracts.errors import CallerError, RateLimitedError, UnavailableError


class Verdict(Enum):
    """What the consumer does with the message."""

    DONE = auto()
    """Acknowledge."""
    DEAD = auto()
    """To the dead letters at once: a repeat cannot help."""
    RETRY = auto()
    """Again after a delay; this counts as an attempt."""
    WAIT = auto()
    """A backend is away: stop consuming until it answers; no attempt is counted."""


def judge(error: BaseException | None) -> Verdict:
    """Return the verdict on a handler that ended with `error` (None: it is done).

    A cancelled handler is not judged: its message stays unacknowledged and is delivered again.
    """
    match error:
        case None:
            return Verdict.DONE
        case UnavailableError():
            return Verdict.WAIT
        case RateLimitedError():
            return Verdict.RETRY
        case ValidationError() | CallerError():
            return Verdict.DEAD
        case _:
            return Verdict.RETRY
