"""Retry policy and retry budget, without I/O: the caller sleeps and sends.

Full jitter is Brooker's ("Exponential Backoff And Jitter", AWS, 2015); a budget that earns a share
of a token with every request is used by Finagle and gRPC, so that retries add at most that share to
the load of an outage.
"""

from __future__ import annotations

import random

import msgspec

from p2p.ground.tokens import Tokens


class RetryBudget:
    """Budget of retries, filled by requests, and slowly over time for callers that send little.

    `ratio` of a token is earned by each request; a retry costs one. At most `reserve` tokens are kept;
    `per_second` are earned without requests.
    """

    def __init__(self, ratio: float = 0.1, reserve: float = 10.0, per_second: float = 0.5) -> None:
        if not 0.0 <= ratio <= 1.0 or reserve < 0.0 or per_second < 0.0:
            raise ValueError("ratio is from 0 to 1, reserve and per_second are not negative")
        self.ratio = ratio
        self.reserve = reserve
        self.per_second = per_second
        self._tokens = Tokens(reserve)

    def tokens(self, now: float) -> float:
        """Return the present tokens. Changes nothing."""
        return self._tokens.available(now, self.per_second, self.reserve)

    def on_request(self, now: float) -> None:
        """Earn the share of a first attempt (not of a retry)."""
        tokens = self._tokens
        earned = tokens.refill(now, self.per_second, self.reserve) + self.ratio
        tokens.level = earned if earned < self.reserve else self.reserve

    def take(self, now: float) -> bool:
        """Take a token for one more attempt, if there is one."""
        return self._tokens.take(now, self.per_second, self.reserve)


class RetrySettings(msgspec.Struct, frozen=True):
    """`CLIENT_MAX_RETRIES` and `CLIENT_RETRY_DELAY` (seconds here)."""

    max_retries: int = 3
    base_s: float = 0.02  # upper end of the first wait; another peer is called, so it can be short
    cap_s: float = 1.0
    least_s: float = 0.001  # an attempt with less time than this is not worth sending


class RetryPolicy:
    """Delays between attempts, for requests that are safe to repeat.

    Call `next_delay` after a failed attempt. The next attempt goes to another peer: pass the failed ones to
    `AdaptiveRouter.pick` as `exclude`.
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
        """Record a first attempt, which earns its share of a retry."""
        self.budget.on_request(now)

    def next_delay(
        self, now: float, attempts: int, deadline: float, retry_after_s: float = 0.0
    ) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up.

        Args:
            attempts: number made so far, at least 1.
            deadline: end of the caller's wait, on the clock of `now`.
            retry_after_s: least wait that the peer requested, when it refused as busy.
        """
        settings = self.settings
        if attempts > settings.max_retries:
            return None
        longest = min(settings.cap_s, settings.base_s * 2.0 ** min(attempts - 1, 30))
        delay = retry_after_s + self._rng.random() * longest
        if now + delay + settings.least_s >= deadline:
            return None
        return delay if self.budget.take(now) else None
