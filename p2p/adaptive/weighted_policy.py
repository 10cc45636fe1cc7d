"""Weighted policy: the score of the learning guide, four factors from 0 to 1 with their `METRICS_*`
weights.

    score = latency_weight * latency_factor + error_weight * (1 - error rate)
          + timeout_weight * (1 - timeout rate) + freshness_weight * freshness_factor

Differences from the guide's sketch: latency is compared with the pool's, not with 100 ms, and
includes the calls in flight; rates decay and have a prior; freshness is lost by not answering, not
by lack of requests, so that a peer without traffic can get traffic again.
"""

from __future__ import annotations

from math import exp

import msgspec

from p2p.adaptive.peer_metrics import PeerMetrics, Pool

SILENCE = 5.0  # seconds; how fast a peer that owes an answer loses freshness
SHARPNESS = 8.0  # how much a difference in score weighs when it is turned into a cost


class Weights(msgspec.Struct, frozen=True):
    """`METRICS_LATENCY_WEIGHT` and the others; only their ratios matter."""

    latency: float = 0.4
    error: float = 0.3
    timeout: float = 0.2
    freshness: float = 0.1

    def __post_init__(self) -> None:
        values = (self.latency, self.error, self.timeout, self.freshness)
        if min(values) < 0.0 or sum(values) <= 0.0:
            raise ValueError("weights are not negative, and not all zero")


class WeightedPolicy:
    """Score of the learning guide as a cost. `score` is from 0 to 1, higher is better."""

    name = "weighted"

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or Weights()
        w = self.weights
        self._sum = w.latency + w.error + w.timeout + w.freshness

    def factors(self, now: float, metrics: PeerMetrics, pool: Pool) -> tuple[float, ...]:
        """Return the factors of latency, errors, timeouts and freshness."""
        m = metrics
        oldest = m.oldest(now, pool) if m.sends else 0.0
        q = len(m.sends) + m.aged_others(now, pool)
        if m.failing or m.hanging:
            q = max(q, pool.others)  # a peer that refuses gets no credit for its short queue
        expected = max(m.aged_latency(now, pool), oldest) + q * m.aged_service(now, pool)
        errors, timeouts = m.rates(now, pool)
        silence = 0.0
        if m.sends:
            silence = oldest if m.last_seen_ts is None else min(oldest, now - m.last_seen_ts)
        usual = max(1e-6, pool.latency)
        return (
            usual / (usual + expected),
            1.0 - errors,
            1.0 - timeouts,
            exp(-silence / SILENCE),
        )

    def score(self, now: float, metrics: PeerMetrics, pool: Pool) -> float:
        w = self.weights
        latency, error, timeout, fresh = self.factors(now, metrics, pool)
        total = w.latency * latency + w.error * error + w.timeout * timeout + w.freshness * fresh
        return total / self._sum

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float:
        return exp(SHARPNESS * (1.0 - self.score(now, metrics, pool)))

    def explain(self, now: float, metrics: PeerMetrics, pool: Pool) -> dict[str, float]:
        latency, error, timeout, fresh = self.factors(now, metrics, pool)
        return {
            "score": self.score(now, metrics, pool),
            "latency_factor": latency,
            "error_factor": error,
            "timeout_factor": timeout,
            "freshness_factor": fresh,
        }
