"""Token buckets of all rate limits and budgets. No clock.

A bucket fills at `rate` tokens a unit of time up to `burst`. Rate and burst are arguments of each call, not fields,
so that a table of thousands of senders holds two numbers for each, and a changed rate counts at once.
`p2p.flow.token_bucket.TokenBucket` adds a queue of waiters and an owner of the rate,
`p2p.adaptive.retry_policy.RetryBudget` earns tokens with requests.
"""

from __future__ import annotations

from typing import Final

from p2p.ground.bounded_map import BoundedMap

# A wait of exactly one interval must not fail by a rounding error.
ROUNDING: Final = 1e-9
MAX_BUCKETS: Final = 10_000  # names of a table that are remembered; about 2 MB


class Tokens:
    """Tokens of one sender. The clock may stand still or jump back."""

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

    def overdraw(self, now: float, rate: float, burst: float, cost: float) -> float:
        """Take `cost` tokens even if the level becomes negative; returns the level."""
        self.level = level = self.refill(now, rate, burst) - cost
        return level


class TokenTable:
    """A bucket for each of many names: `burst` at once, `rate` a unit of time afterwards.

    The name that was unused for longest is forgotten first: its bucket is the fullest.
    """

    def __init__(self, rate: float, burst: float, most: int = MAX_BUCKETS) -> None:
        self.rate = rate
        self.burst = burst
        self._buckets: BoundedMap[str, Tokens] = BoundedMap(most)

    def tokens(self, now: float, name: str) -> float:
        """Return the tokens that are left, negative after an overdraft. Changes nothing."""
        bucket = self._buckets.get(name)
        return self.burst if bucket is None else bucket.available(now, self.rate, self.burst)

    def take(self, now: float, name: str, cost: float = 1.0) -> bool:
        """Take `cost` tokens if they are there."""
        return self._bucket(now, name).take(now, self.rate, self.burst, cost)

    def overdraw(self, now: float, name: str, cost: float) -> None:
        """Take `cost` tokens even if the level becomes negative."""
        self._bucket(now, name).overdraw(now, self.rate, self.burst, cost)

    def _bucket(self, now: float, name: str) -> Tokens:
        bucket = self._buckets.renew(name)
        if bucket is None:
            bucket = self._buckets[name] = Tokens(self.burst, now)
        return bucket
