"""Adaptive router, a toolkit without I/O: choose peers by the results of earlier requests.

    router = AdaptiveRouter(rng=random.Random())
    retry = RetryPolicy(rng=random.Random())
    failed: list[str] = []
    peer = router.pick(now, candidates, exclude=failed)
    router.on_send(now, peer)
    ...                                     # send the request to `peer` and wait
    router.on_result(later, peer, later - now, "ok", reply.load)   # or "error", "timeout"
    delay = retry.next_delay(later, attempts=1, deadline=deadline)  # after a failure
    for row in router.explain(later, candidates):
        print(row.peer, row.cost, row.why)

Times are seconds on one monotonic clock, given by the caller; randomness is given too. Each part can be
used alone: `BalancedCall` (choice, retries and hedges of one call together), `Breaker`, `RetryPolicy`, `HedgePolicy`, `HintBook`, `HintPublisher`, `WeightedPolicy`.
"""

from p2p.adaptive.adaptive_router import AdaptiveRouter
from p2p.adaptive.balanced_call import BalancedCall, CallBalance
from p2p.adaptive.circuit_breaker import Breaker, BreakerSettings, BreakerState
from p2p.adaptive.cost_policy import CostPolicy, Policy
from p2p.adaptive.health_hints import (
    DEGRADED,
    HEALTHY,
    Hint,
    HintBook,
    HintPublisher,
    HintSettings,
    Signal,
)
from p2p.adaptive.hedging import HedgePolicy
from p2p.adaptive.peer_metrics import Load, Outcome, PeerMetrics, Pool
from p2p.adaptive.retry_policy import RetryBudget, RetryPolicy, RetrySettings
from p2p.adaptive.routing_events import Explained, RoutingEvent
from p2p.adaptive.weighted_policy import WeightedPolicy, Weights

__all__ = [
    "DEGRADED",
    "HEALTHY",
    "AdaptiveRouter",
    "BalancedCall",
    "Breaker",
    "BreakerSettings",
    "BreakerState",
    "CallBalance",
    "CostPolicy",
    "Explained",
    "HedgePolicy",
    "Hint",
    "HintBook",
    "HintPublisher",
    "HintSettings",
    "Load",
    "Outcome",
    "PeerMetrics",
    "Policy",
    "Pool",
    "RetryBudget",
    "RetryPolicy",
    "RetrySettings",
    "RoutingEvent",
    "Signal",
    "WeightedPolicy",
    "Weights",
]
