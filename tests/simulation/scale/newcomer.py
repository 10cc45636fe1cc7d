"""A newcomer from its first dial until it has traded and shows the orders of all nodes.

The newcomer is the engine, address book, dial loop's choice, peer exchange and broadcast tree of a node. It knows one
address. What it links to are `established.Neighbour`s. Behind them the network is taken as given: its feeds are
complete, and a presence reaches each neighbour within SPREAD_S.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from exchange.engine.engine import Engine
from exchange.feeds.exchange_messages import pack
from exchange.model.commands import NewOrder
from exchange.model.ports import Send
from node.virtual.server_model import VirtualTime
from p2p.addresses.address import Address, PeerFound
from p2p.addresses.address_book import AddressBook
from p2p.addresses.reconnect import Reconnect, Wait
from p2p.base.limits import STORE_TTL
from p2p.discovery.peer_exchange import PeerExchangeCore
from p2p.mesh.broadcast_tree import BroadcastTree
from p2p.peers.dial_loop import DialLoop, Surroundings
from p2p.wire.messages import Branch, Graft, IHave, PeerExchange
from tests.simulation.scale.dial_host import SimulatedDials
from tests.simulation.scale.established import (
    MARKET,
    PORT,
    BroadcastItem,
    EstablishedNetwork,
    Neighbour,
    link_view,
    new_engine,
)

CONNECT_ROUND_TRIPS = 4  # TCP, TLS, and two of the handshake
MAX_PEERS = 50
ENVELOPE = 180  # bytes around a payload
CONTROL = 150
SPREAD_S = (0.05, 0.3)  # from the owner of a presence to a neighbour of the newcomer
BEHIND = "behind"  # stands for the links of a neighbour to the rest of the network
DOWNLINK_MBIT = 50.0
TICK_S = 0.05
LONGEST_S = 240.0
START = 1000.0  # of the clock


@dataclass
class NewcomerFigures:
    """Seconds since the first dial; traffic and processor time of the newcomer until all orders are shown."""

    nodes: int
    linked: float
    first_order_shown: float
    first_trade: float
    feeds_held: float  # of all nodes
    half_shown: float
    all_shown: float
    links: int
    addresses: int  # in its address book
    digests_mb: float
    received_mb: float
    requests: int
    cpu_s: float
    wall: float


class NewcomerRun(VirtualTime):
    """Discrete events around one newcomer."""

    def __init__(self, nodes: int, seed: int, progress: Callable[[float], None]) -> None:
        super().__init__(START)
        self.network = network = EstablishedNetwork(nodes, seed, progress)
        self.progress = progress
        self.me = nodes
        self.my_id = network.node_id(nodes)
        self.rng = random.Random(f"newcomer {seed}")
        self.neighbours: dict[str, Neighbour] = {}
        self.makers: dict[int, Engine] = {}
        self.cpu = 0.0
        self.received: Counter[str] = Counter()  # bytes by type
        self.requests = 0
        self._down_free = START
        self._shortest: tuple[int, list[float]] = (-1, [])
        self._wake: dict[str, float] = {}
        self.reached: dict[str, float] = {}
        self.engine = new_engine(network.identities[nodes], f"newcomer {seed}", START)
        self.tree: BroadcastTree[BroadcastItem] = BroadcastTree(self._emit)
        self.exchange = PeerExchangeCore(self.my_id, self.rng)
        self.book = AddressBook(self.my_id, Reconnect(10.0), key=b"newcomer")
        self.links: dict[str, Any] = {}
        around = Surroundings(self.rng, clock=lambda: self.now, wall=lambda: self.now)
        self.dials = DialLoop(self.book, SimulatedDials(self.links), MAX_PEERS, around)
        self._presences()
        self._own: list[Any] = []  # copies of the newcomer's orders
        self._offered = False

    # Events

    def _mine(self, action: Callable[[], None]) -> None:
        """Do work of the newcomer, and send what comes of it."""
        began = time.thread_time()
        action()
        for message in self.engine.drain(self.now).messages:
            if isinstance(message, Send):
                self._send(message)
        self.cpu += time.thread_time() - began
        self._schedule("")

    def _schedule(self, node: str) -> None:
        tree = self.neighbours[node].tree if node else self.tree
        due = tree.next_deadline()
        if due is not None and due < self._wake.get(node, float("inf")):
            self._wake[node] = due
            self.at(due, partial(self._tick_tree, node, due))

    def _tick_tree(self, node: str, due: float) -> None:
        if self._wake.get(node) != due:
            return
        del self._wake[node]
        if node:
            self.neighbours[node].tree.tick(self.now)
            self._schedule(node)
        else:
            self._mine(lambda: self.tree.tick(self.now))

    def until_traded(self) -> None:
        """Run until all orders are shown and the newcomer has traded."""
        first = self.rng.choice(
            [n for n in range(self.network.nodes) if not self.network.graph.behind_nat[n]]
        )
        self.book.add(PeerFound(self.network.hosts[first], PORT, None, "bootstrap"), self.now)
        self.at(self.now, self._tick)
        self.at(self.now, self._watch)
        while self.now < START + LONGEST_S:
            if "all_shown" in self.reached and "first_trade" in self.reached:
                return
            self.step()

    def _tick(self) -> None:
        self._mine(self._tick_newcomer)
        for node, neighbour in self.neighbours.items():
            for kind, payload in neighbour.due(self.now, self.my_id):
                self._arrives(neighbour.number, kind, payload)
            self._schedule(node)
        self.at(self.now + TICK_S, self._tick)

    def _tick_newcomer(self) -> None:
        self.engine.tick(self.now)
        for address, feeler in self.dials.choose(self.now):
            if not feeler:
                self._dial(address)

    # Links

    def _dial(self, address: Address) -> None:
        self.book.attempt(address, self.now)
        self.dials.busy[address.key] = address
        other = self.network.hosts.index(address.host)
        setup = 2 * CONNECT_ROUND_TRIPS * self.network.graph.delay(self.me, other)
        self.at(self.now + setup, lambda: self._mine(partial(self._connected, address, other)))

    def _connected(self, address: Address, other: int) -> None:
        network, node = self.network, self.network.node_id(other)
        del self.dials.busy[address.key]
        if node in self.links:
            return
        if not network.admits(other, self.now):
            self.book.failed(address, self.now, self.rng, "full", Wait.INTERVAL)
            return
        self.book.succeeded(address, node, self.now, self.now)
        network.graph.link(self.me, other)
        self.links[node] = link_view("tcp", address.host)
        self.reached.setdefault("linked", self.now)
        emit = partial(self._emit_from, other)
        self.neighbours[node] = neighbour = Neighbour(network, other, emit)
        for at, item in self._recent:
            neighbour.tree.add(at, item[2], item, len(item[1]), BEHIND, BEHIND)
        neighbour.tree.tick(self.now)
        neighbour.link_up(self.now, self.my_id, network.hosts[self.me])
        self.tree.link_up(self.now, node, able=True)
        self.exchange.link_up(node, address.host, self.now)
        self.engine.neighbour_up(self.now, node)
        self._schedule(node)

    # Messages

    def _delay_to(self, number: int) -> float:
        links = self.network.graph.links[self.me]
        if number in links:
            return links[number]
        if self._shortest[0] != len(links):
            self._shortest = len(links), self.network.graph.shortest(self.me)
        return self._shortest[1][number]

    def _arrives(self, source: int, kind: str, payload: bytes) -> None:
        """Let a message reach the newcomer, after those before it on its downlink."""
        size = len(payload) + ENVELOPE
        at = max(self.now + self._delay_to(source), self._down_free)
        self._down_free = at + size * 8 / (DOWNLINK_MBIT * 1e6)
        self.received[kind] += size
        self.at(self._down_free, lambda: self._mine(partial(self._receive, source, kind, payload)))

    def _receive(self, source: int, kind: str, payload: bytes) -> None:
        node = self.network.node_id(source)
        if kind == "peerexchange":
            message = msgspec.msgpack.decode(payload, type=PeerExchange)
            for found in self.exchange.received(node, message, self.now):
                self.book.add(found, self.now)
        else:
            self.engine.receive(self.now, kind, payload, node, node)

    def _send(self, message: Send) -> None:
        number = self.network.number[message.to]
        self.requests += message.type == "feed_request"
        self.at(self.now + self._delay_to(number), partial(self._arrives_at, number, message))

    def _arrives_at(self, number: int, message: Send) -> None:
        node = self.network.node_id(number)
        if message.type == "take":
            maker = self.makers.get(number)
            if maker is None:
                maker = self.makers[number] = self.network.maker(number)
                maker.drain(0.0)
            maker.receive(self.now, "take", message.payload, self.my_id, self.my_id)
            for answer in maker.drain(self.now).messages:
                if isinstance(answer, Send):
                    self._arrives(number, answer.type, answer.payload)
            return
        # Others answer requests as neighbours do.
        neighbour = self.neighbours.get(node) or Neighbour(self.network, number, lambda *_: None)
        neighbour.receive(self.now, self.my_id, message)
        for sent in neighbour.take_outgoing():
            self._arrives(number, sent.type, sent.payload)

    # Broadcasts

    def _presences(self) -> None:
        """Make what the neighbours hold, and plan what they will receive."""
        network = self.network
        self._recent: list[tuple[float, BroadcastItem]] = []
        latest: dict[int, float] = {}
        for at, number in network.presences_before(START):
            item = self._presence(number, at)
            if at > START - STORE_TTL:
                self._recent.append((at, item))
            latest[number] = at
        for number, at in latest.items():
            self.at(max(START, at + network.renewal), partial(self._renew, number))

    def _renew(self, number: int) -> None:
        item = self._presence(number, self.now)
        self._recent.append((self.now, item))
        for node in self.neighbours:
            self.at(self.now + self.rng.uniform(*SPREAD_S), partial(self._heard, node, item))
        self.at(self.now + self.network.renewal, partial(self._renew, number))

    def _presence(self, number: int, now: float) -> BroadcastItem:
        presence = self.network.make_presence(number, now)
        self.network.keep(number, presence, now)
        return "presence", pack(presence), self.rng.randbytes(16)

    def _heard(self, node: str, item: BroadcastItem) -> None:
        tree, key = self.neighbours[node].tree, item[2]
        if key not in tree.seen:
            tree.add(self.now, key, item, len(item[1]), BEHIND, BEHIND)
            self._schedule(node)

    def _emit_from(self, source: int, peers: tuple[str, ...], message: Any) -> None:
        size = CONTROL
        if isinstance(message, tuple):
            size = len(message[1]) + ENVELOPE
        elif isinstance(message, IHave):
            size += 18 * len(message.ids)
        self.received["broadcasts"] += size
        at = max(self.now + self._delay_to(source), self._down_free)
        self._down_free = at + size * 8 / (DOWNLINK_MBIT * 1e6)
        self.at(self._down_free, lambda: self._mine(partial(self._tree_message, source, message)))

    def _tree_message(self, source: int, message: Any) -> None:
        via = self.network.node_id(source)
        if isinstance(message, tuple):
            self._deliver(message, via)
        else:
            _control(self.tree, self.now, via, message)

    def _deliver(self, item: BroadcastItem, via: str) -> None:
        key = item[2]
        if key in self.tree.seen:
            self.tree.duplicate(self.now, key, via)
        elif self.engine.receive(self.now, item[0], item[1], via, via):
            self.tree.add(self.now, key, item, len(item[1]), via, BEHIND)

    def _emit(self, peers: tuple[str, ...], message: Any) -> None:
        for node in peers:
            number = self.network.number[node]
            self.at(self.now + self._delay_to(number), partial(self._reaches_tree, node, message))

    def _reaches_tree(self, node: str, message: Any) -> None:
        tree = self.neighbours[node].tree
        if not isinstance(message, tuple):
            _control(tree, self.now, self.my_id, message)
        self._schedule(node)

    # What the operator sees

    def _watch(self) -> None:
        engine, nodes, reached = self.engine, self.network.nodes, self.reached
        asks = engine.markets[MARKET].book.asks
        if asks:
            reached.setdefault("first_order_shown", self.now)
        if asks and not self._offered:
            self._offered = True
            order = NewOrder(market=MARKET, side=1, quantity=1, price=-asks[-1])
            self._mine(lambda: self._own.extend(engine.orders.place(self.now, order)))
        if any(engine.order_store.get(order.number).filled for order in self._own):
            reached.setdefault("first_trade", self.now)
        others = [owner for owner, _ in engine.feeds if owner != self.my_id]
        if len(others) == nodes:
            reached.setdefault("feeds_held", self.now)
        present = set(engine.present)
        shown = sum(owner in present for owner in others)
        if shown >= nodes / 2:
            reached.setdefault("half_shown", self.now)
        if shown == nodes:
            reached.setdefault("all_shown", self.now)
        self.progress(0.4 + 0.6 * min(shown, nodes) / nodes)
        self.at(self.now + 0.1, self._watch)


def _control(tree: BroadcastTree[BroadcastItem], now: float, via: str, message: Any) -> None:
    if isinstance(message, IHave):
        tree.on_announcement(now, via, message.ids, message.ages)
    elif isinstance(message, Graft):
        tree.on_pull(now, via, message.ids, push=message.push, few_links=message.few_links)
    elif isinstance(message, Branch):
        tree.on_branch(via, message)
    else:
        tree.on_prune(now, via, refusal=message.refusal)


def run_newcomer(
    nodes: int, *, seed: int = 1, progress: Callable[[float], None] = lambda part: None
) -> NewcomerFigures:
    """Let one node join a network of `nodes`."""
    began = time.perf_counter()
    run = NewcomerRun(nodes, seed, progress)
    run.until_traded()
    took = {name: at - START for name, at in run.reached.items()}
    return NewcomerFigures(
        nodes=nodes,
        linked=took.get("linked", LONGEST_S),
        first_order_shown=took.get("first_order_shown", LONGEST_S),
        first_trade=took.get("first_trade", LONGEST_S),
        feeds_held=took.get("feeds_held", LONGEST_S),
        half_shown=took.get("half_shown", LONGEST_S),
        all_shown=took.get("all_shown", LONGEST_S),
        links=len(run.links),
        addresses=len(run.book),
        digests_mb=run.received["digest"] / 1e6,
        received_mb=sum(run.received.values()) / 1e6,
        requests=run.requests,
        cpu_s=run.cpu,
        wall=time.perf_counter() - began,
    )
