"""The wall clock of this machine. It may jump, in both directions: never take it for a duration.

The only place that asks for it, so that a simulation can let it jump.
"""

import time
from datetime import UTC, date, datetime


def now() -> float:
    """Return the time in seconds since 1970."""
    return time.time()


def today() -> date:
    """Return the date in UTC."""
    return datetime.fromtimestamp(now(), UTC).date()
