"""Token buckets of the exchange: order rates of accounts, budgets of other nodes.

A bucket fills at `rate` tokens a unit of time up to `burst`. Both are arguments of each call, not fields, so
that a table of many senders holds two numbers for each, and a changed rate counts at once. No clock.
`p2p.base.tokens` is the counterpart of the network: the two packages never import each other.
"""

from __future__ import annotations

from typing import Final

from exchange.model.bounded_dict import BoundedDict

ROUNDING: Final = 1e-9  # a wait of exactly one interval must not fail by a rounding error
MAX_BUCKETS: Final = 10_000  # names remembered whose bucket is not full


class RateBucket:
    """Tokens of one sender at the time `at`. Times never go back: an earlier one counts as `at`."""

    __slots__ = ("at", "level")

    def __init__(self, level: float, at: float) -> None:
        self.level = level
        self.at = at

    def refill(self, now: float, rate: float, burst: float) -> float:
        """Bring the level up to `now` and return it; negative after an overdraft."""
        level = self.level
        if now > self.at:
            level += (now - self.at) * rate
            self.at = now
        if level > burst:
            level = burst
        self.level = level
        return level

    def take(self, now: float, rate: float, burst: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens if they are there."""
        level = self.refill(now, rate, burst)
        if level + ROUNDING < cost:
            return False
        self.level = level - cost
        return True


class RateBuckets:
    """A bucket for each of many names: `burst` at once, `rate` a second afterwards.

    The name that was unused for longest is forgotten first: its bucket is the fullest.
    """

    def __init__(self, rate: float, burst: float, most: int = MAX_BUCKETS) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: BoundedDict[str, RateBucket] = BoundedDict(most)

    def tokens(self, now: float, name: str) -> float:
        """Return the tokens that are left; negative after an overdraft."""
        bucket = self._buckets.get(name)
        return self._burst if bucket is None else bucket.refill(now, self._rate, self._burst)

    def take(self, now: float, name: str, cost: float = 1.0) -> bool:
        """Take `cost` tokens if they are there."""
        return self._bucket(now, name).take(now, self._rate, self._burst, cost)

    def overdraw(self, now: float, name: str, cost: float) -> None:
        """Take `cost` tokens even if the level becomes negative."""
        bucket = self._bucket(now, name)
        bucket.level = bucket.refill(now, self._rate, self._burst) - cost

    def _bucket(self, now: float, name: str) -> RateBucket:
        bucket = self._buckets.renew(name)
        if bucket is None:
            bucket = self._buckets[name] = RateBucket(self._burst, now)
        return bucket
