"""Whether and when to try again, without I/O: the caller sleeps and sends.

Full jitter is Brooker's ("Exponential Backoff And Jitter", AWS, 2015); a budget that earns a share of
a token with every request is what Finagle and gRPC do, so that retries add at most that share to the
load of an outage.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


class RetryBudget:
    """A token bucket that is filled by requests, not by time, but for a trickle for callers that send little.

    `ratio` of a token is earned by each request; a retry costs one. At most `reserve` tokens are kept;
    `per_second` are earned in any case.
    """

    def __init__(self, ratio: float = 0.1, reserve: float = 10.0, per_second: float = 0.5) -> None:
        if not 0.0 <= ratio <= 1.0 or reserve < 0.0 or per_second < 0.0:
            raise ValueError("ratio is from 0 to 1, reserve and per_second are not negative")
        self.ratio = ratio
        self.reserve = reserve
        self.per_second = per_second
        self._tokens = reserve
        self._at: float | None = None

    def tokens(self, now: float) -> float:
        """What is there now. Changes nothing."""
        if self._at is None:
            return self._tokens
        return min(self.reserve, self._tokens + max(0.0, now - self._at) * self.per_second)

    def on_request(self, now: float) -> None:
        """A first attempt was made (not a retry)."""
        self._tokens = min(self.reserve, self.tokens(now) + self.ratio)
        self._at = now

    def take(self, now: float) -> bool:
        """Pay for one more attempt, if there is a token."""
        self._tokens = self.tokens(now)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass(frozen=True)
class RetrySettings:
    """`CLIENT_MAX_RETRIES` and `CLIENT_RETRY_DELAY` (seconds here)."""

    max_retries: int = 3
    base_s: float = 0.02  # upper end of the first wait; another peer is asked, so it can be short
    cap_s: float = 1.0
    least_s: float = 0.001  # an attempt with less time than this is not worth sending


class RetryPolicy:
    """Ask `next_delay` after a failed attempt. Only for what is safe to repeat: that is for the caller
    to know. The next attempt goes to another peer: give the failed ones to `Router.pick` as `exclude`.
    """

    def __init__(
        self,
        settings: RetrySettings | None = None,
        *,
        rng: random.Random,
        budget: RetryBudget | None = None,
    ) -> None:
        self.settings = settings or RetrySettings()
        self.budget = budget or RetryBudget()
        self._rng = rng

    def on_request(self, now: float) -> None:
        """A request was started: earns its share of a retry."""
        self.budget.on_request(now)

    def next_delay(
        self, now: float, attempts: int, deadline: float, retry_after_s: float = 0.0
    ) -> float | None:
        """Seconds to wait before the next attempt, or None: give up.

        Args:
            attempts: how many were made so far, at least 1.
            deadline: when the caller stops waiting, on the clock of `now`.
            retry_after_s: the least wait that the peer asked for, when it refused as busy.
        """
        settings = self.settings
        if attempts > settings.max_retries:
            return None
        longest = min(settings.cap_s, settings.base_s * 2.0 ** min(attempts - 1, 30))
        delay = retry_after_s + self._rng.random() * longest
        if now + delay + settings.least_s >= deadline:
            return None
        return delay if self.budget.take(now) else None
