"""A network that forms from one bootstrap address: address book, choice of dials, peer exchange and slots of every node.

A dial takes four round trips, one to a node behind a NAT fails after CONNECT_TIMEOUT. Nodes do not leave.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from node.virtual.server_model import VirtualTime
from p2p.addresses.address import INBOUND, Address, PeerFound
from p2p.addresses.address_book import AddressBook
from p2p.addresses.reconnect import Reconnect
from p2p.base.errors import Code, HandshakeRefused
from p2p.base.limits import CONNECT_TIMEOUT
from p2p.discovery.peer_exchange import PeerExchangeCore
from p2p.peers.dial_loop import DialLoop, Surroundings
from p2p.peers.link_slots import LinkRecord, SlotLimits, decide_slot
from p2p.wire.handshake import MAX_OTHERS
from p2p.wire.messages import PeerAddress, PeerExchange, pack
from tests.simulation.scale.dial_host import SimulatedDials
from tests.simulation.scale.established import PORT, link_view
from tests.simulation.scale.newcomer import CONNECT_ROUND_TRIPS, MAX_PEERS
from tests.simulation.scale.overlay_graph import OverlayGraph, make_graph

JOINS_PER_S = 20.0
AFTERWARDS_S = 120.0  # watched after the last node has started
ENOUGH = 8  # links
CHOICE_S = 0.25  # between two choices of a node
ENVELOPE = 180


@dataclass
class FormationFigures:
    """Links and books at the end; times since a node's start; traffic of peer exchange of a node."""

    nodes: int
    linked_p50: float
    linked_p99: float
    enough_p50: float  # eight links
    enough_p99: float
    never_enough: int  # nodes without eight links at the end
    links: float
    links_behind_nat: float
    fewest_links: int
    book: float  # addresses known
    in_one_piece: float  # part of the nodes in the largest component
    refused: float  # dials of a node that were refused as full
    lists: float  # received by a node
    lists_kb: float
    cpu_ms: float  # of a node
    wall: float


class _Node:
    def __init__(self, number: int, run: FormationRun) -> None:
        self.number = number
        self.id = run.node_id(number)
        self.started = 0.0
        self.links: dict[str, Any] = {}
        self.records: dict[str, LinkRecord] = {}
        self.rng = random.Random(f"formation {run.seed} {number}")
        self.exchange = PeerExchangeCore(self.id, self.rng)
        self.book = AddressBook(self.id, Reconnect(10.0), key=number.to_bytes(4, "big"))
        around = Surroundings(self.rng, clock=lambda: run.now, wall=lambda: run.now)
        host = SimulatedDials(self.links, lambda node_id: self.records[node_id].outbound)
        self.dials = DialLoop(self.book, host, MAX_PEERS, around)
        self.linked_at: float | None = None
        self.enough_at: float | None = None
        self.counts: Counter[str] = Counter()


