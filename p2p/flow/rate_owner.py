"""The one owner of a bucket's rate: the lowest of several limits is what the bucket gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from p2p.flow.token_bucket import TokenBucket


class Limit(Protocol):
    """Something that has an opinion about the rate: `WarmUp`, `Aimd`."""

    def rate(self, now: float) -> float: ...


class RateOwner:
    """Sets `bucket`'s rate to the lowest of the named limits, and says which one it was.

    In the sketch the warm-up's timer and AIMD both call setRate, and each undoes the other. Here
    neither does: both are asked. `on_change(now, old, new, reason)` hears of every step.
    """

    def __init__(
        self,
        bucket: TokenBucket,
        *,
        on_change: Callable[[float, float, float, str], None] | None = None,
        **limits: Limit,
    ) -> None:
        if not limits:
            raise ValueError("at least one limit")
        bucket.claim(self)
        self._bucket = bucket
        self._limits = limits
        self._on_change = on_change

    def update(self, now: float) -> float:
        """Ask the limits; the rate from now on. Call it before a take, or a few times a second."""
        name, rate = min(
            ((name, limit.rate(now)) for name, limit in self._limits.items()), key=lambda x: x[1]
        )
        old = self._bucket.rate
        if rate != old:
            self._bucket.set_rate(now, rate, owner=self)
            if self._on_change is not None:
                self._on_change(now, old, rate, name)
        return rate
