"""Waiting between tries: exponential with full jitter, after AWS' "Exponential Backoff And Jitter"."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: the n-th (from 0) lies in [0.5, 1] · min(cap, base · 2ⁿ)."""

    base: float
    cap: float

    def delay(self, attempt: int, rng: random.Random | None = None) -> float:
        """Return the delay before try `attempt` + 1."""
        top = min(self.cap, self.base * 2.0 ** min(attempt, 30))
        return top * ((rng or random).random() / 2 + 0.5)  # jitter needs no secrecy
