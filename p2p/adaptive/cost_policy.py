"""Cost policy, the default: expected cost of a call to a peer, in seconds. The lowest cost wins.

    cost = trust * (R - S) + s * ((1 + w) ** power + BUSY * n / width)
           + (P_error + 5 P_timeout) * a failure's cost

R is the latency seen lately, at least the age of the oldest call in flight; S the pool's service time
and s the peer's; n the calls that it has, ours and those of others by its own last report; width how
many it serves side by side; w = max(0, n + 1 - width) / width the service times that a further call
waits. A peer with a free place costs what it takes to serve, and a little for what it is doing.

A few answers cannot tell equal peers apart, and the lengths of their queues must decide: of a
difference d to the pool's average, d^2 / (d^2 + noise^2) is believed. While peers are idle R shows their
distance; while they are busy most of it was waiting in queues that are gone by now, so its noise
grows, and `trust` falls as far as the queues are of own calls, whose number is exact. The number of
others' is old when it is used, and other callers see the same short queue. So `power` and the weight of
our own calls grow with the share of the peers' work that is others' (C3, Suresh et al., NSDI'15,
uses the cube and the number of callers, which is an input there).
"""

from __future__ import annotations

from math import exp
from typing import Protocol

from p2p.adaptive.peer_metrics import BASE, PeerMetrics, Pool

ERROR_COST = 1.0  # seconds that a failed call is worth avoiding, or ...
# What is added where all work is others': peers there count as equal up to twice the lowest cost, and
# one that fails must not.
ERROR_CROWD = 0.3
ERROR_LATENCIES = 10.0  # ... this many usual latencies, whichever is more
TIMEOUT_ERRORS = 5.0  # a timeout is as bad as this many errors
# The weight of R, and what it loses where all places are taken by own calls: those are counted in n,
# and must not count in full again.
LATENCY, COUNTED = 0.5, 0.3
BUSY = (
    0.05  # of a service time, for each call at work: among peers with a free place the least busy
)
OWN = 3.0  # how much more own calls weigh when all the rest is others' work
# Of a difference of this size to the pool's average, as a share of it, half is believed.
NOISE, LATENCY_NOISE = 0.3, 1.0
POWER, CROWD = 1.5, 1.5  # the power with others' work absent, and what is added when it is all


class Policy(Protocol):
    """Cost function of the router, which picks the lowest cost. `explain` returns the parts of the cost by
    name.
    """

    name: str

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float: ...
    def explain(self, now: float, metrics: PeerMetrics, pool: Pool) -> dict[str, float]: ...


class CostPolicy:
    """Expected latency plus the expected cost of failures; the formula is in the module docstring."""

    name = "adaptive"
    noise = NOISE
    latency_noise = LATENCY_NOISE

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float:
        m = metrics
        latency, service = m.latency, m.service
        # As in aged_latency, aged_service and aged_others: here it is the price of every pick.
        if latency is None or service is None:
            latency, service = pool.latency, pool.service
        else:
            base = exp((m.latency_at - now) / BASE)
            square = base * base
            usual = pool.latency
            above = (latency - usual) * square * base
            far, noise = above * above, self.latency_noise * usual * pool.busy
            latency = usual + above * far / (far + noise * noise) if far else usual
            usual = pool.service
            above = (service - usual) * square
            far, noise = above * above, self.noise * usual
            service = usual + above * far / (far + noise * noise) if far else usual
        others = pool.others
        if others or m.others:
            others += (m.others - others) * exp((m.others_at - now) / pool.load_memory)
        sends = m.sends
        if sends:
            oldest = m.oldest(now, pool)
            if oldest > latency:
                latency = oldest
        foreign = pool.foreign
        cost = 0.0
        if latency > pool.service:
            cost = (LATENCY - COUNTED * pool.busy * (1.0 - foreign)) * (latency - pool.service)
        if m.failing or m.hanging:
            errors, timeouts = m.rates(now, pool)
            others = max(others, pool.others)
            each = max(ERROR_COST + ERROR_CROWD * foreign, ERROR_LATENCIES * pool.latency)
            cost += (errors + TIMEOUT_ERRORS * timeouts) * each
        width = pool.width
        inside = len(sends) * (1.0 + OWN * foreign) + others
        busy = BUSY * inside / width
        if inside + 1.0 <= width:
            return cost + service * (1.0 + busy)
        power = POWER + CROWD * foreign
        # 1 + w, and w = (inside + 1 - width) / width
        return cost + service * (float(((inside + 1.0) / width) ** power) + busy)

    def explain(self, now: float, metrics: PeerMetrics, pool: Pool) -> dict[str, float]:
        errors, timeouts = metrics.rates(now, pool)
        return {
            "latency_s": metrics.aged_latency(now, pool),
            "service_s": metrics.aged_service(now, pool),
            "in_flight": float(len(metrics.sends)),
            "others": metrics.aged_others(now, pool),
            "oldest_s": metrics.oldest(now, pool) if metrics.sends else 0.0,
            "error_rate": errors,
            "timeout_rate": timeouts,
        }
