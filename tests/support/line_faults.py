"""What can go wrong between a device and its store, as data, and who decides when it does."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the store. `part` and `range` are absent where it names none."""

    method: str
    path: str
    part: int | None
    range: str | None
    by_device: bool
    """By a presigned URL, not by a service with its own credentials."""
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What the request is about: repeated requests for the same bytes have the same."""
        operation = ",".join(sorted(name for name in self.query if not name.startswith("X-Amz-")))
        return f"{self.method} {self.path} {operation} {self.part or ''} {self.range or ''}"


Match = Callable[[Asked], bool]


# The faults ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    """The request is handed on late; nothing is lost."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks.

    "before": nothing of the body is read. "middle": half of the longer body (up or down) has
    passed. "after": the store has all and has answered, and the answer is lost.
    """

    when: Literal["before", "middle", "after"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that the store did not give, to a body that it never saw.

    `early`: it is given before the body was read, and the connection is closed, as S3 does.
    `sticky`: every later request by the same URL gets it, too.
    """

    status: int
    code: str
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    early: bool = False
    sticky: bool = False


@dataclass(frozen=True, slots=True)
class Truncated:
    """The answer's body ends after half of the announced length."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """After half of the answer's body (of none: before its head) nothing comes any more."""


@dataclass(frozen=True, slots=True)
class FlippedUp:
    """One byte of the request's body arrives with another value."""


@dataclass(frozen=True, slots=True)
class FlippedDown:
    """One byte of the answer's body arrives with another value."""


@dataclass(frozen=True, slots=True)
class Page:
    """The HTML page of a captive portal instead of an answer of the store, which is not asked."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OtherRange:
    """A true answer to another question: the range that begins `by` bytes elsewhere."""

    by: int = -MIB


@dataclass(frozen=True, slots=True)
class Redirect:
    """A way to somewhere else, which must not be taken: the bytes would go to a stranger."""


Fault = (
    Latency | Reset | Refusal | Truncated | Stalled | FlippedUp | FlippedDown | Page | OtherRange | Redirect
)

SLOW_DOWN = Refusal(503, "SlowDown", "Please reduce your request rate.", {"Retry-After": "1"})
INTERNAL_ERROR = Refusal(500, "InternalError", "We encountered an internal error. Please try again.")
REQUEST_TIMEOUT = Refusal(400, "RequestTimeout", "Your socket connection was not read from or written to.")
EXPIRED = Refusal(403, "AccessDenied", "Request has expired", sticky=True)
EXPIRED_TOKEN = Refusal(403, "ExpiredToken", "The provided token has expired.", early=True, sticky=True)
ERROR_IN_SUCCESS = Refusal(200, "InternalError", "We encountered an internal error. Please try again.")


# Which request meets which --------------------------------------------------------------------


def part(*numbers: int) -> Match:
    """Uploads of these parts by a device; of any part when none is named."""
    return lambda asked: (
        asked.by_device
        and asked.method == "PUT"
        and asked.part is not None
        and (not numbers or asked.part in numbers)
    )


def read(asked: Asked) -> bool:
    """A download by a device."""
    return asked.by_device and asked.method == "GET"


def joining(asked: Asked) -> bool:
    """The upload service has the parts of a session joined."""
    return not asked.by_device and asked.method == "POST" and "uploadId" in asked.query


@dataclass(slots=True)
class Rule:
    """A script: this fault, for the next `times` requests that match."""

    match: Match
    fault: Fault
    times: int = 1

    def fault_for(self, asked: Asked) -> Fault | None:
        """Return the fault that a request meets, or None."""
        if self.times < 1 or not self.match(asked):
            return None
        self.times -= 1
        return self.fault


@dataclass(slots=True)
class Chance:
    """A share of the requests meets a fault: the n-th that matches has a fate that the seed decides.

    Which request is the n-th depends on how they interleave, so a seed repeats how often what
    happens, and nearly where.
    """

    seed: int
    share: float
    faults: Sequence[Fault]
    match: Match
    matched: int = 0

    def fault_for(self, asked: Asked) -> Fault | None:
        """See `Rule.fault_for`."""
        if not self.match(asked):
            return None
        self.matched += 1
        random = Random(f"{self.seed} {self.matched}")
        return random.choice(self.faults) if random.random() < self.share else None


Script = Rule | Chance


@dataclass(slots=True)
class Passed:
    """What passed for the same bytes: one part up, or one range down."""

    asked: Asked
    requests: int = 0
    faults: list[Fault] = field(default_factory=list)
    up: int = 0
    """Bytes of bodies handed on to the store."""
    down: int = 0
    """Bytes of answers handed on to the device."""
    acknowledged: int = 0
    """Bodies that the store has taken as a whole."""
    delivered: int = 0
    """Successes of the store of which the device heard, body included."""

    @property
    def spoilt(self) -> int:
        """How many requests a fault explains the repetition of."""
        return sum(not isinstance(fault, Latency) for fault in self.faults)


def tally_of(passed: Sequence[Passed]) -> Counter[str]:
    """How often which kind of fault was met, for messages."""
    return Counter(type(fault).__name__ for one in passed for fault in one.faults)
