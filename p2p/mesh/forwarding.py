"""Relaying for other nodes: a message that arrived for another node goes on, once, within fair shares. No I/O.

The message was accepted by `p2p.mesh.relaying` before: its signature is valid and it is no copy. It never goes back over the
link that brought it. What exceeds the shares of `p2p.mesh.relay_shares` is refused, and its origin is informed when it is
a neighbour that understands that.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from p2p.ground.bounded_map import BoundedMap
from p2p.mesh.encrypted_relaying import TYPE as SEGMENT_TYPE
from p2p.mesh.message_budget import NOTICE_INTERVAL
from p2p.mesh.relay_shares import MAX_PAIRS, RelayShares
from p2p.mesh.relaying import next_hop
from p2p.mesh.route_table import RouteTable
from p2p.mesh.routed_messages import Outgoing
from p2p.wire.messages import Envelope, RefusedMessages


class Forwarding:
    """Relaying of one node for others.

    `links`, `carriers`, `notified`: linked peers; of these, those that understand encrypted segments, and those that
    understand refusals. `transmit` sends a message to the peers that it names, `refuse` a refusal to a peer. `rate`: bytes a second.
    """

    def __init__(
        self,
        counters: dict[str, int],
        *,
        links: Container[str],
        carriers: Container[str],
        notified: Container[str],
        routes: RouteTable,
        transmit: Callable[[Outgoing], None],
        refuse: Callable[[str, RefusedMessages], None],
        rate: float,
    ) -> None:
        self.shares: RelayShares[Outgoing] = RelayShares(rate)
        self._counters = counters
        self._links = links
        self._carriers = carriers
        self._notified = notified
        self._routes = routes
        self._transmit = transmit
        self._refuse = refuse
        self._noticed: BoundedMap[tuple[str, str], float] = BoundedMap(MAX_PAIRS)

    def forward(self, now: float, link: str, envelope: Envelope) -> None:
        """Pass a message on that arrived over the link of peer `link`."""
        to = envelope.to
        onward = to if to in self._links else self._routes.find(now, to, exclude=link)
        if onward is None or onward == link:
            self._counters["relay_no_route"] += 1
            return
        if envelope.type == SEGMENT_TYPE and onward not in self._carriers:
            self._counters["relay_unable"] += 1
            return
        item = Outgoing((onward,), next_hop(envelope))
        refusal = self.shares.offer(now, envelope.from_, to, link, len(envelope.payload), item)
        if refusal is None:
            self.tick(now)
        else:
            self._counters["relay_refused"] += 1
            self._notify(now, link, envelope, refusal.reason)

    def next_deadline(self) -> float | None:
        return self.shares.next_deadline()

    def tick(self, now: float) -> None:
        """Send what waited and is due."""
        for outgoing in self.shares.due(now):
            self._counters["relayed"] += 1
            self._transmit(outgoing)

    def _notify(self, now: float, link: str, envelope: Envelope, reason: str) -> None:
        """Send the reason of a refusal to the origin if that is the neighbour, once in NOTICE_INTERVAL."""
        pair = envelope.from_, envelope.to
        noticed = self._noticed.get(pair, float("-inf"))
        if link != envelope.from_ or link not in self._notified or now < noticed + NOTICE_INTERVAL:
            return
        self._noticed[pair] = now
        count = self._counters["relay_refused"]
        self._refuse(link, RefusedMessages(envelope.type, "relay", count, reason, to=envelope.to))
