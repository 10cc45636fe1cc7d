"""Hints about peers' health as signed messages, and back. No I/O, and no carrier of its own.

    payload = exchange.publish(router.hints_due(now))     # to be carried to everybody
    verdict = exchange.receive(now, payload, router.on_hint)

The mesh carries payloads as `hint` broadcasts; anything else that can bring bytes from node to node can
carry the same ones, because they prove themselves and say nothing twice. What a hint may do is decided
in `p2p.adaptive.health_hints`; here it is only made sure whose it is, that it is news, and that nobody says
too much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from math import isfinite

import msgspec

from p2p.adaptive import Hint, Signal
from p2p.base.identity import NODE_ID_LENGTH, Identity
from p2p.mesh.replay_guard import ReplayGuard, Verdict, proven_origin
from p2p.wire.messages import pack

MAX_HINTS = 32  # in one message


class HintItem(msgspec.Struct, frozen=True, rename="camel"):
    """`signal` is DEGRADED or HEALTHY; what was seen: latency in ms, share of failures from 0 to 1."""

    peer: str
    signal: Signal
    latency_ms: float
    error_rate: float


class HintMessage(msgspec.Struct, frozen=True, rename="camel"):
    """What the sender has seen of others itself."""

    key: bytes
    incarnation: int
    counter: int
    hints: list[HintItem]
    signature: bytes = b""


MESSAGES: dict[str, type[msgspec.Struct]] = {"hint": HintMessage}

Take = Callable[[float, str, str, Signal, float, float], object]
"""`Router.on_hint`: now, origin, peer, signal, latency (s), error rate."""

_decoder = msgspec.msgpack.Decoder(HintMessage)


def _signed(network: str, said: HintMessage) -> bytes:
    return sha256(
        pack(["exchange-node hint", network, said.key, said.incarnation, said.counter, said.hints])
    ).digest()


class HealthGossip:
    """`publish` makes messages of own hints, `receive` takes others'. `incarnation` grows with every
    start of this node.
    """

    def __init__(self, identity: Identity, network: str, *, incarnation: int) -> None:
        self.node_id = identity.node_id
        self._identity = identity
        self._network = network
        self._incarnation = incarnation
        self._counter = 0
        self._origins = ReplayGuard(rate=1.0, burst=5.0, rate_all=50.0)
        self.counters = {"published": 0, "received": 0, "refused": 0}

    def publish(self, hints: Sequence[Hint]) -> bytes | None:
        """The message that says `hints` (at most MAX_HINTS, the bad news first); None: there are none.

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
        self._counter += 1
        self.counters["published"] += 1
        draft = HintMessage(
            self._identity.public_key, self._incarnation, self._counter, items[:MAX_HINTS]
        )
        signature = self._identity.sign(_signed(self._network, draft))
        return pack(msgspec.structs.replace(draft, signature=signature))

    def receive(self, now: float, payload: bytes, take: Take) -> bool | None:
        """A message arrived; each of its hints goes to `take`. The verdict for `p2p.mesh.message_router`.

        A node's word about itself and about the receiver is not evidence, and is left out.
        """
        try:
            said = _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            return False
        if not _well_formed(said):
            return False
        origin = proven_origin(said, _signed(self._network, said))
        if origin is None:
            return False
        if origin == self.node_id:
            return True
        verdict = self._origins.hear(now, origin, said.incarnation, said.counter)
        if verdict is not Verdict.NEW:
            self.counters["refused"] += 1
            return True if verdict is Verdict.OLD else None
        for item in said.hints:
            if item.peer not in (origin, self.node_id):
                self.counters["received"] += 1
                take(now, origin, item.peer, item.signal, item.latency_ms / 1000, item.error_rate)
        return True


def _well_formed(said: HintMessage) -> bool:
    return 1 <= len(said.hints) <= MAX_HINTS and all(
        len(item.peer) == NODE_ID_LENGTH
        and isfinite(item.latency_ms)
        and item.latency_ms >= 0.0
        and 0.0 <= item.error_rate <= 1.0
        for item in said.hints
    )
