"""Peer records for status and API: nodes that had a link, and the addresses of others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from p2p.addresses.address import INBOUND, Address
from p2p.addresses.address_book import AddressBook
from p2p.base.limits import MAX_KNOWN_ADDRESSES
from p2p.base.network_group import network_group
from p2p.peers.dial_loop import DialLoop, Surroundings
from p2p.peers.duplicate_links import SUSPECT_AFTER, LinkTable, silent_for
from p2p.peers.peer_admission import PeerAdmission, Privilege
from p2p.wire.link import LinkStats, PeerLink
from p2p.wire.messages import Capabilities

Status = Literal["connected", "connecting", "disconnected"]


@dataclass(slots=True)
class Peer:
    """Record of a peer. Times are seconds since the epoch."""

    node_id: str | None  # None before the first answer at the address
    address: str
    port: int  # 0: it accepts no links
    source: str  # the discovery strategy that found it, "inbound" or "manual"
    connection: PeerLink | None = None
    status: Status = "disconnected"
    direction: Literal["in", "out"] | None = None
    connected_at: float | None = None  # since when the link is up
    last_seen: float | None = None
    last_heartbeat: float | None = None
    capabilities: Capabilities | None = None
    stats: LinkStats = field(default_factory=LinkStats)
    failures: int = 0  # dials that failed in a row
    last_error: str | None = None
    privilege: Privilege | None = (
        None  # pinned, configured, anchor, lan: outside of slots, never evicted
    )
    group: str = ""  # network group of its address
    banned_until: float | None = None  # seconds since the epoch


class PeerRecords:
    """One record for each node that had a link, refreshed when it is read."""

    def __init__(
        self,
        book: AddressBook,
        table: LinkTable,
        dials: DialLoop,
        admission: PeerAdmission,
        surroundings: Surroundings,
    ) -> None:
        self._book = book
        self._table = table
        self._dials = dials
        self._admission = admission
        self._now = surroundings.clock
        self._wall = surroundings.wall
        self._peers: dict[str, Peer] = {}  # nodes that had a link, by id
        self._sweep_at = 2 * MAX_KNOWN_ADDRESSES  # records

    def had_link(self, node_id: str) -> Peer | None:
        """Return the record of a node that has or had a link."""
        peer = self._peers.get(node_id)
        return None if peer is None else self._refreshed(peer)

    def get(self, node_id: str) -> Peer | None:
        peer = self.had_link(node_id)
        if peer is not None:
            return peer
        address = next(iter(self._book.of(node_id)), None)
        return None if address is None else self._record_of(address)

    def all(self) -> list[Peer]:
        """Return every known peer, the connected ones first. Several addresses of one node are one peer; an
        address without an answer so far is a peer without a node id.
        """
        peers = [self._refreshed(peer) for peer in self._peers.values()]
        listed = set(self._peers)
        for address in self._book:
            if address.ourselves or address.duplicate or address.node_id in listed:
                continue
            if address.node_id is None:
                peers.append(self._record_of(address))
            else:
                listed.add(address.node_id)
                peers.append(self._record_of(self._book.of(address.node_id)[0]))
        for peer in peers:
            self._describe(peer)
        order = {"connected": 0, "connecting": 1, "disconnected": 2}
        return sorted(peers, key=lambda p: (order[p.status], p.address, p.port))

    def _describe(self, peer: Peer) -> None:
        """Fill in what policy and slots say about a peer."""
        link = peer.connection
        where = peer.address if link is None else link.peer.address
        peer.group = network_group(where)
        if peer.node_id is not None:
            dialled = None if link is None else link.peer.dialled
            peer.privilege = self._admission.privilege(peer.node_id, dialled)
        ban = self._admission.policy.banned(peer.node_id or "", where)
        peer.banned_until = None if ban is None else ban.until

    def healthy(self) -> list[Peer]:
        """Return connected peers with traffic within the last two heartbeats."""
        now = self._now()
        return [
            self._refreshed(self._peers[node_id])
            for node_id, link in self._table.used.items()
            if silent_for(link, now) < SUSPECT_AFTER
        ]

    def add(self, node_id: str, peer: Peer) -> Peer:
        """Return the record that is kept: `peer`, unless the node has one."""
        return self._refreshed(self._peers.setdefault(node_id, peer))

    def forget(self, node_id: str) -> None:
        self._peers.pop(node_id, None)

    def _sweep(self) -> None:
        """Forget the nodes without a link and without an address: theirs made room for others."""
        known = {address.node_id for address in self._book}
        for node_id in [n for n in self._peers if n not in known and n not in self._table.used]:
            del self._peers[node_id]
        self._sweep_at = len(self._peers) + MAX_KNOWN_ADDRESSES

    def connected(self, link: PeerLink) -> None:
        """Make or refresh the record of a peer that has just connected. The dialled address of an outbound
        link is filled in when the dial returns.
        """
        if len(self._peers) >= self._sweep_at:
            self._sweep()
        info = link.peer
        known = self._dials.dialled_for(info) or next(iter(self._book.of(info.node_id)), None)
        peer = self._peers.setdefault(
            info.node_id, Peer(info.node_id, info.address, info.listen_port, INBOUND)
        )
        if known is not None:
            peer.address, peer.port, peer.source = known.host, known.port, known.source
        peer.capabilities = info.capabilities

    def reached(self, node_id: str, address: Address) -> None:
        """Record the address at which the peer was dialled."""
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.address, peer.port, peer.source = address.host, address.port, address.source

    def _record_of(self, address: Address) -> Peer:
        peer = Peer(address.node_id, address.host, address.port, address.source)
        peer.last_seen = address.last_success
        peer.failures, peer.last_error = address.failures, address.last_error
        peer.status = "connecting" if address.key in self._dials.busy else "disconnected"
        return peer

    def _refreshed(self, peer: Peer) -> Peer:
        link = self._table.used.get(peer.node_id or "")
        peer.connection = link
        if link is None:
            peer.connected_at = None
            addresses = self._book.of(peer.node_id or "")
            dialling = any(a.key in self._dials.busy for a in addresses)
            peer.status = "connecting" if dialling else "disconnected"
            if addresses:
                best = addresses[0]
                peer.address, peer.port, peer.failures = best.host, best.port, best.failures
                peer.last_error = best.last_error or peer.last_error
            return peer
        skew = self._wall() - self._now()  # from the link's clock to the calendar
        peer.status = "connected"
        peer.direction = "out" if link.peer.outbound else "in"
        peer.capabilities, peer.stats = link.peer.capabilities, link.stats
        peer.failures, peer.last_error = 0, None
        peer.connected_at = skew + link.stats.opened_at
        peer.last_seen = skew + max(link.stats.last_seen, link.stats.opened_at)
        if link.stats.last_heartbeat:
            peer.last_heartbeat = skew + link.stats.last_heartbeat
        return peer
