"""Admission of peers: policy and slots applied to the links of this node.

`PeerAdmission` gathers what the pure rules need (`p2p.peers.link_slots`, `p2p.peers.peer_policy`): the records of
links in use, the privileges of a peer, and the time of its last useful news.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Container
from math import inf
from typing import Final, Literal

from p2p.addresses.address_book import AddressBook
from p2p.ground.bounded_map import BoundedMap
from p2p.peers.dial_loop import DialLoop
from p2p.peers.duplicate_links import LinkTable
from p2p.peers.link_slots import (
    LinkRecord,
    LinkRefusal,
    SlotDecision,
    SlotLimits,
    decide_in_share,
    decide_slot,
)
from p2p.peers.peer_policy import PeerPolicy
from p2p.wire.link import PeerInfo

MAX_DELIVERED: Final = 10_000  # peers whose deliveries are counted
Privilege = Literal["pinned", "configured", "anchor", "connect", "lan"]


class PeerAdmission:
    """Decisions about new links, and what they need to know of the present ones."""

    def __init__(
        self,
        limits: SlotLimits,
        policy: PeerPolicy,
        book: AddressBook,
        table: LinkTable,
        dials: DialLoop,
        clock: Callable[[], float],
    ) -> None:
        self.limits = limits
        self.policy = policy
        self.anchors: set[str] = set()  # node ids of the last run's anchor links
        self.counters: Counter[str] = Counter()  # refused by code, and "evicted"
        self._book = book
        self._table = table
        self._dials = dials
        self._now = clock
        self._useful_at: dict[str, float] = {}
        self._outbound: set[str] = set()  # node ids whose slot is an outbound one
        self._delivered: BoundedMap[str, int] = BoundedMap(MAX_DELIVERED)
        self._gave_way: BoundedMap[str, float] = BoundedMap(MAX_DELIVERED)
        self._key = secrets.token_bytes(16)

    def accepts_address(self, address: str) -> bool:
        """Return False if an address is banned: its connections are closed before any handshake."""
        return self.policy.banned("", address) is None

    def refusal(self, info: PeerInfo) -> LinkRefusal | None:
        """Return the refusal of a proven peer by policy."""
        refusal = self.policy.refusal(info.node_id, info.address)
        if refusal is not None:
            self.counters[str(refusal.code)] += 1
        return refusal

    def decide(self, info: PeerInfo, *, shared: bool = False) -> SlotDecision:
        """Decide about a slot for a peer that has no link yet. `shared`: its carrier has as many links as it may."""
        privilege = self.privilege(info.node_id, info.dialled)
        newcomer = LinkRecord(
            node_id=info.node_id,
            address=info.address,
            outbound=info.outbound,
            privileged=privilege not in (None, "lan"),
            opened_at=self._now(),
            lan=privilege == "lan",
            gave_way_at=self._gave_way.get(info.node_id, -inf),
        )
        records = self._records()
        if shared:
            links = self._table.used
            share = [r for r in records if links[r.node_id].peer.carrier == info.carrier]
            decision = decide_in_share(newcomer, share, self._key)
        else:
            decision = decide_slot(newcomer, records, self.limits, self._key)
        if decision.refusal is not None:
            self.counters[str(decision.refusal.code)] += 1
        return decision

    def privilege(
        self,
        node_id: str,
        dialled: tuple[str, int] | None = None,
        pinned: Container[str] | None = None,
    ) -> Privilege | None:
        """Return the reason why a peer is outside of all slots and never evicted, None if it is not. One on the LAN takes an
        inbound link's slot where no other is free, and may itself give way to the operator's.

        `dialled`: where this node dialled it. `pinned`: `AddressBook.pinned_nodes`, if at hand.
        """
        if node_id in self.policy.pins:
            return "pinned"
        if dialled is not None and self._dials.is_named(*dialled):
            return "connect"
        if node_id in self.anchors:
            return "anchor"
        now = self._now()
        if node_id in (self._book.pinned_nodes(now) if pinned is None else pinned):
            return "configured"
        if dialled is not None:
            address = self._book.get(*dialled)
            if address is not None and (address.pinned(now) or address.source == "mdns"):
                return "configured" if address.pinned(now) else "lan"
        return None

    def took_slot(self, node_id: str, *, outbound: bool) -> None:
        """Record the kind of slot that a new peer takes.

        It keeps that kind, whichever of several links is used later: a peer that answers every feeler with a
        second link must not move from the inbound slots, which are limited, to the outbound ones.
        """
        if outbound:
            self._outbound.add(node_id)

    def gave_way(self, node_id: str) -> None:
        """Record that a peer's link was ended for another one."""
        self.counters["evicted"] += 1
        self._gave_way[node_id] = self._now()

    def is_outbound(self, node_id: str) -> bool:
        return node_id in self._outbound

    def news(self, node_id: str) -> None:
        """Record that a link delivered a valid batch first."""
        self._useful_at[node_id] = self._now()
        self._delivered[node_id] = self._delivered.get(node_id, 0) + 1

    def delivered_first(self, node_id: str) -> int:
        """Return the number of valid batches that a peer delivered first, over all its links."""
        return self._delivered.get(node_id, 0)

    def forget(self, node_id: str) -> None:
        """Drop the figures of a peer without a link."""
        self._useful_at.pop(node_id, None)
        self._outbound.discard(node_id)

    def choose_anchors(self, limit: int = 2) -> list[str]:
        """Return the outbound links to dial first in the next run: the oldest, in distinct groups."""
        outbound = [record for record in self._records() if record.outbound]
        chosen: dict[str, str] = {}
        for record in sorted(outbound, key=lambda record: record.opened_at):
            chosen.setdefault(record.group, record.node_id)
        return list(chosen.values())[:limit]

    def _records(self) -> list[LinkRecord]:
        pinned = self._book.pinned_nodes(self._now())
        return [
            LinkRecord(
                node_id=node_id,
                address=link.peer.address,
                outbound=node_id in self._outbound,
                privileged=self.privilege(node_id, link.peer.dialled, pinned) not in (None, "lan"),
                opened_at=link.stats.opened_at,
                rtt=link.stats.rtt,
                useful_at=self._useful_at.get(node_id, -inf),
            )
            for node_id, link in self._table.used.items()
        ]
