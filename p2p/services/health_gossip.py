"""Health gossip: hints about the health of peers as signed broadcasts. No I/O.

    payload = gossip.publish(router.hints_due(now))     # to be broadcast
    verdict = gossip.receive(now, payload, router.on_hint)

The mesh carries payloads as `hint` broadcasts; any other carrier of bytes between nodes can carry them too,
because they prove their origin and have an effect once. The effect of a hint is decided in
`p2p.adaptive.health_hints`; this module checks origin, novelty and rate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from p2p.adaptive import Hint, Signal
from p2p.base.identity import NODE_ID_LENGTH, Identity, is_node_id
from p2p.mesh.signed_broadcast import ReplayGuard, SignedBroadcast

MAX_HINTS = 32  # in one message


class HintItem(msgspec.Struct, frozen=True, rename="camel"):
    """Observation of one peer: DEGRADED or HEALTHY, latency in ms, share of failures from 0 to 1."""

    peer: Annotated[str, Meta(min_length=NODE_ID_LENGTH, max_length=NODE_ID_LENGTH)]
    signal: Signal
    latency_ms: Annotated[float, Meta(ge=0, le=sys.float_info.max)]
    error_rate: Annotated[float, Meta(ge=0, le=1)]


class HintMessage(msgspec.Struct, frozen=True, rename="camel"):
    """First-hand observations of the sender about others."""

    key: bytes
    incarnation: int
    counter: int
    hints: Annotated[list[HintItem], Meta(min_length=1, max_length=MAX_HINTS)]
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
        accepted = self._messages.receive(now, payload)
        origin, message = accepted.origin, accepted.message
        if message is None:
            self.counters["refused"] += bool(origin)
            return accepted.verdict
        for item in message.hints:
            if item.peer not in (origin, self.node_id) and is_node_id(item.peer):
                self.counters["received"] += 1
                take(now, origin, item.peer, item.signal, item.latency_ms / 1000, item.error_rate)
        return True
