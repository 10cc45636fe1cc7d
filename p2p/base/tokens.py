"""Token arithmetic of all rate limits and budgets in `p2p`. No I/O, no clock.

A bucket fills at `rate` tokens a second up to `burst`. Rate and burst are arguments of each call, not fields,
so that a table of thousands of senders holds two numbers for each.
`p2p.flow.token_bucket.TokenBucket` adds a queue of waiters and an owner of the rate,
`p2p.adaptive.retry_policy.RetryBudget` earns tokens with requests.
"""

from __future__ import annotations

# A wait of exactly one interval must not fail by a rounding error.
ROUNDING = 1e-9


class Tokens:
    """Tokens of one sender. Times are monotonic seconds; the clock may stand still or jump back."""

    __slots__ = ("at", "level")

    def __init__(self, level: float, now: float | None = None) -> None:
        """Start with `level` tokens, filling up from `now`, or from the first use when it is None."""
        self.level = level
        self.at = now

    def available(self, now: float, rate: float, burst: float) -> float:
        """Return the present tokens. Changes nothing."""
        at = self.at
        if at is None or now <= at:
            return self.level if self.level < burst else burst
        level = self.level + (now - at) * rate
        return level if level < burst else burst

    def refill(self, now: float, rate: float, burst: float) -> float:
        """Bring the level up to `now` and return it."""
        self.level = level = self.available(now, rate, burst)
        if self.at is None or now > self.at:
            self.at = now
        return level

    def take(self, now: float, rate: float, burst: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens if they are there."""
        # `refill` inlined: this runs for every message.
        level, at = self.level, self.at
        if at is None:
            self.at = now
        elif now > at:
            level += (now - at) * rate
            self.at = now
        if level > burst:
            level = burst
        if level + ROUNDING < cost:
            self.level = level
            return False
        self.level = level - cost if level > cost else 0.0
        return True
