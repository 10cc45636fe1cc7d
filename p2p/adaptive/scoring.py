"""The default policy: what a call to a peer is expected to cost, in seconds. The lowest wins.

    cost = R - s + s * (1 + q)^2 + P_error * ERROR_COST + P_timeout * TIMEOUT_COST

R is the latency seen lately, at least the age of the oldest call in flight; s the peer's service
time; q the calls it has before it: ours, and those of others by its own reports. Queue estimates are
raised to a power because they are old when they are used: a long queue is avoided more than it costs
(C3, Suresh et al., NSDI'15, uses the cube).
"""

from __future__ import annotations

from math import exp
from typing import Protocol

from p2p.adaptive.metrics import PeerMetrics, Pool

ERROR_COST = 1.0  # seconds that a failed call is worth avoiding
TIMEOUT_COST = 5.0


class Policy(Protocol):
    """Gives a peer's cost; the router picks the lowest. `explain` gives its parts by name."""

    name: str

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float: ...
    def explain(self, now: float, metrics: PeerMetrics, pool: Pool) -> dict[str, float]: ...


class CostPolicy:
    """See the module's first lines."""

    name = "cost"

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float:
        m = metrics
        latency = m.aged_latency(now, pool)
        service = m.aged_service(now, pool)
        sends = m.sends
        q = len(sends) + m.aged_others(now, pool)
        if sends:
            latency = max(latency, now - sends[0][0])
        cost = max(0.0, latency - service)
        if m.failing or m.hanging:
            errors, timeouts = m.rates(now)
            q = max(q, pool.others)
            cost += errors * ERROR_COST + timeouts * TIMEOUT_COST
        return cost + service * (1.0 + q) ** 2

    def explain(self, now: float, metrics: PeerMetrics, pool: Pool) -> dict[str, float]:
        errors, timeouts = metrics.rates(now)
        return {
            "latency_s": metrics.aged_latency(now, pool),
            "service_s": metrics.aged_service(now, pool),
            "in_flight": float(len(metrics.sends)),
            "others": metrics.aged_others(now, pool),
            "oldest_s": now - metrics.sends[0][0] if metrics.sends else 0.0,
            "error_rate": errors,
            "timeout_rate": timeouts,
        }


__all__ = ["CostPolicy", "Policy", "exp"]
