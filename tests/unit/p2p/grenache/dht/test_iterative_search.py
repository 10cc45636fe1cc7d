"""The iterative search, against a network that is a table of who tells of whom."""

from __future__ import annotations

import random

from p2p.grenache.dht.dht_settings import K
from p2p.grenache.dht.iterative_search import (
    MAX_ASKED,
    MAX_CANDIDATES,
    QUORUM,
    Ending,
    IterativeSearch,
)
from p2p.grenache.dht.krpc import DhtContact, FindNode, KrpcQuery, KrpcReply, decode
from p2p.grenache.dht.queries import Queries
from p2p.grenache.dht.routing_table import number
from p2p.ground.timers import Timers

OWN = b"o" * 20
TARGET = b"t" * 20
RTT = 0.02


class World:
    """Nodes that answer after RTT with the nodes that they know, unless they are dead."""

    id = OWN

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.timers = Timers()
        self.knows: dict[tuple[str, int], tuple[DhtContact, ...]] = {}
        self.ids: dict[tuple[str, int], bytes] = {}
        self.dead: set[tuple[str, int]] = set()
        self.seen: list[tuple[str, int]] = []
        self.most_under_way = 0
        self.queries = Queries(self.rng, self.timers, self._send, lambda *_: None, lambda *_: None)
        self.finished_at: float | None = None

    def node(self, near: int | None = None, node_id: bytes | None = None) -> DhtContact:
        """Another node; `near`: sharing so many bytes with the target."""
        n = len(self.ids) + 1
        address = (f"10.0.{n >> 8}.{n & 255}", 4000)
        if node_id is None:
            node_id = self.rng.randbytes(20)
            if near is not None:
                node_id = TARGET[:near] + b"\xff" + node_id[near + 1 :]
        self.ids[address] = node_id
        self.knows[address] = ()
        return DhtContact(node_id, address)

    def _send(self, data: bytes, address) -> None:
        query = decode(data)
        assert isinstance(query, KrpcQuery)
        if address in self.ids and address not in self.dead:
            told = b"".join(node.compact() for node in self.knows[address])
            reply = KrpcReply(query.transaction, self.ids[address], b"T", compact_nodes=told)
            self.timers.at(self.now + RTT, lambda now: self.queries.message(now, address, reply))

    def ask(self, now, address, ask, **callbacks):
        self.seen.append(address)
        query = self.queries.ask(now, address, OWN, ask, **callbacks)
        self.most_under_way = max(self.most_under_way, self.queries.under_way)
        return query

    def may_ask(self, address, told_by) -> bool:
        return True

    def search(
        self,
        known=(),
        unnamed=(),
        visit=lambda *_: True,
        concurrency=16,
        quorum=None,
        on_stall=None,
    ) -> IterativeSearch:
        """A search run to its end, 30 s at most."""

        def done(now: float, search: IterativeSearch) -> None:
            assert self.finished_at is None, "ended twice"
            self.finished_at = now

        self.concurrency = concurrency
        search = IterativeSearch(
            self, FindNode(TARGET), TARGET, visit, done, Ending(quorum, on_stall)
        )
        search.start(self.now, known, unnamed)
        while self.timers.next() <= self.now + 30:
            self.now = self.timers.next()
            self.timers.run(self.now)
        assert self.finished_at is not None
        return search


def test_our_own_address_is_not_one_of_the_closest():
    world = World()
    ourselves = world.node(node_id=OWN)
    other = world.node()
    search = world.search(known=[other], unnamed=[ourselves.address])
    assert [c.id for c in search.closest()] == [other.id]


def test_a_visitor_that_has_seen_enough_ends_the_search():
    world = World()
    nodes = [world.node() for _ in range(30)]
    visits = []
    search = world.search(known=nodes, visit=lambda now, c, reply: bool(visits.append(c)))
    assert len(visits) == 1
    assert search.finished
    assert world.finished_at == RTT


