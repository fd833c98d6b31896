"""What a client's time went into, seen from outside: from the gateway's log of its requests."""

import json
from dataclasses import dataclass
from datetime import datetime

from tests.bench.child import Cost


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    began: float
    ended: float


def requests_between(log: str, cost: Cost) -> list[Request]:
    """The requests that a run made, in order of their beginning; no other client may be at work."""
    found = []
    for line in log.splitlines():
        if '"event": "request"' in line:
            request = _parsed(json.loads(line))
            if cost.began <= request.began and request.ended <= cost.ended + 0.1:
                found.append(request)
    return sorted(found, key=lambda request: request.began)


def _parsed(row: dict[str, str]) -> Request:
    ended = datetime.fromisoformat(row["timestamp"]).timestamp()
    return Request(row["method"], row["path"], ended - float(row["ms"]) / 1000, ended)


def put_phases(requests: list[Request], cost: Cost) -> dict[str, float]:
    """Start-up, hash, opening the session, sending, completing, end of `lockstep put`."""
    opened = next(r for r in requests if r.method == "POST" and r.path == "/v1/uploads")
    completing = next(r for r in requests if r.path.endswith("/complete"))
    before = [r for r in requests if r.ended <= opened.began]
    looked = max((r.ended for r in before), default=cost.began)
    last = max(r.ended for r in requests)
    return {
        "start and look": looked - cost.began,
        "hash": opened.began - looked,
        "open session": opened.ended - opened.began,
        "send": completing.began - opened.ended,
        "complete": last - completing.began,
        "end": cost.ended - last,
    }


def get_phases(requests: list[Request], cost: Cost) -> dict[str, float]:
    """Start-up with the questions to the server, and all that follows, of `lockstep get`."""
    asked = next(r for r in reversed(requests) if r.path.endswith("/download"))
    return {"start and ask": asked.ended - cost.began, "receive, verify, flush": cost.ended - asked.ended}
