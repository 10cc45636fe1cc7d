"""Shadow mode: effect that a rate limit would have on the traffic, without limiting it.

The shadow has its own model of the limit: no real tokens are consumed and nothing is delayed, but
the model is charged as the limit would be. The throttling guide's sketch calls `tryTake()` of the
real limiter, which takes tokens from others.
"""

from __future__ import annotations

from math import inf

import msgspec


class ShadowFigures(msgspec.Struct, frozen=True):
    """Effect that the limit would have had. Times in seconds."""

    seen: int
    delayed: int
    refused: int  # would have waited for longer than `patience_s`
    total_delay_s: float
    longest_delay_s: float


class Shadow:
    """Model of a limit with the `rate` and `burst` of a `TokenBucket`; waits over `patience_s`
    count as refused."""

    def __init__(self, rate: float, burst: float = 1.0, *, patience_s: float = 60.0) -> None:
        if rate <= 0 or burst < 1 or patience_s < 0:
            raise ValueError("rate is positive, burst at least 1, patience_s not negative")
        self.rate = rate
        self.burst = burst
        self.patience_s = patience_s
        self._due = -inf  # time of the next message's token, after those of the messages before it
        self._seen = self._delayed = self._refused = 0
        self._total = self._longest = 0.0

    def would_delay(self, now: float) -> float:
        """Return the seconds that a message would wait now. Changes nothing."""
        return max(0.0, self._due - now)

    def decide(self, now: float) -> float:
        """Count a message that passes now; return the seconds that it would have waited (inf:
        refused)."""
        delay = self.would_delay(now)
        self._seen += 1
        if delay > self.patience_s:
            self._refused += 1
            return inf
        # `_due` may be in the past by as much as the burst allows, so that `burst` messages pass at
        # once.
        earliest = now - (self.burst - 1.0) / self.rate
        self._due = max(self._due, earliest) + 1.0 / self.rate
        if delay > 0.0:
            self._delayed += 1
            self._total += delay
            self._longest = max(self._longest, delay)
        return delay

    def figures(self) -> ShadowFigures:
        return ShadowFigures(self._seen, self._delayed, self._refused, self._total, self._longest)
