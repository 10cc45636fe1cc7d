"""Routes over the mesh, learned from the link that brings messages of a node first, and the choice among relays. No I/O.

What counts for the choice is measured on the way itself: the time until a segment of an encrypted session is acknowledged,
segments that are not acknowledged in time, refusals. Relay and node together are what the adaptive router calls a peer, since
one relay may be near to one node and far from another.
"""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from typing import Final

from p2p.adaptive.adaptive_router import AdaptiveRouter
from p2p.adaptive.peer_metrics import Outcome
from p2p.base import limits
from p2p.ground.bounded_map import BoundedMap

KEEP: Final = 2.0  # seconds that a choice is kept, so that segments seldom overtake each other
MAX_NODES: Final = 4096  # with a relay in use
LINKS_PER_NODE: Final = 3  # the latest way and two to fall back on when its link goes down


class RouteTable:
    """For each node the links that brought its messages, the latest last.

    The link that brings a node's broadcast first is, at that moment, the quickest path from it, and the
    links of a broadcast tree work both ways. A route is valid for `ttl` seconds after its last
    message.
    """

    def __init__(
        self, *, ttl: float = limits.ROUTE_TTL, max_nodes: int = limits.ROUTES_MAX
    ) -> None:
        self._ttl = ttl
        # node -> link -> when a message of the node arrived over it, the latest last
        self._routes: BoundedMap[str, dict[str, float]] = BoundedMap(max_nodes)
        # The same of links that were not first; only `candidates` has them.
        self._beside: BoundedMap[str, dict[str, float]] = BoundedMap(max_nodes)

    def __len__(self) -> int:
        return len(self._routes)

    def learn(self, now: float, node: str, link: str, *, first: bool = True) -> None:
        """Record a proven message of `node` that arrived over `link`; not `first`: another link had brought it before."""
        table = self._routes if first else self._beside
        ways = table.renew(node)
        if ways is None:
            ways = table[node] = {}
        ways.pop(link, None)
        ways[link] = now
        if len(ways) > LINKS_PER_NODE:
            del ways[next(iter(ways))]

    def candidates(self, now: float, node: str, among: Container[str]) -> list[str]:
        """Return the links of `among` that lead to `node`, the one that was quickest last first."""
        found: dict[str, None] = {}
        for table in (self._routes, self._beside):
            for link, heard in reversed(table.get(node, {}).items()):
                if now - heard < self._ttl and link in among:
                    found[link] = None
        return list(found)

    def find(self, now: float, node: str, *, exclude: str = "") -> str | None:
        """Return the link towards `node`, None if no recent one is known. Never `exclude`."""
        ways = self._routes.get(node)
        if ways is None:
            return None
        for link, heard in reversed(ways.items()):
            if now - heard >= self._ttl:
                break  # the rest is older still
            if link != exclude:
                return link
        return None

    def forget_link(self, link: str) -> None:
        """Remove a link that is gone from all routes."""
        for table in (self._routes, self._beside):
            empty = []
            for node, ways in table.items():
                if ways.pop(link, None) is not None and not ways:
                    empty.append(node)
            for node in empty:
                del table[node]

    def known(self, now: float) -> dict[str, str]:
        """Return node → link of all valid routes (for status)."""
        found = ((node, self.find(now, node)) for node in self._routes)
        return {node: link for node, link in found if link is not None}


class RelayChoice:
    """The relay in use towards each node."""

    def __init__(self, rng: random.Random) -> None:
        self._router: AdaptiveRouter[tuple[str, str]] = AdaptiveRouter(rng)
        self._used: BoundedMap[str, tuple[str, float]] = BoundedMap(MAX_NODES)

    def pick(self, now: float, node: str, relays: Sequence[str]) -> str:
        """Return the relay for the next segment to `node`; `relays` are the possible ones, not empty."""
        used, until = self._used.get(node, ("", 0.0))
        if used in relays and (now < until or len(relays) == 1):
            return used
        chosen = relays[0]
        if len(relays) > 1:
            chosen, _ = self._router.pick(now, [(relay, node) for relay in relays])
        self._used[node] = (chosen, now + KEEP)
        return chosen

    def used(self, node: str) -> str:
        """Return the relay of the last segment to `node`, empty before the first."""
        return self._used.get(node, ("", 0.0))[0]

    def result(
        self, now: float, node: str, outcome: Outcome, seconds: float, relay: str = ""
    ) -> None:
        """Record what came of a segment or message that went through `relay`, by default the one in use, `seconds` ago."""
        used, _ = self._used.get(node, ("", 0.0))
        relay = relay or used
        if not relay:
            return
        self._router.on_send(now - seconds, (relay, node))
        self._router.on_result(now, (relay, node), seconds, outcome)
        if outcome != "ok" and relay == used:
            self._used[node] = (used, now)  # chosen anew for the next segment
