"""Hedging policy, without I/O: delay and budget of a second request beside a slow one.

The second is sent when the first has waited longer than `quantile` of recent answers, so that it adds
little load where it helps most (Dean and Barroso, "The Tail at Scale", 2013), and only from a budget:
when everything is slow, hedging would double the load.
"""

from __future__ import annotations

from collections import deque

from p2p.adaptive.retry_policy import RetryBudget


class HedgePolicy:
    """Delay and budget of second requests: `on_success` reports answers, `on_request` starts, `delay` is
    the wait.

    Only for idempotent requests. When the delay is over without an answer, `take` pays for the
    second request; pass the first request's peer to `AdaptiveRouter.pick` as `exclude`.
    """

    def __init__(
        self,
        quantile: float = 0.95,
        *,
        budget: RetryBudget | None = None,
        samples: int = 256,
        least: int = 20,
    ) -> None:
        if not 0.0 < quantile < 1.0:
            raise ValueError("quantile is between 0 and 1")
        self.quantile = quantile
        self.budget = budget or RetryBudget(ratio=0.05, reserve=5.0, per_second=0.1)
        self._recent: deque[float] = deque(maxlen=samples)
        self._least = least
        self._delay: float | None = None
        self._since = 0

    def on_request(self, now: float) -> None:
        self.budget.on_request(now)

    def on_success(self, latency_s: float) -> None:
        self._recent.append(latency_s)
        self._since += 1
        if len(self._recent) >= self._least and (self._delay is None or self._since >= 16):
            ordered = sorted(self._recent)
            self._delay = ordered[min(len(ordered) - 1, int(len(ordered) * self.quantile))]
            self._since = 0

    def delay(self) -> float | None:
        """Return the seconds after which a request is hedged; None until enough answers are known."""
        return self._delay

    def take(self, now: float) -> bool:
        """Pay for a second request. Returns False if the budget is spent."""
        return self.budget.take(now)
