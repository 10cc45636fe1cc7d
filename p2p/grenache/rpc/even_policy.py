"""Routing policy of Grenache clients: equal shares for workers that are as good as each other.

By expected latency alone the least lead decides every choice, and of twelve equal workers some would get
nothing for seconds. Here costs up to a floor are equal, and of equals the router takes the least recently
used. A single slow answer (a new connection, a stall of either event loop) is not believed for long. Calls in flight, failures and real slowness lift a cost above the floor, and count as before.
"""

from __future__ import annotations

from typing import Final

from p2p.adaptive import CostPolicy, PeerMetrics, Pool

LEAST_S: Final = 0.005  # seconds; less is noise of the network and of two event loops
USUAL: Final = 1.5  # times the usual latency: answers of one worker differ by as much
FIRST_ANSWERS: Final = 8  # the first carry the price of connecting; this number is needed to judge
TRY_AGAIN: Final = (
    50.0  # times its cost, without a call: trying again takes 2 % of the time at most
)


class EvenPolicy(CostPolicy):
    """The default cost, with all costs up to the floor taken as the floor."""

    noise = 0.0  # the floor makes equals of what is nearly equal

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float:
        floor = max(LEAST_S, USUAL * pool.latency)
        cost = super().cost(now, metrics, pool)
        if cost <= floor or metrics.sends or metrics.failing or metrics.hanging:
            return max(floor, cost)
        unsure = (
            metrics.success_count < FIRST_ANSWERS or now - metrics.latency_at > TRY_AGAIN * cost
        )
        return floor if unsure else cost
