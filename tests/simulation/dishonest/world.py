"""A run with dishonest nodes: every fault of the simulation, then trades between honest nodes with and without them.

While the faults last, the attackers do what they like, and every invariant has to hold among the honest nodes.
Then the network is whole and clients are quiet, but the attackers go on: `PROBES` orders of honest nodes are
taken by other honest nodes, and each is timed. The attackers leave, and the same trades are timed again. What a
trade takes, and what a node does for its attackers, is bounded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from exchange.feeds.feed_limits import FeedLimits
from exchange.model.commands import NewOrder
from exchange.model.records import Order
from p2p.base.network_group import is_local, network_group
from tests.simulation.dishonest.attacker import Attacker
from tests.simulation.dishonest.bounds import check_memory, check_work
from tests.simulation.dishonest.gangs import PROBE_MARKET, Gang, gang_of
from tests.simulation.dishonest.misbehaviours import MID
from tests.simulation.dishonest.processor import Processor
from tests.simulation.invariants import Violation
from tests.simulation.keys import FastKeys, RealKeys, identity
from tests.simulation.network import End, edge_of
from tests.simulation.simulated_node import Node
from tests.simulation.world import World

# Trades under attack before those that count: a broadcast tree in which a hostile link has pruned the honest ones
# mends with the first broadcast that is late on each of them.
WARM_UP = 32
WARM_UP_PAUSE = 0.35  # seconds between them
PROBES = 32
PAUSE = 0.05  # seconds between two probes
LOOK = 0.002  # seconds between two looks at the book
PATIENCE = 20.0  # seconds until a probe counts as lost
RECOVERY = 8.0  # seconds from the end of an attack to the first probe without it
RATIO = 2.0  # p95 with attackers to p95 without


@dataclass(slots=True)
class Probe:
    """One order of `maker`, taken by `taker`."""

    maker: Node
    taker: Node
    price: int
    began: float
    offered: int = 0  # number of the maker's order
    took: float = 0.0


class CountingKeys(FastKeys):
    """Keys that count the signatures they check."""

    checked = 0

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        self.checked += 1
        return super().verify(public_key, signature, message)


class DishonestWorld(World):
    gang: Gang
    probes = PROBES
    judged = True  # latency is compared with its bound
    feed_limits = FeedLimits(
        max_feeds=400,
        max_orders=3000,
        owner_rate=400,
        owner_burst=2000,
        total_rate=2000,
        total_burst=8000,
        fair_rate=100,
        fair_burst=1000,
    )

    # Making

    def prepare(self) -> None:
        settings = self.settings
        self.gang = self.choose_gang()
        self.extra_markets = [PROBE_MARKET]
        base = settings.nodes
        self.attackers = [
            Attacker(
                base + n,
                FastKeys(identity(base + n)),
                [*self._markets(0), PROBE_MARKET],
                clock=self.clock,
                network=self.network,
                unread=self._unread,
                node_id_of=lambda number: identity(number).node_id,
                seed=str(settings.seed),
            )
            for n in range(len(self.gang.members))
        ]
        for attacker, member in zip(self.attackers, self.gang.members, strict=True):
            attacker.gang = self.attackers
            attacker.misbehaviours = [kind(attacker) for kind in member.misbehaviours]
            for victim in member.victims:
                self.network.add_hostile(edge_of(attacker.number, victim))
        self.latency: dict[str, float] = {}

    def choose_gang(self) -> Gang:
        return gang_of(self.settings.seed, self.settings.nodes)

    def hostile(self) -> dict[str, int]:
        return {attacker.node_id: attacker.number for attacker in self.attackers}

    def others(self) -> list[End]:
        return list(self.attackers)

    def _unread(self, victim: int, attacker: int) -> int:
        processor = self.nodes[victim].processor
        return processor.waiting(attacker) if processor else 0

    def _make_node(self, number: int, directory) -> Node:
        node = super()._make_node(number, directory)
        keys = node.keys
        if not isinstance(keys, FastKeys):
            keys = RealKeys(identity(number))
        else:
            keys = node.keys = CountingKeys(identity(number))
        node.processor = Processor(
            self.clock,
            node.handle,
            lambda: getattr(keys, "checked", 0),
            lambda peer: peer >= self.settings.nodes,
            self._flow,
            node.handle_deferred,
        )
        node.address_of = self._address
        return node

    def _flow(self, peer: int) -> str:
        address = self._address(peer)
        return address if is_local(address) else network_group(address)

    def _address(self, peer: int) -> str:
        honest = self.settings.nodes
        if peer < honest:
            return f"10.{peer}.0.1"
        return self.gang.members[peer - honest].address

    # The run

    def run(self) -> float:
        for attacker in self.attackers:
            self.clock.at(self.gang.begins * self.settings.duration, attacker.begin)
        return super().run()

    def once_calm(self) -> None:
        self._wait_until_linked()
        attacked = self._probe("attacked")
        for node in self.nodes:
            check_memory(node, self.gang)
            check_work(node, self.gang)
        for attacker in self.attackers:
            attacker.leave()
        self.clock.run(self.clock.now + RECOVERY)
        alone = self._probe("alone")
        self.latency = {"attacked": attacked, "alone": alone}
        self.trace.note("latency", attacked, alone)
        if self.judged and not self.settings.older and attacked > RATIO * alone:
            raise Violation(
                "honest_latency",
                f"p95 {attacked * 1e3:.1f} ms beside {self.gang}, {alone * 1e3:.1f} ms without",
            )

    def _wait_until_linked(self) -> None:
        for _ in range(60):
            self.clock.run(self.clock.now + 0.5)
            ids = {node.node_id for node in self.nodes}
            if (
                self.network.whole
                and all(node.serving for node in self.nodes)
                and all(ids - {n.node_id} <= set(n.engine.present) for n in self.nodes)
            ):
                return
        missing = [node.number for node in self.nodes if not node.serving]
        raise Violation("honest_links", f"after 30 s of quiet; not serving: {missing}")

    # Probes

    def _probe(self, when: str) -> float:
        """Return the p95 of trades between honest nodes, in seconds."""
        rng = random.Random(f"probes {self.settings.seed}")
        took = []
        warm_up = WARM_UP if when == "attacked" else 0
        for n in range(warm_up + self.probes):
            maker, taker = rng.sample(self.nodes, 2)
            probe = Probe(maker, taker, MID, self.clock.now)
            self._begin(probe)
            while not probe.took and self.clock.now < probe.began + PATIENCE:
                self.clock.run(self.clock.now + 0.05)
            if not probe.took:
                raise Violation(
                    "honest_trades",
                    f"node {taker.number} has not got the order of node {maker.number} after "
                    f"{PATIENCE:g} s, {when}, beside {self.gang}",
                )
            if n >= warm_up:
                took.append(probe.took)
            self.clock.run(self.clock.now + (PAUSE if n >= warm_up else WARM_UP_PAUSE))
        return sorted(took)[int(0.95 * self.probes)]

    def _begin(self, probe: Probe) -> None:
        new = NewOrder(market=PROBE_MARKET, side=-1, price=probe.price, quantity=3)
        self._when_free(probe.maker, lambda: self._offer(probe, new))

    def _offer(self, probe: Probe, new: NewOrder) -> None:
        orders = probe.maker.place(new)
        assert orders, "a probe is refused"
        probe.offered = orders[0].number
        self._look(probe, orders[0].number)

    def _look(self, probe: Probe, number: int) -> None:
        """Take the maker's order as soon as it is on show."""
        market = probe.taker.engine.markets[PROBE_MARKET]
        replica = market.replicas.get(probe.maker.node_id)
        if replica is None or number not in replica.feed.state.orders:
            if self.clock.now < probe.began + PATIENCE:
                self.clock.after(LOOK, lambda: self._look(probe, number))
            return
        new = NewOrder(market=PROBE_MARKET, side=1, price=probe.price, quantity=3)

        def take() -> None:
            orders = probe.taker.place(new)
            assert orders, "a probe is refused"
            self._await(probe, orders[0].number)

        self._when_free(probe.taker, take)

    def _await(self, probe: Probe, number: int) -> None:
        order = probe.taker.engine.order_store.get(number)
        if order is not None and order.filled == order.quantity:
            probe.took = self.clock.now - probe.began
        elif order is not None and self._was_shared(probe, order):
            # An attacker bought or reserved a part at its price, as anybody may: this one says nothing.
            probe.taker.cancel(number)
            probe.maker.cancel(probe.offered)
            probe.began = self.clock.now
            self._begin(probe)
        elif self.clock.now < probe.began + PATIENCE:
            self.clock.after(LOOK, lambda: self._await(probe, number))

    @staticmethod
    def _was_shared(probe: Probe, order: Order) -> bool:
        """Return True if nothing of the maker's order is free, and the taker's goes on with less than all of it."""
        offer = probe.maker.engine.order_store.get(probe.offered)
        return offer is not None and offer.free <= 0 and not (order.done or order.pending)

    @staticmethod
    def _when_free(node: Node, call) -> None:
        assert node.processor is not None
        node.processor.when_free(call)


class PatientWorld(DishonestWorld):
    """The same run with more probes, which decide where few of them gave a suspicion."""

    probes = 8 * PROBES
