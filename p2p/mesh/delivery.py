# ruff: noqa: A002 - `type` is what the wire and the contract call it
"""Delivery of a message to one node, by the first method that accepts it. No I/O.

In this order: over its link, direct or carried by Grenache; relayed over the mesh along a learned route, in an encrypted
session if both ends and the relay have them (`p2p.mesh.encrypted_relaying`); queued until a way appears; then `DeliveryError`, which says why each method failed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from p2p.adaptive.peer_metrics import Outcome
from p2p.base.errors import DeliveryError
from p2p.base.identity import Identity
from p2p.ground.bounded_map import BoundedMap
from p2p.mesh.encrypted_relaying import TYPE as SEGMENT_TYPE
from p2p.mesh.encrypted_relaying import EncryptedRelaying
from p2p.mesh.relay_shares import RelayRefusal
from p2p.mesh.relaying import Relay
from p2p.mesh.route_table import RelayChoice, RouteTable
from p2p.mesh.routed_messages import Received, RouterSettings, SendQueue, Way
from p2p.mesh.store_and_forward import StoreAndForward, Waiting
from p2p.wire.link import LinkStats
from p2p.wire.messages import Envelope, RelaySegment, pack

MAX_RELAYED: Final = 4096  # nodes whose traffic is counted
REFUSAL_SHOWN: Final = 60.0  # seconds


@dataclass(slots=True)
class _ToSend:
    to: str
    type: str
    payload: bytes
    queue_for: float | None


class Delivery:
    """Owner of links and routes of one node, of what waits for them, and of what is relayed. Sends to `queue`."""

    def __init__(
        self,
        identity: Identity,
        queue: SendQueue,
        settings: RouterSettings,
        rng: random.Random,
        why_not_grenache: Callable[[str], str],
    ) -> None:
        """`why_not_grenache`: reason why a node has no link over Grenache."""
        self.routes = RouteTable(ttl=settings.route_ttl)
        self.waiting = StoreAndForward(
            max_bytes=settings.queue_max_bytes,
            max_per_peer=settings.queue_max_per_peer,
            flush_interval=settings.lazy_flush,
        )
        self.relay = Relay(identity, rng, settings)
        encryption = settings.encryption
        self.encrypted = None if encryption is None else EncryptedRelaying(queue, encryption, self)
        self._counters: dict[str, int] = {
            "sent_direct": 0,
            "sent_grenache": 0,
            "sent_relayed": 0,
            "sent_encrypted": 0,  # of these: end to end encrypted
            "queued": 0,
            "expired": 0,  # of the queued
            "relay_no_route": 0,
            "relay_unable": 0,  # encrypted, and the next node is of an earlier version
        }
        self._queue = queue
        self._why_not_grenache = why_not_grenache
        self._links: dict[str, Way] = {}  # linked peers, with what their link is
        self._carriers: set[str] = set()  # linked peers that relay segments of encrypted sessions
        self._choice = RelayChoice(rng)
        self._came: BoundedMap[str, str] = BoundedMap(MAX_RELAYED)
        # Relayed messages, by the node at the other end. Bytes are those of payloads.
        self.relayed: BoundedMap[str, LinkStats] = BoundedMap(
            MAX_RELAYED, lambda node, stats: self._evicted.add_traffic(stats)
        )
        self._evicted = LinkStats()  # sum of those that made room
        # Refusals by relays, by (relay, node): when, and why.
        self._refusals: BoundedMap[tuple[str, str], tuple[float, str]] = BoundedMap(MAX_RELAYED)
        # Each sends the message (None) or returns the reason why not. A new method is a new line here.
        self._ways: list[tuple[Way, Callable[[float, _ToSend], str | None]]] = [
            (Way.DIRECT, self._send_direct),
            (Way.GRENACHE, self._send_over_grenache),
            (Way.RELAYED, self._send_relayed),
            (Way.QUEUED, self._send_queued),
        ]

    @property
    def counters(self) -> dict[str, int]:
        """Events since the start."""
        return self._counters | self.relay.counters

    # Links and routes

    @property
    def links(self) -> list[str]:
        """Linked peers, in the order in which the links came up."""
        return list(self._links)

    def is_linked(self, node: str) -> bool:
        return node in self._links

    def link_up(self, now: float, peer: str, way: Way, *, segments: bool, group: str = "") -> None:
        """Add a link, and send what waits for it. `segments`: the peer understands the message type `relay_stream`; `group`:
        its network group, empty for a local address.
        """
        self._links[peer] = way
        self.relay.shares.link_up(peer, group)
        if segments:
            self._carriers.add(peer)
        self.flush(now, peer)
        if self.encrypted is not None:  # what waits for a session needs none any more
            for held in self.encrypted.take_held(peer):
                self.send(now, peer, held.type, held.payload, None)

    def link_down(self, peer: str) -> None:
        """Remove a link, and the routes through it."""
        self.waiting.lost(peer)
        self._carriers.discard(peer)
        self.relay.shares.forget_peer(peer)
        if self._links.pop(peer, None) is not None:
            self.routes.forget_link(peer)

    def learn(self, now: float, origin: str, link: str, *, first: bool = True) -> None:
        """Learn a route from a proven message of `origin` that arrived over `link`, before all other links or not."""
        if origin == link or (first and link not in self._links):
            return
        self.routes.learn(now, origin, link, first=first)
        if first and self.waiting.waiting_for(origin) and not self.waiting.flushes(origin):
            self.flush(now, origin)

    def forward(self, now: float, link: str, envelope: Envelope) -> RelayRefusal | None:
        """Pass a message on that `link` brought, never back over it; returns the refusal if it exceeds its share."""
        to = envelope.to
        onward = to if to in self._links else self.routes.find(now, to, exclude=link)
        if onward is None or onward == link:
            self._counters["relay_no_route"] += 1
            return None
        if envelope.type == SEGMENT_TYPE and onward not in self._carriers:
            self._counters["relay_unable"] += 1
            return None
        refusal = self.relay.offer(now, link, envelope, onward)
        if refusal is None:
            self._queue.put(self.relay.due(now))
        return refusal

    def arrived(self, now: float, received: Received) -> None:
        """Count a relayed message to this node."""
        stats = self.traffic(received.origin)
        stats.bytes_received += len(received.payload)
        stats.last_seen = now
        if received.type == SEGMENT_TYPE:
            self._came[received.origin] = received.via
        else:
            stats.messages_received += 1

    # Time

    def next_deadline(self) -> float | None:
        """Return the time of the next action of `tick`, None if there is none."""
        times = (
            self.waiting.next_deadline(),
            self.relay.shares.next_deadline(),
            None if self.encrypted is None else self.encrypted.next_deadline(),
        )
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Expire, flush and relay as far as due."""
        self._counters["expired"] += self.waiting.expire(now)
        for to in self.waiting.due(now):
            self.flush(now, to)
        self._queue.put(self.relay.due(now))
        if self.encrypted is not None:
            self.encrypted.tick(now)

    # Sending

    def relayed_in_all(self) -> LinkStats:
        """Return the traffic of all relayed messages since the start."""
        found = replace(self._evicted)
        for stats in self.relayed.values():
            found.add_traffic(stats)
        return found

    def send(self, now: float, to: str, type: str, payload: bytes, queue_for: float | None) -> Way:
        """Send a message; returns the method. `queue_for`: see `MessageRouter.send`.

        Raises:
            DeliveryError: no method accepted it.
        """
        message = _ToSend(to, type, payload, queue_for)
        tried: list[tuple[str, str]] = []
        for way, attempt in self._ways:
            why_not = attempt(now, message)
            if why_not is None:
                return way
            tried.append((way.value, why_not))
        raise DeliveryError(to, tried)

    def _send_direct(self, now: float, message: _ToSend) -> str | None:
        if self._links.get(message.to) is not Way.DIRECT:
            return "not connected"
        self._counters["sent_direct"] += 1
        self._queue.emit((message.to,), self._envelope(message))
        return None

    def _send_over_grenache(self, now: float, message: _ToSend) -> str | None:
        if self._links.get(message.to) is not Way.GRENACHE:
            return self._why_not_grenache(message.to)
        self._counters["sent_grenache"] += 1
        self._queue.emit((message.to,), self._envelope(message))
        return None

    def _send_relayed(self, now: float, message: _ToSend) -> str | None:
        link = self.routes.find(now, message.to)
        if link is None:
            return "no route: no peer relayed a message of it lately"
        encrypted = self.encrypted
        if (
            encrypted is not None
            and self.routes.candidates(now, message.to, self._carriers)
            and encrypted.wanted(now, message.to)
        ):
            why_not = encrypted.send(now, message.to, message.type, message.payload)
            if why_not is None:
                self._counters["sent_relayed"] += 1
                self._counters["sent_encrypted"] += 1
                self.traffic(message.to).messages_sent += 1
            return why_not
        self._relay_clear(now, link, message)
        return None

    def _relay_clear(self, now: float, link: str, message: _ToSend) -> None:
        envelope = self._envelope(message)
        self.relay.sign(now, envelope)
        self._counters["sent_relayed"] += 1
        stats = self.traffic(message.to)
        stats.messages_sent += 1
        stats.bytes_sent += len(message.payload)
        self._queue.emit((link,), envelope)

    def send_clear(self, now: float, to: str, type: str, payload: bytes) -> None:
        """Relay a message without encryption. Without a route it is lost."""
        link = self.routes.find(now, to)
        if link is not None:
            self._relay_clear(now, link, _ToSend(to, type, payload, None))

    def send_segment(self, now: float, to: str, segment: RelaySegment) -> None:
        """Send a segment of an encrypted session over the link to its receiver, or through a relay. Without either it is
        lost, and sent again later.
        """
        envelope = self._queue.envelope(to, SEGMENT_TYPE, pack(segment))
        if to in self._links:
            self._queue.emit((to,), envelope)
            return
        relays = self.routes.candidates(now, to, self._carriers)
        if not relays:
            return
        self.relay.sign(now, envelope)
        self.traffic(to).bytes_sent += len(envelope.payload)
        # What only acknowledges goes back as the data came, so that a round trip is that of one relay.
        back = self._came.get(to, "") if not segment.data else ""
        relay = back if back in relays else self._choice.pick(now, to, relays)
        self._queue.emit((relay,), envelope)

    def sample(self, now: float, node: str, outcome: Outcome, seconds: float) -> None:
        """Record what came of a segment to a node."""
        if node not in self._links:
            self._choice.result(now, node, outcome, seconds)

    def refused(self, now: float, relay: str, to: str, reason: str) -> None:
        """Record that a relay refused to pass messages to a node on."""
        self._refusals[relay, to] = (now, reason)
        self._choice.result(now, to, "error", 0.0, relay)

    def refusal(self, now: float, relay: str, to: str) -> str:
        """Return why a relay refused within the last minute, empty if it did not."""
        at, reason = self._refusals.get((relay, to), (float("-inf"), ""))
        return reason if now < at + REFUSAL_SHOWN else ""

    def traffic(self, node: str) -> LinkStats:
        """Return the figures of relayed messages to and from a node."""
        stats = self.relayed.renew(node)
        if stats is None:
            stats = self.relayed[node] = LinkStats()
        return stats

    def relayed_traffic(self, node: str) -> LinkStats:
        """Return the figures as `traffic`, with the round trip, for status. Changes nothing."""
        stats = replace(self.relayed.get(node, LinkStats()))
        if self.encrypted is not None and self.encrypted.is_encrypted(node):
            stats.rtt = self.encrypted.rtt(node)
        return stats

    def relayed_in_clear(self, now: float) -> list[str]:
        """Return the nodes with relayed messages that are not end to end encrypted, and have a route."""
        found = []
        for node in self.relayed:
            path = None if node in self._links else self.path(now, node)
            if path is not None and path[1] is False:
                found.append(node)
        return found

    def measured(self, node: str, trip: float) -> None:
        """Record a round trip of messages relayed in clear, in seconds, smoothed as RFC 6298 does."""
        stats = self.traffic(node)
        stats.rtt = trip if stats.rtt is None else stats.rtt + (trip - stats.rtt) / 8

    def path(self, now: float, to: str) -> tuple[str, bool | None] | None:
        """Return the neighbour that relays to a node without a link, and if end to end encrypted: None for not known
        yet. Without a route None.
        """
        link = self.routes.find(now, to)
        if link is None:
            return None
        carriers = self.routes.candidates(now, to, self._carriers)
        if self.encrypted is None or not carriers:
            return link, False
        encrypted = self.encrypted.is_encrypted(to)
        used = self._choice.used(to)
        return (used if encrypted and used in carriers else link), encrypted

    def _send_queued(self, now: float, message: _ToSend) -> str | None:
        if message.queue_for is None:
            return "the message may not be queued"
        waiting = Waiting(message.type, message.payload, now + message.queue_for)
        why_not = self.waiting.add(message.to, waiting)
        if why_not is None:
            self._counters["queued"] += 1
        return why_not

    def _envelope(self, message: _ToSend) -> Envelope:
        return self._queue.envelope(message.to, message.type, message.payload)

    def flush(self, now: float, to: str) -> None:
        """Send what waits for a node, as far as a method accepts it now."""

        def send(waiting: Waiting) -> bool:
            message = _ToSend(to, waiting.type, waiting.payload, None)
            ways = (attempt for way, attempt in self._ways if way is not Way.QUEUED)
            return any(attempt(now, message) is None for attempt in ways)

        self.waiting.flush(now, to, send)
