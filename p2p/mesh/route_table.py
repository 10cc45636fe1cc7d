"""Route table: routes over the mesh, learned from the link that brings messages of a node first."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from p2p.base import limits
from p2p.ground.bounded_map import BoundedMap

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

    def learn(self, now: float, node: str, link: str) -> None:
        """Record a proven message of `node` that arrived over `link`."""
        ways = self._routes.renew(node)
        if ways is None:
            ways = self._routes[node] = {}
        ways.pop(link, None)
        ways[link] = now
        if len(ways) > LINKS_PER_NODE:
            del ways[next(iter(ways))]

    def learn_beside(self, now: float, node: str, link: str) -> None:
        """Record that `link` brought a message of `node` too, which another one had brought before."""
        ways = self._beside.renew(node)
        if ways is None:
            ways = self._beside[node] = {}
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