def test_dead_nodes_cost_a_search_little_and_are_replaced_by_the_next():
    world = World()
    nodes = sorted(
        (world.node() for _ in range(60)), key=lambda node: number(node.id) ^ number(TARGET)
    )
    for _ in range(20):  # what a round trip takes is known
        world.finished_at = None
        began = world.now
        world.search(known=nodes)
    assert world.finished_at is not None
    usual = world.finished_at - began
    world.dead = {node.address for node in nodes[:10]}
    world.finished_at = None
    began = world.now
    search = world.search(known=nodes)
    assert [c.id for c in search.closest()] == [node.id for node in nodes[10 : 10 + K]]
    assert world.finished_at - began < usual + 0.1


def test_searches_with_few_answers_wait_for_slow_nodes_until_they_stall():
    world = World()
    nodes = [world.node() for _ in range(3)]
    world.dead = {nodes[0].address}
    world.search(known=nodes)
    assert world.finished_at is not None
    assert 0.1 < world.finished_at <= 0.31  # first timeout 0.1 s, stalled after 0.2 s more
    world = World()
    nodes = [world.node() for _ in range(QUORUM + 1)]
    world.dead = {nodes[0].address}
    world.search(known=nodes, quorum=QUORUM)
    assert world.finished_at is not None
    assert world.finished_at <= 0.101


def test_only_a_lookup_leaves_out_a_close_node_that_is_slow():
    for quorum in (None, QUORUM):
        world = World()
        nodes = [world.node() for _ in range(40)]
        for _ in range(5):
            world.finished_at = None
            world.search(known=nodes)
        nodes.sort(key=lambda node: number(node.id) ^ number(TARGET))
        first_queries = dict.fromkeys([nodes[0].address], 1)
        transmit = world._send

        def lose_one(data: bytes, address, lost=first_queries, transmit=transmit) -> None:
            if not lost.pop(address, 0):
                transmit(data, address)

        world.queries._send = lose_one
        world.finished_at = None
        search = world.search(known=nodes, quorum=quorum)
        found = [c.id for c in search.closest()]
        left_out = 0 if quorum is None else 1
        assert found == [node.id for node in nodes[left_out : left_out + K]]


def test_without_any_answer_all_nodes_are_awaited():
    world = World()
    nodes = [world.node() for _ in range(3)]
    world.dead = {node.address for node in nodes}
    search = world.search(known=nodes)
    assert world.finished_at is not None
    assert world.finished_at >= 1.0
    assert search.closest() == []


def test_without_any_answer_a_search_asks_if_it_is_to_go_on_once_all_have_stalled_and_when_all_are_silent():
    world = World()
    nodes = [world.node() for _ in range(3)]
    world.dead = {node.address for node in nodes}
    asked: list[tuple[float, bool]] = []

    def stop_at_silence(now: float, silent: bool) -> bool:
        asked.append((now, silent))
        return silent

    world.search(known=nodes, on_stall=stop_at_silence)
    assert asked[-1][1]
    assert world.finished_at == asked[-1][0]
    assert world.finished_at <= 0.15
    world.finished_at, began = None, world.now
    world.search(known=nodes, on_stall=stop_at_silence)
    assert world.finished_at == began  # silent already


def test_one_answer_is_enough_not_to_wait_for_nodes_that_have_stalled():
    world = World()
    nodes = [world.node() for _ in range(3)]
    world.dead = {node.address for node in nodes[1:]}
    asked: list[bool] = []
    world.search(known=nodes, on_stall=lambda now, silent: bool(asked.append(silent)))
    assert not asked
    assert world.finished_at is not None
    assert world.finished_at <= 0.15


def test_a_search_ends_although_every_answer_names_closer_nodes():
    world = World()
    endless = world.node()

    class Endless(dict):
        def __missing__(self, address):
            return tuple(
                DhtContact(
                    TARGET[:10] + world.rng.randbytes(10),
                    (f"10.9.{n}.{world.rng.randrange(256)}", world.rng.randrange(1, 65536)),
                )
                for n in range(20)
            )

    class Anybody(dict):
        def __contains__(self, address) -> bool:
            return True

        def __missing__(self, address):
            return TARGET[:10] + world.rng.randbytes(10)

    world.knows = Endless()
    world.ids = Anybody()
    search = world.search(known=[endless])
    assert search.asked <= MAX_ASKED
    assert len(search._order) <= MAX_CANDIDATES + 1
