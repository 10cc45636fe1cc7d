"""Health gossip: hints about the health of peers as signed broadcasts. No I/O.

    payload = gossip.publish(router.hints_due(now))     # to be broadcast
    verdict = gossip.receive(now, payload, router.on_hint)

The mesh carries payloads as `hint` broadcasts; any other carrier of bytes between nodes can carry them too,
because they prove their origin and have an effect once. The effect of a hint is decided in
`p2p.adaptive.health_hints`; this module checks origin, novelty and rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import msgspec

from p2p.adaptive import Hint, Signal
from p2p.base.identity import NODE_ID_LENGTH, Identity
from p2p.mesh.signed_broadcast import ReplayGuard, SignedBroadcast

MAX_HINTS = 32  # in one message


class HintItem(msgspec.Struct, frozen=True, rename="camel"):
    """Observation of one peer: DEGRADED or HEALTHY, latency in ms, share of failures from 0 to 1."""

    peer: str
    signal: Signal
    latency_ms: float
    error_rate: float


class HintMessage(msgspec.Struct, frozen=True, rename="camel"):
    """First-hand observations of the sender about others."""

    key: bytes
    incarnation: int
    counter: int
    hints: list[HintItem]
    signature: bytes = b""


MESSAGES: dict[str, type[msgspec.Struct]] = {"hint": HintMessage}

Take = Callable[[float, str, str, Signal, float, float], object]
"""`Router.on_hint`: now, origin, peer, signal, latency (s), error rate."""


class HealthGossip:
    """Publisher and receiver of hints: `publish` makes messages of own hints, `receive` takes those of
    others. `incarnation` grows with every start of this node.
    """

    def __init__(self, identity: Identity, network: str, *, incarnation: int) -> None:
        self.node_id = identity.node_id
        self._messages = SignedBroadcast(
            HintMessage,
            "exchange-node hint",
            identity,
            network,
            incarnation=incarnation,
            guard=ReplayGuard(rate=1.0, burst=5.0, rate_all=50.0),
        )
        self.counters = {"published": 0, "received": 0, "refused": 0}

    def publish(self, hints: Sequence[Hint]) -> bytes | None:
        """Make the message with `hints` (at most MAX_HINTS, DEGRADED first); None without hints.

        Ask at most once a second: others ignore who says more.
        """
        items = [
            HintItem(
                hint.peer, hint.signal, round(hint.latency_s * 1000, 3), round(hint.error_rate, 3)
            )
            for hint in sorted(hints, key=lambda hint: hint.signal is Signal.HEALTHY)
            if isinstance(hint.peer, str) and hint.peer != self.node_id
        ]
        if not items:
            return None
        self.counters["published"] += 1
        return self._messages.publish(hints=items[:MAX_HINTS])

    def receive(self, now: float, payload: bytes, take: Take) -> bool | None:
        """Process a message and pass each of its hints to `take`. Returns the verdict for the router.

        A node's word about itself and about the receiver is not evidence, and is left out.
        """
        accepted = self._messages.receive(now, payload, _well_formed)
        origin, message = accepted.origin, accepted.message
        if message is None:
            self.counters["refused"] += bool(origin)
            return accepted.verdict
        for item in message.hints:
            if item.peer not in (origin, self.node_id):
                self.counters["received"] += 1
                take(now, origin, item.peer, item.signal, item.latency_ms / 1000, item.error_rate)
        return True


def _well_formed(message: HintMessage) -> bool:
    return 1 <= len(message.hints) <= MAX_HINTS and all(
        len(item.peer) == NODE_ID_LENGTH
        and isfinite(item.latency_ms)
        and item.latency_ms >= 0.0
        and 0.0 <= item.error_rate <= 1.0
        for item in message.hints
    )
