"""Places, delays, network addresses and links of a simulated overlay.

A delay follows from the distance between two cities: light in fibre covers 200 km a millisecond, and a route is longer
than the great circle by DETOUR. Each node adds its own access delay.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field

CITIES = (  # latitude, longitude
    (40.7, -74.0),  # New York
    (37.8, -122.4),  # San Francisco
    (41.9, -87.6),  # Chicago
    (-23.6, -46.6),  # Sao Paulo
    (51.5, -0.1),  # London
    (50.1, 8.7),  # Frankfurt
    (48.9, 2.4),  # Paris
    (52.2, 21.0),  # Warsaw
    (25.2, 55.3),  # Dubai
    (19.1, 72.9),  # Mumbai
    (1.3, 103.8),  # Singapore
    (22.3, 114.2),  # Hong Kong
    (35.7, 139.7),  # Tokyo
    (-33.9, 151.2),  # Sydney
)
KM_PER_S = 200_000.0
DETOUR = 1.5
ACCESS_S = (0.001, 0.015)  # a node's own part of each delay
LAN_S = (0.0001, 0.0003)


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the kilometres between two places on the globe."""
    (lat_a, lon_a), (lat_b, lon_b) = [tuple(map(math.radians, place)) for place in (a, b)]
    cosine = math.sin(lat_a) * math.sin(lat_b)
    cosine += math.cos(lat_a) * math.cos(lat_b) * math.cos(lon_a - lon_b)
    return 6371.0 * math.acos(max(-1.0, min(1.0, cosine)))


BETWEEN_S = [[_distance(a, b) * DETOUR / KM_PER_S for b in CITIES] for a in CITIES]


@dataclass
class OverlayGraph:
    """Nodes 0..n-1 with their places, and the links between them. `links[i]`: neighbour -> delay in seconds."""

    city: list[int]
    access: list[float]
    behind_nat: list[bool]
    links: list[dict[int, float]]
    lan: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def delay(self, a: int, b: int) -> float:
        """Return the seconds one way between two nodes."""
        if self.lan:
            return self.access[a] + self.access[b]
        return BETWEEN_S[self.city[a]][self.city[b]] + self.access[a] + self.access[b]

    def link(self, a: int, b: int) -> bool:
        """Link two nodes; False if they are linked already."""
        if a == b or b in self.links[a]:
            return False
        self.links[a][b] = self.links[b][a] = self.delay(a, b)
        return True

    def unlink(self, a: int, b: int) -> None:
        self.links[a].pop(b, None)
        self.links[b].pop(a, None)

    def dial(self, node: int, dials: int, max_links: int, among: list[int]) -> list[int]:
        """Link a node to random dialable nodes until it has dialled `dials`; returns its new neighbours."""
        made: list[int] = []
        for _ in range(20 * dials):
            if len(made) >= dials:
                break
            other = among[self.rng.randrange(len(among))]
            if len(self.links[other]) < max_links and self.link(node, other):
                made.append(other)
        return made

    def shortest(self, origin: int) -> list[float]:
        """Return the seconds of the shortest path over links from a node to each; inf if there is none."""
        found = [math.inf] * len(self.links)
        found[origin] = 0.0
        ahead = [(0.0, origin)]
        while ahead:
            at, node = heapq.heappop(ahead)
            if at > found[node]:
                continue
            for other, delay in self.links[node].items():
                there = at + delay
                if there < found[other]:
                    found[other] = there
                    heapq.heappush(ahead, (there, other))
        return found


def make_graph(
    nodes: int,
    *,
    dials: int,
    max_links: int,
    nat_share: float,
    seed: int,
    mesh: bool = False,
    lan: bool = False,
) -> OverlayGraph:
    """Make a connected random overlay in which each node dials `dials` others that are not behind a NAT."""
    rng = random.Random(seed)
    low, high = LAN_S if lan else ACCESS_S
    graph = OverlayGraph(
        city=[rng.randrange(len(CITIES)) for _ in range(nodes)],
        access=[rng.uniform(low, high) for _ in range(nodes)],
        behind_nat=[rng.random() < nat_share for _ in range(nodes)],
        links=[{} for _ in range(nodes)],
        lan=lan,
        rng=rng,
    )
    if mesh:
        for a in range(nodes):
            for b in range(a):
                graph.link(a, b)
        return graph
    graph.behind_nat[0] = False
    public = [node for node in range(nodes) if not graph.behind_nat[node]]
    for node in range(nodes):
        graph.dial(node, min(dials, len(public) - 1), max_links, public)
    return graph
