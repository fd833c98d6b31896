"""The wall clock of this machine. It may jump, in both directions: never take it for a duration.

The only place that asks for it, so that a simulation can let it jump.
"""

import time
from datetime import UTC, date, datetime


def now() -> float:
    """Return the time in seconds since 1970."""
    return time.time()


def until(moment: float, longest: float) -> float:
    """Return the seconds until a moment noted by this clock, at most `longest` ahead; 0 when it is over.

    One further away says that the clock was set back since: it counts as over, not as far away.
    """
    left = moment - now()
    return left if 0 < left <= longest else 0.0


def today() -> date:
    """Return the date in UTC."""
    return datetime.fromtimestamp(now(), UTC).date()