class FormationRun(VirtualTime):
    """Discrete events of all nodes."""

    def __init__(self, nodes: int, seed: int) -> None:
        super().__init__()
        self.seed = seed
        rng = random.Random(f"formation {seed}")
        self.graph: OverlayGraph = make_graph(nodes, dials=0, max_links=0, nat_share=0.6, seed=seed)
        ids = rng.sample(range(32**6), nodes)
        letters = "abcdefghijklmnopqrstuvwxyz234567"
        self._ids = [
            "".join(letters[number >> 5 * i & 31] for i in range(6)) + "a" * 26 for number in ids
        ]
        self.by_id = {node_id: number for number, node_id in enumerate(self._ids)}
        self.hosts = [
            f"{rng.choice((23, 45, 62, 81, 93, 104, 151, 185))}.{rng.randrange(256)}"
            f".{rng.randrange(256)}.{rng.randrange(1, 255)}"
            for _ in range(nodes)
        ]
        self.at_host = {host: number for number, host in enumerate(self.hosts)}
        self.all = [_Node(number, self) for number in range(nodes)]
        for node in self.all:
            node.started = node.number / JOINS_PER_S
            self.at(node.started, partial(self._start, node))
        self.cpu = 0.0

    def node_id(self, number: int) -> str:
        return self._ids[number]

    def _start(self, node: _Node) -> None:
        if node.number:
            node.book.add(PeerFound(self.hosts[0], PORT, None, "bootstrap"), self.now)
        self._tick(node)

    def _tick(self, node: _Node) -> None:
        for partner in node.exchange.due(self.now):
            message = node.exchange.push(partner, self._proven(node), self.now)
            if message is not None:
                other = self.all[self.by_id[partner]]
                delay = self.graph.delay(node.number, other.number)
                self.at(self.now + delay, partial(self._received, other, node, message))
        began = time.thread_time()
        chosen = node.dials.choose(self.now)
        self.cpu += time.thread_time() - began
        for address, feeler in chosen:
            self._dial(node, address, feeler=feeler)
        self.at(self.now + CHOICE_S, partial(self._tick, node))

    def _proven(self, node: _Node) -> list[PeerAddress]:
        found = [(peer, node.book.proven(peer)) for peer in node.links]
        return [PeerAddress(peer, at.host, at.port) for peer, at in found if at is not None]

    def _received(self, node: _Node, sender: _Node, message: PeerExchange) -> None:
        node.counts["lists"] += 1
        node.counts["bytes"] += len(pack(message)) + ENVELOPE
        began = time.thread_time()
        for found in node.exchange.received(sender.id, message, self.now):
            node.book.add(found, self.now)
        self.cpu += time.thread_time() - began

    # Dials

    def _dial(self, node: _Node, address: Address, *, feeler: bool) -> None:
        node.book.attempt(address, self.now)
        node.dials.busy[address.key] = address
        if feeler:
            node.dials._feelers.add(address.key)
        other = self.all[self.at_host[address.host]]
        wait = 2 * CONNECT_ROUND_TRIPS * self.graph.delay(node.number, other.number)
        if self.graph.behind_nat[other.number]:
            wait = CONNECT_TIMEOUT
        self.at(self.now + wait, partial(self._answered, node, other, address))

    def _answered(self, node: _Node, other: _Node, address: Address) -> None:
        del node.dials.busy[address.key]
        node.dials._feelers.discard(address.key)
        if self.graph.behind_nat[other.number]:
            node.book.failed(address, self.now, node.rng, "no answer")
            return
        if other.id in node.links or self._admitted(node, other):
            node.book.succeeded(address, other.id, self.now, self.now)
            return
        node.counts["refused"] += 1
        known = [(peer.node_id, peer.address, peer.port) for peer in self._proven(other)]
        others = tuple(other.rng.sample(known, min(len(known), MAX_OTHERS)))
        refusal = HandshakeRefused(Code.FULL, "full", by_us=False, peer=other.id, others=others)
        node.dials._refused(address, address.node_id, refusal)

    def _admitted(self, node: _Node, other: _Node) -> bool:
        """Link two nodes if both have a slot."""
        for own, peer, outbound in ((other, node, False), (node, other, True)):
            newcomer = self._record(peer, outbound=outbound)
            decision = decide_slot(newcomer, own.records.values(), SlotLimits(), b"key")
            if decision.refusal is not None:
                return False
            if decision.evict is not None:
                self._unlink(own, self.all[self.by_id[decision.evict]])
        for own, peer, outbound in ((other, node, False), (node, other, True)):
            host = self.hosts[peer.number]
            own.records[peer.id] = self._record(peer, outbound=outbound)
            own.links[peer.id] = link_view("tcp", host)
            own.exchange.link_up(peer.id, host, self.now)
            if not outbound:
                own.book.add(
                    PeerFound(host, PORT, peer.id, INBOUND, via=peer.id, via_address=host),
                    self.now,
                )
            if own.linked_at is None:
                own.linked_at = self.now - own.started
            if own.enough_at is None and len(own.links) >= ENOUGH:
                own.enough_at = self.now - own.started
        return True

    def _record(self, peer: _Node, *, outbound: bool) -> LinkRecord:
        return LinkRecord(
            peer.id, self.hosts[peer.number], outbound=outbound, opened_at=self.now, rtt=None
        )

    def _unlink(self, node: _Node, other: _Node) -> None:
        for own, peer in ((node, other), (other, node)):
            record = own.records.pop(peer.id, None)
            own.links.pop(peer.id, None)
            own.exchange.link_down(peer.id)
            if record is not None:
                lasted = self.now - record.opened_at
                own.book.link_lost(peer.id, lasted, self.now, self.now, own.rng)


def _largest_component(run: FormationRun) -> int:
    left, largest = set(range(len(run.all))), 0
    while left:
        ahead, size = [left.pop()], 0
        while ahead:
            node = run.all[ahead.pop()]
            size += 1
            near = {run.by_id[peer] for peer in node.links} & left
            left -= near
            ahead.extend(near)
        largest = max(largest, size)
    return largest


def _spread(values: list[float | None], missing: float) -> tuple[float, float]:
    """Return median and 99th percentile; `missing` stands for what never came."""
    known = sorted(missing if value is None else value for value in values)
    return known[len(known) // 2], known[int(0.99 * (len(known) - 1))]


def run_formation(
    nodes: int,
    *,
    seed: int = 1,
    afterwards: float = AFTERWARDS_S,
    progress: Callable[[float], None] = lambda part: None,
) -> FormationFigures:
    """Start `nodes` one after another, each with the address of the first, and watch for `afterwards` seconds."""
    began = time.perf_counter()
    run = FormationRun(nodes, seed)
    end = nodes / JOINS_PER_S + afterwards
    for step in range(1, 41):
        run.run(end * step / 40)
        progress(step / 40)
    each = run.all
    linked = _spread([node.linked_at for node in each[1:]], end)
    enough = _spread([node.enough_at for node in each[1:]], end)
    hidden = [node for node in each if run.graph.behind_nat[node.number]]
    return FormationFigures(
        nodes=nodes,
        linked_p50=linked[0],
        linked_p99=linked[1],
        enough_p50=enough[0],
        enough_p99=enough[1],
        never_enough=sum(len(node.links) < ENOUGH for node in each),
        links=statistics.fmean(len(node.links) for node in each),
        links_behind_nat=statistics.fmean(len(node.links) for node in hidden),
        fewest_links=min(len(node.links) for node in each),
        book=statistics.fmean(len(node.book) for node in each),
        in_one_piece=_largest_component(run) / nodes,
        refused=statistics.fmean(node.counts["refused"] for node in each),
        lists=statistics.fmean(node.counts["lists"] for node in each),
        lists_kb=statistics.fmean(node.counts["bytes"] for node in each) / 1000,
        cpu_ms=run.cpu / nodes * 1000,
        wall=time.perf_counter() - began,
    )
