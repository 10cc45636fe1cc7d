"""Hole punching: decisions about direct links between two nodes that are both behind NATs. No I/O.

After DCUtR of libp2p. Both nodes reach each other through a relay and agree there to dial at the same moment, so that
each router takes the other's packets for answers:

    A (smaller node id)                       B
      punch (endpoint, NAT)       ---->                    by RPC, over whatever path there is
                                  <----       its endpoint and NAT; A knows the round trip
      punch_sync                  ---->       dials at once
      dials half a round trip later

Both dial from their listening ports, whose outside port is known by probes (`nat_kind`). The TCP connection that comes of it
was dialled by both; the node with the smaller id takes the dialling role in TLS and handshake. A symmetric NAT chooses
another port for each destination: with one on either side there is nothing to dial, and the relay stays.

Every connection of a punch begins with a confirmation made of its nonce, so that another connection from the same address is not taken
for it. A failure is remembered for the peer alone: an endpoint is a claim, and a peer that names another's router would have
that one's punches refused. For the same reason no host is dialled more often than once a minute for all peers that offer punches, and
as often for those to which this node offers them.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import msgspec

from p2p.base.reach import Reach, ip_of, is_other_service, may_name
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.peer_texts import Sentence, Word

METHOD: Final = "punch"
SYNC_METHOD: Final = "punch_sync"
HOST_INTERVAL: Final = 60.0  # seconds between punches towards one host
FIRST_PAUSE: Final = 70.0  # seconds after a failed punch with a peer, doubling ...
SOON: Final = 5.0  # ... or, after a refusal that may end by itself, doubling from here
NOT_YET: Final = "the external address is not known yet"
BUSY: Final = "busy with another punch"
MAX_PAUSE: Final = 3600.0  # ... to this
MAX_PEERS: Final = 1000  # remembered
MAX_PUNCHED: Final = 8  # links at once
UNDER_WAY: Final = 20.0  # seconds that a punch may take ...
SYNC_TIME: Final = 6.0  # ... one that was offered until its sync arrives
OWN_TURN: Final = 5.0  # seconds without offers of others after one that failed
NO_PORT: Final = "symmetric"  # the NAT without an endpoint that could be dialled


class PunchOffer(msgspec.Struct, rename="camel"):
    """Request: where the sender's listening port is seen, its NAT, and 16 random bytes that name the punch."""

    host: Word
    port: int
    nat: Word
    nonce: bytes
    # Punched connections begin with a confirmation, see `p2p.wire.punch_confirmation`
    confirm: bool = False


class PunchAnswer(msgspec.Struct, rename="camel"):
    """Answer: the same of the other side. A `reason` is a refusal."""

    host: Word = ""
    port: int = 0
    nat: Word = ""
    reason: Sentence = ""
    confirm: bool = False


class PunchSync(msgspec.Struct, rename="camel"):
    nonce: bytes


class PunchEndpoint(msgspec.Struct, frozen=True):
    """Outside address of this node's listening port, and the NAT before it."""

    host: str
    port: int
    nat: str


@dataclass(slots=True)
class _Record:
    next_try: float
    pause: float
    reason: str


class PunchTarget(msgspec.Struct, frozen=True):
    """Punch under way with a peer. `nonce` names it."""

    node: str
    host: str
    port: int
    nonce: bytes
    since: float
    offered: bool = False  # by the peer


class PunchPlan:
    """Choice of the peer to punch with next, and of the offers to accept. Times are monotonic seconds."""

    def __init__(self, own_id: str, rng: random.Random) -> None:
        self.current: PunchTarget | None = None
        self._own_id = own_id
        self._rng = rng
        self._records: BoundedMap[str, _Record] = BoundedMap(MAX_PEERS)
        self._network = ""  # the own router
        self._synced = False
        self._offers_from = 0.0  # when the next offer of a peer is considered
        # By host, and whether the punch was offered to this node; never evicted early: one punch at a time bounds it
        self._hosts: dict[tuple[str, bool], float] = {}

    def next_peer(self, relayed: Collection[str], punched: int, now: float) -> str | None:
        """Return the peer to offer a punch to, None for none. `relayed`: reached without a link; `punched`: links."""
        if self._busy(now) or punched >= MAX_PUNCHED:
            return None
        due = [node for node in relayed if node > self._own_id and self._due(node, now)]
        return self._rng.choice(sorted(due)) if due else None

    def reason(self, node: str) -> str:
        """Return why the last punch with a peer failed, empty if there was none."""
        record = self._records.get(node)
        return "" if record is None else record.reason

    def refusal(
        self,
        own: PunchEndpoint | None,
        host: str,
        port: int,
        nat: str,
        now: float,
        *,
        offered: bool = False,
    ) -> str:
        """Return why a punch with a peer at this endpoint is not possible now, empty if it is. `offered`: by the peer."""
        if own is None:
            return NOT_YET
        self.moved(own)
        if NO_PORT in (own.nat, nat):
            return "a symmetric NAT has no endpoint that can be dialled"
        if ip_of(host) is None or not may_name(Reach.PUBLIC, host):
            return "no public address"
        if is_other_service(port):
            return "not a port of a node"
        if host == own.host:
            return "behind the same router"
        self._hosts = {h: at for h, at in self._hosts.items() if now - at < HOST_INTERVAL}
        if (host, offered) in self._hosts:
            return "this address was dialled within the last minute"
        waits = offered and now < self._offers_from
        return BUSY if waits or self._busy(now) else ""

    def moved(self, own: PunchEndpoint) -> None:
        """Note the own router. Behind another one each peer is tried again at once."""
        router = f"{own.host} {own.nat}"
        if router != self._network:
            self._network = router
            self._records.clear()

    def begin(self, target: PunchTarget) -> None:
        """Record a punch that both sides agreed on."""
        self.current, self._synced = target, not target.offered
        self._hosts[target.host, target.offered] = target.since

    def synced(self, node: str, nonce: bytes) -> PunchTarget | None:
        """Return the punch that a peer's sync belongs to."""
        current = self.current
        if current is None or (current.node, current.nonce) != (node, nonce):
            return None
        self._synced = True
        return current

    def ended(self, node: str, reason: str, now: float) -> None:
        """Record the end of an offer or a punch; an empty reason is a success."""
        target = self.current
        if target is not None and target.node == node:
            self.current = None
            if reason and target.offered:
                self._offers_from = now + OWN_TURN
        if not reason:
            self._records.pop(node, None)
        else:
            self.note(node, reason, now)

    def note(self, node: str, reason: str, now: float) -> None:
        """Record why there is no punch with a peer; the next one is offered after a pause."""
        known = self._records.get(node)
        least = SOON if reason in (NOT_YET, BUSY) else FIRST_PAUSE
        pause = least if known is None else max(least, min(2 * known.pause, MAX_PAUSE))
        wait = pause * self._rng.uniform(1.0, 1.2)
        self._records[node] = _Record(now + wait, pause, reason)

    def _due(self, node: str, now: float) -> bool:
        record = self._records.get(node)
        return record is None or record.next_try <= now

    def _busy(self, now: float) -> bool:
        limit = UNDER_WAY if self._synced else SYNC_TIME
        return self.current is not None and now - self.current.since < limit
