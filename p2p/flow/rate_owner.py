"""Rate owner: sets a token bucket's rate to the lowest of several limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from p2p.flow.token_bucket import TokenBucket


class Limit(Protocol):
    """Source of a limit: `WarmUp`, `Aimd`."""

    def rate(self, now: float) -> float: ...


class RateOwner:
    """Set `bucket`'s rate to the lowest of the named limits, and report which limit it was.

    In the throttling guide's sketch the warm-up's timer and AIMD both set the rate and undo each
    other. Here only the owner sets it. `on_change(now, old, new, reason)` is called with every
    step.
    """

    def __init__(
        self,
        bucket: TokenBucket,
        *,
        on_change: Callable[[float, float, float, str], None] | None = None,
        **limits: Limit,
    ) -> None:
        if not limits:
            raise ValueError("expected at least one limit")
        bucket.claim(self)
        self._bucket = bucket
        self._limits = limits
        self._on_change = on_change

    def update(self, now: float) -> float:
        """Set the rate from the limits and return it. Call before a take, or a few times a
        second."""
        name, rate = min(
            ((name, limit.rate(now)) for name, limit in self._limits.items()), key=lambda x: x[1]
        )
        old = self._bucket.rate
        if rate != old:
            self._bucket.set_rate(now, rate, owner=self)
            if self._on_change is not None:
                self._on_change(now, old, rate, name)
        return rate
