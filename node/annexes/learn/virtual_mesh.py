"""Nodes with the product's own message router and health gossip, linked in memory, in virtual time."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from functools import partial

from node.virtual.server_model import VirtualTime, seeded
from p2p.adaptive import AdaptiveRouter, HintSettings
from p2p.base.identity import Identity
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Received
from p2p.mesh.signed_broadcast import key_proves
from p2p.services.health_gossip import HealthGossip

NETWORK = "learn"
TICK = 1.0  # seconds between two looks at which hints are due, as in the node
LINK_S = (0.01, 0.04)  # one way, drawn for each link


def identity(seed: int, name: str) -> Identity:
    return Identity.from_seed(seeded(name, seed).randbytes(32))


@dataclass
class MeshNode:
    """A node: message router, gossip, and the routing decisions that hints change."""

    identity: Identity
    messages: MessageRouter
    gossip: HealthGossip
    choice: AdaptiveRouter[str]
    hints: list[tuple[float, str, str]] = field(default_factory=list)  # when, origin, about
    wake_at: float = -1.0


class VirtualMesh:
    """`nodes` in a random graph with about `links` links each. Worker names are node ids of others."""

    def __init__(
        self,
        time: VirtualTime,
        seed: int,
        nodes: int,
        links: int,
        hints: HintSettings | None = None,
    ) -> None:
        self.time = time
        self.rng = seeded("mesh", seed)
        self.published: list[tuple[float, int]] = []  # when and by which node, hints of its own
        self._delay: dict[tuple[int, int], float] = {}
        self.nodes = [self._make(seed, number, hints) for number in range(nodes)]
        self._number = {node.identity.node_id: i for i, node in enumerate(self.nodes)}
        pairs = {(i, i + 1) for i in range(nodes - 1)}
        while len(pairs) < nodes * links // 2:
            a, b = sorted(self.rng.sample(range(nodes), 2))
            pairs.add((a, b))
        for a, b in sorted(pairs):
            self._delay[a, b] = self._delay[b, a] = self.rng.uniform(*LINK_S)
            for here, there in ((a, b), (b, a)):
                peer = self.nodes[there].identity.node_id
                self.nodes[here].messages.link_up(time.now, peer, branches=True)
        for number in range(nodes):
            self._flush(number)
            time.after(self.rng.uniform(0.0, TICK), self._tick, number)

    def _make(self, seed: int, number: int, hints: HintSettings | None) -> MeshNode:
        own = identity(seed, f"node {number}")
        rng: random.Random = seeded(f"router {number}", seed)
        node = MeshNode(
            own,
            MessageRouter(own, rng=rng, wall_ms=lambda: int(self.time.now * 1000), fragile=True),
            HealthGossip(own, NETWORK, incarnation=1),
            AdaptiveRouter(rng=rng, hints=hints),
        )

        def on_hint(received: Received) -> bool | None:
            def take(
                now: float, origin: str, peer: str, signal: object, latency: float, rate: float
            ) -> None:
                node.hints.append((now, origin, peer))
                node.choice.on_hint(now, origin, peer, str(signal), latency, rate)

            return node.gossip.receive(received.now, received.payload, take)

        node.messages.handle("hint", on_hint, origin=key_proves)
        return node

    def hops(self, start: int) -> list[int]:
        """Return the number of links from `start` to each node."""
        found = {start: 0}
        ahead = [start]
        for node in ahead:
            for a, b in self._delay:
                if a == node and b not in found:
                    found[b] = found[node] + 1
                    ahead.append(b)
        return [found[number] for number in range(len(self.nodes))]

    def broadcast(self, number: int, payload: bytes) -> None:
        """Broadcast a hint message from a node, whatever its payload says."""
        self.nodes[number].messages.broadcast(self.time.now, "hint", payload)
        self._flush(number)

    def _tick(self, number: int) -> None:
        node = self.nodes[number]
        payload = node.gossip.publish(node.choice.hints_due(self.time.now))
        if payload is not None:
            self.published.append((self.time.now, number))
            self.broadcast(number, payload)
        self.time.after(TICK, self._tick, number)

    def _flush(self, number: int) -> None:
        node = self.nodes[number]
        for outgoing, peer in itertools.chain.from_iterable(
            [(out, peer) for peer in out.peers] for out in node.messages.take_outgoing()
        ):
            other = self._number[peer]
            delay = self._delay[number, other]
            self.time.after(delay, partial(self._arrive, number, other, outgoing.envelope))
        at = node.messages.next_deadline()
        if at is not None and at != node.wake_at:
            node.wake_at = at
            self.time.at(at, self._wake, number, at)

    def _arrive(self, source: int, to: int, envelope: object) -> None:
        self.nodes[to].messages.receive(
            self.time.now,
            self.nodes[source].identity.node_id,
            envelope,  # type: ignore[arg-type]
        )
        self._flush(to)

    def _wake(self, number: int, at: float) -> None:
        if self.nodes[number].wake_at == at:
            self.nodes[number].messages.tick(self.time.now)
            self._flush(number)
