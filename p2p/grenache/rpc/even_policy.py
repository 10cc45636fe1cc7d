"""Routing policy of Grenache clients: equal shares for workers that are as good as each other.

By expected latency alone the least lead decides every choice, and of twelve equal workers some would get
nothing for seconds. Here costs up to a floor are equal, and of equals the router takes the least recently
used. Calls in flight, failures and real slowness lift a cost above the floor, and count as before.
"""

from __future__ import annotations

from typing import Final

from p2p.adaptive import CostPolicy, PeerMetrics, Pool

LEAST_S: Final = 0.002  # seconds; a lead below this is noise of the network and of this process
USUAL: Final = 1.5  # times the usual latency: answers of one worker differ by as much


class EvenPolicy(CostPolicy):
    """The default cost, with all costs up to the floor taken as the floor."""

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float:
        return max(LEAST_S, USUAL * pool.latency, super().cost(now, metrics, pool))
