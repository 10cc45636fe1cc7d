"""Records of the decisions of the adaptive router, each with its reason."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

import msgspec

from p2p.adaptive.circuit_breaker import BreakerState
from p2p.adaptive.peer_metrics import PeerMetrics

Kind = Literal["pick", "breaker", "hint", "panic"]


class RoutingEvent(msgspec.Struct, frozen=True):
    """`at` is the router's `now` in seconds; `detail` has the figures behind the reason."""

    at: float
    kind: Kind
    peer: Hashable
    reason: str
    detail: dict[str, object]


class Explained(msgspec.Struct, frozen=True):
    """One candidate in `AdaptiveRouter.explain`. `cost` decides, the lowest wins; `why` explains it
    in words."""

    peer: Hashable
    cost: float
    state: BreakerState
    hint_factor: float
    slow_start: float
    parts: dict[str, float]
    why: str


def explanation(
    parts: dict[str, float], state: BreakerState, factor: float, ramp: float, metrics: PeerMetrics
) -> str:
    """Return the reasons of a cost in words."""
    reasons = []
    if state is not BreakerState.CLOSED:
        reasons.append(f"breaker {state}")
    if not metrics.total_calls:
        reasons.append("not tried yet, counted as average")
    if ramp < 1.0:
        reasons.append(f"slow start at {100 * ramp:.0f} %")
    if factor > 1.001:
        reasons.append(f"degraded by hints (x{factor:.2f})")
    reasons += [f"{name} {value:.3g}" for name, value in parts.items() if value]
    return ", ".join(reasons)
