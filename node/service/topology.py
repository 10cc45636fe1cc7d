"""Links of this node and of its neighbours, for a map.

Nothing is broadcast: a node that shows a map asks its linked neighbours, at most 32 of them, and each
answers with at most 64 of its links, or declines (P2P_SHARE_LINKS=false). An answer is kept for some
seconds, so that pages that look again and again cause no traffic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from node.views.node_views import TopologyLinkView, TopologyNodeView, TopologyView
from p2p.base.errors import P2PError, RpcError
from p2p.base.identity import is_node_id
from p2p.overlay import Overlay
from p2p.wire.link import Carrier

METHOD: Final = "links"
ASKED: Final = 32  # neighbours
ANSWERED: Final = 64  # links of one node
TIMEOUT: Final = 2.0  # seconds
KEPT: Final = 5.0  # seconds that an answer is used again


class Topology:
    """See the module's docstring. `clock` gives monotonic seconds; `share` is whether to answer."""

    def __init__(
        self, overlay: Overlay, own_id: str, clock: Callable[[], float], *, share: bool
    ) -> None:
        self._overlay = overlay
        self._own_id = own_id
        self._clock = clock
        self._share = share
        self._view: TopologyView | None = None
        self._until = 0.0
        self._links: frozenset[str] = frozenset()  # at the time of the answer that is kept
        self._asking = asyncio.Lock()
        overlay.rpc.serve(METHOD, self._on_links)

    async def _on_links(self, caller: str, _body: object) -> list[str]:
        if not self._share or caller not in self._overlay.peers.links:
            raise RpcError("declined", "this node tells its links to neighbours alone, if at all")
        return [node for node in self._overlay.peers.links if node != caller][:ANSWERED]

    async def view(self) -> TopologyView:
        """The map as it is now, or was a few seconds ago if no link of this node came or went."""
        async with self._asking:
            links = frozenset(self._overlay.peers.links)
            if self._view is None or self._clock() >= self._until or links != self._links:
                self._links = links
                self._view = await self._ask()
                self._until = self._clock() + KEPT
            return self._view

    async def _ask(self) -> TopologyView:
        links = dict(self._overlay.peers.links)
        asked = list(links)[:ASKED]
        answers = await asyncio.gather(*(self._links_of(node) for node in asked))
        nodes = {self._own_id: TopologyNodeView(node_id=self._own_id, distance=0, answered=True)}
        pairs: dict[tuple[str, str], Carrier | None] = {}
        for node in links:
            nodes[node] = TopologyNodeView(node_id=node, distance=1, answered=None)
            pairs[_pair(self._own_id, node)] = links[node].peer.carrier
        for node, answer in zip(asked, answers, strict=True):
            nodes[node] = TopologyNodeView(node_id=node, distance=1, answered=answer is not None)
            for other in answer or ():
                nodes.setdefault(other, TopologyNodeView(node_id=other, distance=2, answered=None))
                pairs.setdefault(_pair(node, other), None)
        return TopologyView(
            nodes=list(nodes.values()),
            links=[
                TopologyLinkView(a=a, b=b, carrier=carrier) for (a, b), carrier in pairs.items()
            ],
        )

    async def _links_of(self, node: str) -> list[str] | None:
        """Return a neighbour's links; None when it declines or does not answer."""
        try:
            answer = await self._overlay.rpc.call(
                node, METHOD, None, timeout=TIMEOUT, result_type=list[str]
            )
        except P2PError:
            return None
        return [each for each in answer[:ANSWERED] if is_node_id(each) and each != node]


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
