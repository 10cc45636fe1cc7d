"""A network in which every node has an order and holds the feeds of all others, as a newcomer finds it.

All nodes of it hold the same feeds and the same recent presences, so these are made once. A node becomes a `Neighbour`
when the newcomer links to it, and a maker with an engine of its own when the newcomer takes its order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from exchange.engine.engine import Engine
from exchange.feeds.exchange_messages import Presence, unpack
from exchange.feeds.feed import Feed
from exchange.feeds.feed_index import FeedIndex
from exchange.feeds.feed_replica import Replica
from exchange.feeds.presence import PresenceLeases
from exchange.feeds.presence_exchange import PresenceExchange, PresenceTable
from exchange.feeds.replication import Replicator
from exchange.model.commands import NewOrder
from exchange.model.ports import Broadcast, Send
from node.daemon.node_keys import NodeKeys
from p2p.base.identity import Identity
from p2p.base.limits import STORE_TTL
from p2p.discovery.peer_exchange import PeerExchangeCore
from p2p.mesh.broadcast_tree import BroadcastTree
from p2p.peers.link_slots import LinkRecord, SlotLimits, decide_slot
from p2p.wire.messages import PeerAddress, pack
from tests.simulation.scale.overlay_graph import make_graph

MARKET = "BTC-USD@1/1"
NETWORK = "scale"
EPOCH_US = 1_767_225_600_000_000
PORT = 9000
LEASE_MS = 9000
BEST_PRICE = 100_000
QUANTITY = 10

BroadcastItem = tuple[str, bytes, bytes]  # type, payload, id


def new_engine(identity: Identity, seed: str, now: float) -> Engine:
    engine = Engine(
        NodeKeys(identity),
        [MARKET],
        network=NETWORK,
        epoch_us=EPOCH_US,
        rng=random.Random(seed),
        lease_ms=LEASE_MS,
        now=now,
    )
    engine.resume(now)
    return engine


class EstablishedNetwork:
    """Nodes 0..n-1 in place, and the address of one more, number n."""

    def __init__(self, nodes: int, seed: int, progress: Callable[[float], None]) -> None:
        self.nodes, self.seed = nodes, seed
        self.rng = rng = random.Random(f"established {seed}")
        self.graph = make_graph(nodes, dials=8, max_links=50, nat_share=0.6, seed=seed)
        graph = self.graph
        graph.city.append(rng.randrange(14))
        graph.access.append(rng.uniform(0.001, 0.015))
        graph.behind_nat.append(True)
        graph.links.append({})
        self.identities = [
            Identity.from_seed((seed << 32 | number).to_bytes(32, "big"))
            for number in range(nodes + 1)
        ]
        self.number = {own.node_id: number for number, own in enumerate(self.identities)}
        self.hosts = [
            f"{rng.choice((23, 45, 62, 81, 93, 104, 151, 185))}.{rng.randrange(256)}"
            f".{rng.randrange(256)}.{rng.randrange(1, 255)}"
            for _ in range(nodes + 1)
        ]
        self.feeds = FeedIndex()
        self.presence: list[PresenceLeases] = []
        everyone: dict[str, float] = {}
        for number in range(nodes):
            own = self.identities[number]
            self.feeds[own.node_id, MARKET] = self._feed(number)
            leases = PresenceLeases(
                NodeKeys(own), NETWORK, incarnation=EPOCH_US // 10**6, lease_ms=LEASE_MS
            )  # the incarnation of `maker`
            leases._until = everyone
            everyone[own.node_id] = 0.0
            self.presence.append(leases)
            if number % 100 == 0:
                progress(0.4 * number / nodes)
        self.lease = self.presence[0].own_lease_ms / 1000
        self.renewal = self.lease / 3
        self.kept = PresenceTable()  # of every node

    def node_id(self, number: int) -> str:
        return self.identities[number].node_id

    def maker(self, number: int) -> Engine:
        """Return the engine of a node, with its order placed."""
        engine = new_engine(self.identities[number], f"maker {self.seed} {number}", 0.0)
        price = BEST_PRICE + random.Random(f"{self.seed} {number}").randrange(10_000)
        engine.orders.place(0.0, NewOrder(market=MARKET, side=-1, quantity=QUANTITY, price=price))
        return engine

    def _feed(self, number: int) -> Feed:
        feed = Feed(self.node_id(number), MARKET)
        replica = Replica(feed, NodeKeys(self.identities[number]), NETWORK)
        for message in self.maker(number).drain(0.0).messages:
            if isinstance(message, Broadcast) and message.type == "order":
                replica.offer(unpack("order", message.payload))  # type: ignore[arg-type]
        return feed

    def make_presence(self, number: int, now: float) -> Presence:
        return self.presence[number].make(now, [(MARKET, 1)])

    def keep(self, number: int, presence: Presence, now: float) -> None:
        """Let all nodes keep a presence until its lease ends."""
        self.kept.put(self.node_id(number), presence, now + self.lease)

    def presences_before(self, now: float) -> list[tuple[float, int]]:
        """Return (time, node) of the last presence of each node, and of others that neighbours can still be asked for as
        broadcasts, in order.
        """
        found = []
        for number in range(self.nodes):
            at = now - self.rng.uniform(0.0, self.renewal)
            if at <= now - STORE_TTL:
                found.append((at, number))
            while at > now - STORE_TTL:
                found.append((at, number))
                at -= self.renewal
        return sorted(found)

    def addresses(self, number: int) -> list[PeerAddress]:
        """Return the proven addresses of a node's neighbours: of those that are not behind a NAT."""
        return [
            PeerAddress(self.node_id(other), self.hosts[other], PORT)
            for other in self.graph.links[number]
            if other < self.nodes and not self.graph.behind_nat[other]
        ]

    def admits(self, number: int, now: float) -> bool:
        """Decide if a node has a slot for the newcomer."""
        records = [
            LinkRecord(self.node_id(other), self.hosts[other], outbound=False)
            for other in self.graph.links[number]
        ]
        newcomer = LinkRecord(
            self.node_id(self.nodes), self.hosts[self.nodes], outbound=False, opened_at=now
        )
        return decide_slot(newcomer, records, SlotLimits(), b"key").refusal is None


