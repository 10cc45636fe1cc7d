"""Gangs: which identities attack, over which links, and with what. Drawn from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from exchange.feeds import feed_limits
from p2p.mesh import message_budget
from p2p.peers.link_slots import SlotLimits
from tests.simulation.dishonest.misbehaviours import CATALOGUE, Misbehaviour
from tests.simulation.dishonest.processor import SLOWER

PROBE_MARKET = "LTC-USD@0.01/0.01"
SHAPES = {"one": 5, "few": 3, "network": 2}
CROWD = 50

# Limits of the product made small, so that an attack meets them in a short run.
SMALL = {
    "exchange.feeds.missing_feeds.MAX_MISSING": 500,
    "exchange.feeds.missing_feeds.MAX_MISSING_EACH": 300,
    "exchange.feeds.feed_limits.MAX_OPEN_ORDERS": 1500,
    "exchange.feeds.unconnected_batches.MAX_BATCHES": 32,
    "exchange.feeds.feed_limits.ORDERS_SHOWN_A_SECOND": feed_limits.ORDERS_SHOWN_A_SECOND / SLOWER,
    "p2p.mesh.message_budget.LINK_RATE": message_budget.LINK_RATE / SLOWER,
    "p2p.mesh.message_budget.LINK_BURST": message_budget.LINK_BURST / SLOWER,
    "p2p.mesh.message_budget.NETWORK_RATE": message_budget.NETWORK_RATE / SLOWER,
    "p2p.mesh.message_budget.NETWORK_BURST": message_budget.NETWORK_BURST / SLOWER,
    "p2p.mesh.message_budget.ORIGIN_RATE": message_budget.ORIGIN_RATE / SLOWER,
    "p2p.mesh.message_budget.ORIGIN_BURST": message_budget.ORIGIN_BURST / SLOWER,
    "p2p.mesh.message_budget.FAIR_RATE": message_budget.FAIR_RATE / SLOWER,
    "p2p.mesh.message_budget.FAIR_BURST": message_budget.FAIR_BURST / SLOWER,
    "p2p.mesh.message_budget.ORIGINS_RATE": message_budget.ORIGINS_RATE / SLOWER,
    "p2p.mesh.message_budget.ORIGINS_BURST": message_budget.ORIGINS_BURST / SLOWER,
    "p2p.mesh.message_budget.STRIKES_RATE": message_budget.STRIKES_RATE / SLOWER,
    "p2p.mesh.message_budget.STRIKES_BURST": message_budget.STRIKES_BURST / SLOWER,
    "exchange.takes.take_protocol.MAX_DECISIONS": 500,
    "exchange.takes.take_protocol.MAX_DECISIONS_ALL": 2000,
}


@dataclass(slots=True, frozen=True)
class Member:
    misbehaviours: tuple[type[Misbehaviour], ...]
    victims: tuple[int, ...]  # numbers of honest nodes to which it has links
    address: str


@dataclass(slots=True, frozen=True)
class Gang:
    shape: str
    begins: float  # part of the run's duration
    members: tuple[Member, ...]

    def __str__(self) -> str:
        kinds = sorted({kind.__name__ for m in self.members for kind in m.misbehaviours})
        links = sum(len(member.victims) for member in self.members)
        return f"{len(self.members)} dishonest ({self.shape}, {links} links): {', '.join(kinds)}"

    @staticmethod
    @contextmanager
    def limits() -> Iterator[None]:
        with ExitStack() as stack:
            for name, value in SMALL.items():
                stack.enter_context(patch(name, value))
            yield


def gang_of(seed: int, nodes: int) -> Gang:
    rng = random.Random(f"dishonest {seed}")
    shape = rng.choices(tuple(SHAPES), tuple(SHAPES.values()))[0]
    begins = rng.uniform(0.0, 0.7)
    # The first seeds go through the catalogue one by one.
    kinds = [CATALOGUE[seed % len(CATALOGUE)]]
    kinds += rng.sample(CATALOGUE, rng.choice((0, 0, 1, 2, 4)))
    if shape == "one":
        return Gang(shape, begins, (Member(tuple(kinds), _victims(rng, nodes), "198.51.100.7"),))
    if shape == "few":
        members = tuple(
            Member(_some(rng, kinds), _victims(rng, nodes), f"{60 + n}.1.2.3")
            for n in range(rng.randint(2, 4))
        )
        return Gang(shape, begins, members)
    return Gang(shape, begins, crowd_of(rng, nodes, kinds))


def crowd_of(rng: random.Random, nodes: int, kinds: list[type[Misbehaviour]]) -> tuple[Member, ...]:
    """Identities of one network. A node has as many links to them as its slots allow."""
    limits = SlotLimits()
    free = dict.fromkeys(range(nodes), limits.per_network)
    taken: dict[tuple[int, str], int] = {}
    members = []
    for n in range(CROWD):
        address = f"203.0.{n // 4}.{n % 4 + 1}"
        victims = []
        for node in rng.sample(range(nodes), rng.randint(1, nodes)):
            links = taken.get((node, address), 0)
            if free[node] and links < limits.per_address:
                free[node] -= 1
                taken[node, address] = links + 1
                victims.append(node)
        if victims:
            members.append(Member(_some(rng, kinds), tuple(victims), address))
    return tuple(members)


def _some(rng: random.Random, kinds: list[type[Misbehaviour]]) -> tuple[type[Misbehaviour], ...]:
    return tuple(rng.sample(kinds, rng.randint(1, min(2, len(kinds)))))


def _victims(rng: random.Random, nodes: int) -> tuple[int, ...]:
    if rng.random() < 0.5:
        return tuple(range(nodes))
    return tuple(sorted(rng.sample(range(nodes), rng.randint(1, nodes))))
