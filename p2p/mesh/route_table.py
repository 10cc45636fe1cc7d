"""Ways over the mesh, learned from where news of a node arrives first."""

from __future__ import annotations

from typing import Final

from p2p.base import limits

LINKS_PER_NODE: Final = 3  # the latest way and two to fall back on when its link goes down


class RouteTable:
    """Remembers for each node the links over which it was heard, the latest last.

    The link that brings a node's broadcast first is, at that moment, the quickest path from it, and the
    links of a broadcast tree work both ways. A way is believed for `ttl` seconds after it was last heard.
    """

    def __init__(
        self, *, ttl: float = limits.ROUTE_TTL, max_nodes: int = limits.ROUTES_MAX
    ) -> None:
        self._ttl = ttl
        self._max_nodes = max_nodes
        self._routes: dict[str, dict[str, float]] = {}  # least recently heard node first

    def __len__(self) -> int:
        return len(self._routes)

    def learn(self, now: float, node: str, link: str) -> None:
        """A proven message of `node` came over `link`."""
        ways = self._routes.pop(node, None)
        if ways is None:
            ways = {}
            if len(self._routes) >= self._max_nodes:
                del self._routes[next(iter(self._routes))]
        self._routes[node] = ways
        ways.pop(link, None)
        ways[link] = now
        if len(ways) > LINKS_PER_NODE:
            del ways[next(iter(ways))]

    def find(self, now: float, node: str, *, exclude: str = "") -> str | None:
        """The link to take towards `node`, None when nothing recent is known. Never `exclude`."""
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
        """The link is gone, and every way through it."""
        empty = []
        for node, ways in self._routes.items():
            if ways.pop(link, None) is not None and not ways:
                empty.append(node)
        for node in empty:
            del self._routes[node]

    def known(self, now: float) -> dict[str, str]:
        """Node → link, of all ways believed now (for status)."""
        found = ((node, self.find(now, node)) for node in self._routes)
        return {node: link for node, link in found if link is not None}