class Neighbour:
    """A node of the network with a link to the newcomer: its replication, broadcast tree and peer exchange."""

    def __init__(
        self, network: EstablishedNetwork, number: int, emit: Callable[[tuple[str, ...], Any], None]
    ) -> None:
        self.number = number
        own_id = network.node_id(number)
        rng = random.Random(f"neighbour {network.seed} {number}")
        self.replicator = Replicator(
            own_id,
            network.feeds,
            lambda owner, market: True,
            rng,
            presences=lambda: network.kept.stated,
        )
        self.presences = PresenceExchange(
            network.kept, self.replicator.neighbours, lambda: len(network.kept)
        )
        self.tree: BroadcastTree[BroadcastItem] = BroadcastTree(emit)
        self.exchange = PeerExchangeCore(own_id, rng)
        self._network = network

    def link_up(self, now: float, newcomer: str, address: str) -> None:
        self.tree.link_up(now, newcomer, able=True)
        self.exchange.link_up(newcomer, address, now)
        self.replicator.neighbour_up(now, newcomer)

    def receive(self, now: float, newcomer: str, message: Send) -> None:
        """Process a message of replication, or a request for presences."""
        decoded: Any = unpack(message.type, message.payload)
        if message.type == "digest":
            self.replicator.on_digest(now, newcomer, decoded)
        elif message.type == "feed_request":
            self.replicator.on_request(now, newcomer, decoded)
        elif message.type == "presence_request":
            self.presences.on_request(now, newcomer, decoded)

    def take_outgoing(self) -> list[Send]:
        """Return the messages to send, and forget them."""
        return self.replicator.take_outgoing() + self.presences.take_outgoing()

    def due(self, now: float, newcomer: str) -> list[tuple[str, bytes]]:
        """Return what is to be sent to the newcomer now: (type, payload)."""
        self.replicator.tick(now)
        out = [(sent.type, sent.payload) for sent in self.take_outgoing()]
        for node in self.exchange.due(now):
            pushed = self.exchange.push(node, self._network.addresses(self.number), now)
            if pushed is not None:
                out.append(("peerexchange", pack(pushed)))
        return out


def link_view(carrier: str, address: str) -> Any:
    """Return the part of a link that the choice of dials reads."""
    return SimpleNamespace(peer=SimpleNamespace(carrier=carrier, address=address))
