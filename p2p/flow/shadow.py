"""Shadow mode: what a limit would have done to the traffic that passes, without touching it.

The sketch asks `tryTake()`, which takes a token from the limiter that others use. Here the shadow has a
model of the limit for itself: nothing real is consumed and nothing is delayed, but the model is charged
as the limit would be, or it would never find anything to delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class ShadowFigures:
    """Effect that the limit would have had. Seconds."""

    seen: int
    delayed: int
    refused: int  # would have waited for longer than `patience_s`
    total_delay_s: float
    longest_delay_s: float


class Shadow:
    """The limit `rate` and `burst` as a `TokenBucket` has them; waits over `patience_s` count as refused."""

    def __init__(self, rate: float, burst: float = 1.0, *, patience_s: float = 60.0) -> None:
        if rate <= 0 or burst < 1 or patience_s < 0:
            raise ValueError("rate is positive, burst at least 1, patience_s not negative")
        self.rate = rate
        self.burst = burst
        self.patience_s = patience_s
        self._due = -inf  # when the next message's token is there, counting those let in before it
        self._seen = self._delayed = self._refused = 0
        self._total = self._longest = 0.0

    def would_delay(self, now: float) -> float:
        """Seconds that a message would wait now. Changes nothing."""
        return max(0.0, self._due - now)

    def decide(self, now: float) -> float:
        """A message passes now: count it; the seconds that it would have waited (inf: refused)."""
        delay = self.would_delay(now)
        self._seen += 1
        if delay > self.patience_s:
            self._refused += 1
            return inf
        # `_due` may lie in the past by what the burst allows, so that burst many pass at once.
        earliest = now - (self.burst - 1.0) / self.rate
        self._due = max(self._due, earliest) + 1.0 / self.rate
        if delay > 0.0:
            self._delayed += 1
            self._total += delay
            self._longest = max(self._longest, delay)
        return delay

    def figures(self) -> ShadowFigures:
        return ShadowFigures(self._seen, self._delayed, self._refused, self._total, self._longest)
