# ruff: noqa: A002 - `type` is what the wire and the contract call it
"""MessageRouter: deliver messages to one node or to all, without I/O.

To one node by the first method that accepts the message (`p2p.mesh.delivery`): over its link, relayed, queued.
To all over the broadcast tree (`p2p.mesh.broadcast_tree`), over every link.

What is proven about a message's origin:
- over a link: the link is authenticated, `from` must be its peer;
- relayed: in an encrypted session both ends are proven by TLS (`p2p.mesh.encrypted_relaying`); its segments, and clear
  messages, are signed: the origin signs (`signed_bytes`) with the key that its node id derives from; every node on the
  way checks that once and never for a copy, so a forged message dies at the first honest node and the link
  that brought it is charged;
- broadcast: nothing here. `id` binds type, origin and payload, and the handler checks the payload's own
  signature. What a handler refuses is neither kept nor passed on.

A relay sends at most one message for one received. A copy of a relayed message is recognised for SEEN_TTL;
a node that keeps one longer can play it again, so what a request does must not depend on its being new.
No order is promised between messages, except between those that take the same link.

The router never waits and never sends: its driver calls `receive`, `link_up`, `link_down` and
`tick` with the time (float seconds, monotonic), and after each passes on what `take_outgoing`
returns.
"""

from __future__ import annotations

import logging
import random
import secrets
import ssl
from collections.abc import Callable
from typing import Final

from msgspec import Raw

from p2p.base import limits
from p2p.base.errors import Code, RemoteProtocolError
from p2p.base.identity import NODE_ID_LENGTH, Identity
from p2p.base.network_group import is_local, network_group
from p2p.ground.seen_window import SeenWindow
from p2p.mesh.broadcast_tree import BroadcastTree
from p2p.mesh.clock_offsets import ClockOffsets
from p2p.mesh.deferred_broadcasts import DeferredBroadcast, DeferredBroadcasts
from p2p.mesh.delivery import Delivery
from p2p.mesh.encrypted_relaying import TYPE as SEGMENT_TYPE
from p2p.mesh.encrypted_relaying import EncryptedRelaying
from p2p.mesh.forwarding import Forwarding
from p2p.mesh.message_budget import (
    BROADCAST_COST,
    DIRECT_COST,
    DUPLICATE_COST,
    RELAY_COST,
    MessageBudgets,
    Passing,
)
from p2p.mesh.relaying import ForgedMessage, Relay
from p2p.mesh.route_table import RouteTable
from p2p.mesh.routed_messages import (
    CONTROL_TYPES,
    MAX_PAYLOAD,
    MAX_TYPE_LENGTH,
    Handler,
    Outgoing,
    Received,
    Way,
    broadcast_id,
    check_size,
)
from p2p.mesh.store_and_forward import StoreAndForward
from p2p.wire.messages import (
    EVERYONE,
    Branch,
    Codec,
    Envelope,
    Graft,
    IHave,
    Prune,
    RefusedMessages,
    pack,
)

log = logging.getLogger(__name__)

BROADCAST_HOPS: Final = 255  # counted to here and no further: duplicates end a broadcast, not hops
MAX_REASON: Final = 200  # characters of a peer's text that are kept
CONTROL: Final = frozenset(CONTROL_TYPES.values())


class MessageRouter:
    """Routing of messages of one node: `send`, `route`, `broadcast`, `receive`.

    `counters` and `gossip.counters` are for status and tests. With `fragile` a handler's own error is raised to
    the caller (tests); otherwise it is logged, counted, and the message treated as not accepted, without charging
    the link for a fault of this node.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        rng: random.Random,
        wall_ms: Callable[[], int],
        fragile: bool = False,
        seen_ttl: float = limits.SEEN_TTL,
        seen_max: int = limits.SEEN_MAX,
        store_ttl: float = limits.STORE_TTL,
        store_max_bytes: int = limits.STORE_MAX_BYTES,
        lazy_flush: float = limits.LAZY_FLUSH,
        graft_timeout: float = limits.GRAFT_TIMEOUT,
        repair_interval: float = limits.REPAIR_INTERVAL,
        max_hops: int = limits.MAX_HOPS,
        route_ttl: float = limits.ROUTE_TTL,
        queue_max_bytes: int = limits.QUEUE_MAX_BYTES,
        queue_max_per_peer: int = limits.QUEUE_MAX_PER_PEER,
        max_bad_messages: int = limits.MAX_BAD_MESSAGES,
        relay_rate: float = limits.RELAY_RATE,
    ) -> None:
        self.node_id = identity.node_id
        self._wall_ms = wall_ms
        self.clock_offsets = ClockOffsets()
        self._fragile = fragile
        self._max_bad_messages = max_bad_messages
        self._codec = Codec()
        self._handlers: dict[str, Handler] = {}
        self._bad: dict[str, int] = {}  # linked peers, with their invalid messages
        self._links: dict[str, Way] = {}  # linked peers, with what their link is
        self._outgoing: list[Outgoing] = []
        self.gossip: BroadcastTree[Envelope] = BroadcastTree(
            self._emit,
            seen_ttl=seen_ttl,
            seen_max=seen_max,
            store_ttl=store_ttl,
            store_max_bytes=store_max_bytes,
            lazy_flush=lazy_flush,
            graft_timeout=graft_timeout,
            repair_interval=repair_interval,
        )
        self.routes = RouteTable(ttl=route_ttl)
        self.waiting = StoreAndForward(
            max_bytes=queue_max_bytes, max_per_peer=queue_max_per_peer, flush_interval=lazy_flush
        )
        self.budgets = MessageBudgets()
        self._notices: set[str] = set()  # linked peers that understand `refused`
        self._carriers: set[str] = set()  # linked peers that understand `relay_stream`
        self.encrypted: EncryptedRelaying | None = None  # after `encrypt_relayed`
        # Called with the peer whose link delivered a new broadcast of a useful type first.
        self.on_useful: Callable[[str], None] = lambda link: None
        self._useful_types: set[str] = set()
        # Called with link and origin if `handle_deferred` has to be called for them, once others had their turns, until
        # none is left. Without it broadcasts are handled as they arrive.
        self.defer: Callable[[str, str], None] | None = None
        self.deferred = DeferredBroadcasts()
        self.counters: dict[str, int] = {
            "broadcasts_sent": 0,
            "broadcasts_delivered": 0,
            "deferred": 0,  # broadcasts that waited for other messages
            "delivered": 0,  # messages to this node
            "sent_direct": 0,
            "sent_grenache": 0,
            "sent_relayed": 0,
            "sent_encrypted": 0,  # of these: end to end encrypted
            "queued": 0,
            "expired": 0,  # of the queued
            "relayed": 0,  # for others
            "relay_no_route": 0,
            "relay_too_far": 0,
            "relay_refused": 0,  # beyond the limits of `p2p.mesh.relay_shares`
            "relay_unable": 0,  # encrypted, and the next node is of an earlier version
            "relay_duplicates": 0,
            "forged": 0,
            "invalid": 0,  # charged to a link
            "unknown_type": 0,
            "handler_errors": 0,
            "stray": 0,  # arrived after link_down
            "over_budget": 0,  # dropped, see `p2p.mesh.message_budget`
            "refused_by_peers": 0,  # notices that own messages were dropped
            "refused_by_relays": 0,  # of these: on the way to another node
        }
        self._relay = Relay(
            identity,
            rng,
            self.counters,
            seen=SeenWindow(seen_ttl, seen_max),
            max_hops=max_hops,
        )
        self.forwarding = Forwarding(
            self.counters,
            links=self._links,
            carriers=self._carriers,
            notified=self._notices,
            routes=self.routes,
            transmit=lambda outgoing: self._outgoing.append(outgoing),
            refuse=lambda peer, notice: self._emit((peer,), notice),
            rate=relay_rate,
        )
        self.delivery = Delivery(
            self.node_id,
            wall_ms,
            self._emit,
            self.counters,
            links=self._links,
            routes=self.routes,
            relay=self._relay,
            waiting=self.waiting,
            carriers=self._carriers,
            rng=rng,
        )

    def encrypt_relayed(
        self,
        client: ssl.SSLContext,
        server: ssl.SSLContext,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> EncryptedRelaying:
        """Encrypt relayed messages end to end, where the other node and the relays can. Call once, before any link is up."""
        encrypted = EncryptedRelaying(
            self.node_id,
            client,
            server,
            random_bytes=random_bytes,
            wall_ms=self._wall_ms,
            emit=self.delivery.send_segment,
            deliver=self._deliver_decrypted,
            send_clear=self.delivery.send_clear,
            on_sample=self.delivery.sample,
        )
        self.encrypted = self.delivery.encrypted = encrypted
        self.handle(SEGMENT_TYPE, encrypted.receive)
        return encrypted

    @property
    def links(self) -> list[str]:
        """Peers with a link, in the order in which the links came up."""
        return list(self._bad)

    def invalid_messages(self, link: str) -> int:
        """Return the number of invalid messages over the present link of a peer."""
        return self._bad.get(link, 0)

    def handle(
        self, type: str, handler: Handler, *, cost: float | None = None, useful: bool = False
    ) -> None:
        """Register the handler of a message type.

        `cost`: microseconds of processor time for one message, see `p2p.mesh.message_budget`. `useful`: a new
        broadcast of the type speaks for the peer that delivers it first.

        Raises:
            ValueError: the type is taken, or is one of the router's own.
        """
        if type in self._handlers or type in CONTROL:
            raise ValueError(f"messages of type {type!r} are handled already")
        self._handlers[type] = handler
        if cost is not None:
            self.budgets.set_cost(type, cost)
        if useful:
            self._useful_types.add(type)

    # Links

    def link_up(
        self,
        now: float,
        peer: str,
        way: Way = Way.DIRECT,
        *,
        address: str = "",
        exempt: bool = False,
        notices: bool = False,
        branches: bool = False,
        segments: bool = False,
    ) -> None:
        """Add an established link to `peer`, direct or over Grenache, and send the messages queued for it.

        `address`: its IP address, for the shares of its network. `exempt`: it has no budgets. `notices`: it
        understands the message type `refused`; `branches`: the type `branch`; `segments`: the type `relay_stream`.
        """
        if peer in self._bad:
            self.link_down(now, peer)
        self._bad[peer] = 0
        self._links[peer] = way
        self.budgets.link_up(now, peer, address, exempt=exempt)
        if notices:
            self._notices.add(peer)
        if segments:
            self._carriers.add(peer)
        group = network_group(address) if address and not is_local(address) else ""
        self.gossip.link_up(now, peer, able=branches, group=group)
        self.delivery.flush(now, peer)
        if self.encrypted is not None:  # what waits for a session needs none any more
            for held in self.encrypted.take_held(peer):
                self.delivery.send(now, peer, held.type, held.payload, None)

    def link_down(self, now: float, peer: str) -> None:
        """Remove the link to `peer`, and the routes through it."""
        self.waiting.lost(peer)
        self.clock_offsets.forget(peer)
        self._links.pop(peer, None)
        self._notices.discard(peer)
        self._carriers.discard(peer)
        self.budgets.link_down(peer)
        self.forwarding.shares.forget_peer(peer)
        if self._bad.pop(peer, None) is not None:
            self.gossip.link_down(now, peer)
            self.routes.forget_link(peer)

    # Sending

    def send(
        self, now: float, to: str, type: str, payload: bytes, *, queue_for: float | None = None
    ) -> Way:
        """Send msgpack `payload` to one node by the first method that accepts it.

        `queue_for`: seconds that it may wait for a way, None not to wait.

        Raises:
            DeliveryError: no way took it; `tried` says why each did not.
            ValueError: `to` is this node or no node id, or the payload is larger than a frame takes.
        """
        if to == self.node_id:
            raise ValueError("a node does not send messages to itself")
        if len(to) != NODE_ID_LENGTH:
            raise ValueError(f"{to!r} is not a node id")
        check_size(payload)
        return self.delivery.send(now, to, type, payload, queue_for)

    def broadcast(self, now: float, type: str, payload: bytes) -> bytes:
        """Send msgpack `payload` to every node and return the broadcast id. It is not delivered to this
        node.

        The same type and payload again, within SEEN_TTL, is the same broadcast and does nothing.
        """
        check_size(payload)
        key = broadcast_id(type, self.node_id, payload)
        if key in self.gossip.seen:
            return key
        self.counters["broadcasts_sent"] += 1
        envelope = Envelope(
            type=type,
            from_=self.node_id,
            to=EVERYONE,
            timestamp=self._wall_ms(),
            payload=Raw(payload),
            id=key,
        )
        self.gossip.add(now, key, envelope, len(payload), origin=self.node_id)
        return key

    def route(
        self, now: float, to: str, type: str, payload: bytes, *, queue_for: float | None = None
    ) -> None:
        """Send to one node as `send`, or broadcast if `to` is `*`.

        Raises:
            DeliveryError, ValueError: as `send`.
        """
        if to == EVERYONE:
            self.broadcast(now, type, payload)
        else:
            self.send(now, to, type, payload, queue_for=queue_for)

    def take_outgoing(self) -> list[Outgoing]:
        """Return the envelopes to send now, in order. A peer whose link has gone meanwhile is skipped."""
        taken, self._outgoing = self._outgoing, []
        return taken

    def _emit(
        self,
        peers: tuple[str, ...],
        message: Envelope | IHave | Graft | Prune | Branch | RefusedMessages,
    ) -> None:
        if isinstance(message, Envelope):
            envelope = message
        else:
            envelope = Envelope(
                type=CONTROL_TYPES[type(message)],
                from_=self.node_id,
                to="",
                timestamp=self._wall_ms(),
                payload=Raw(pack(message)),
            )
        self._outgoing.append(Outgoing(peers, envelope))

    # Receiving

    def receive(self, now: float, link: str, envelope: Envelope) -> None:
        """Process a message that arrived over the link of peer `link`.

        Raises:
            RemoteProtocolError: the link has to be closed with the error's code.
        """
        if link not in self._bad:
            self.counters["stray"] += 1
            return
        to_all = envelope.to == EVERYONE
        if to_all and envelope.id is not None and envelope.id in self.gossip.seen:
            scope = self.budgets.charge(now, link, "", 0, DUPLICATE_COST)
        else:
            cost = BROADCAST_COST if to_all else DIRECT_COST
            if envelope.sig is not None:
                cost = RELAY_COST
            scope = self.budgets.charge(now, link, envelope.type, len(envelope.payload), cost)
        if scope is not None:
            self._refuse(now, link, envelope, scope)
        elif to_all:
            self._receive_broadcast(now, link, envelope)
        elif not 0 <= envelope.timestamp < 2**63 or len(envelope.type) > MAX_TYPE_LENGTH:
            self._charge(link, "envelope")
        elif envelope.sig is not None:
            self._receive_relayed(now, link, envelope)
        elif envelope.from_ != link or envelope.to not in ("", self.node_id):
            self._charge(link, "a message from or for another node, without proof of its origin")
        elif envelope.type in CONTROL:
            self._receive_control(now, link, envelope)
        else:
            self._receive_direct(now, link, envelope)

    def _refuse(self, now: float, link: str, envelope: Envelope, scope: str) -> None:
        """Drop a message beyond a budget: tell the peer, and end the link if it goes on."""
        self.counters["over_budget"] += 1
        kind = envelope.type
        count = self.budgets.figures()[link][1] if self.budgets.notice_due(now, link) else 0
        if count and link in self._notices:
            reason = f"{kind[:40]}: more than the budget of your {scope}; {count} messages dropped so far"
            self._emit((link,), RefusedMessages(kind[:MAX_TYPE_LENGTH], scope, count, reason))
        if scope == "link" and envelope.from_ == link and self.budgets.is_abuse(now, link):
            raise RemoteProtocolError(
                Code.ABUSE,
                "the budget of this link was exceeded for too long, see docs/protocol.md",
            )

    def _receive_broadcast(self, now: float, link: str, envelope: Envelope) -> None:
        key = envelope.id
        if key is None:
            return self._charge(link, "a broadcast without an id")
        if key in self.gossip.seen:
            origin = self.gossip.duplicate(now, key, link)
            if origin not in ("", link):
                self.routes.learn_beside(now, origin, link)
            return None
        # Copied: the frame's buffer is reused for the next frames.
        payload = bytes(envelope.payload)
        if (
            broadcast_id(envelope.type, envelope.from_, payload) != key
            or len(envelope.from_) != NODE_ID_LENGTH
            or not 0 <= envelope.timestamp < 2**63
            or not 0 <= envelope.hops <= BROADCAST_HOPS
            or len(payload) > MAX_PAYLOAD
        ):
            return self._charge(link, "a broadcast whose envelope is not valid")
        origin = envelope.from_
        if origin == self.node_id:  # sent before a restart: its content is known here
            return self.gossip.ignore(now, key, link)
        if envelope.type not in self._handlers:
            self.gossip.ignore(now, key, link)
            return self._charge_unknown(link, envelope.type)
        passing = self.budgets.charge_origin(now, origin, envelope.type, len(payload))
        if passing is Passing.NOT:
            return self.gossip.ignore(now, key, link)
        broadcast = DeferredBroadcast(
            key, envelope.type, origin, link, envelope.timestamp, envelope.hops, payload
        )
        if self.defer is None or (passing is Passing.FIRST and not self.deferred.waits(origin)):
            return self._handle_broadcast(now, broadcast)
        first = not self.deferred.waits(origin, link)
        if not self.deferred.put(broadcast):
            self.budgets.counters["origin"] += 1
            return self.gossip.ignore(now, key, link)
        self.counters["deferred"] += 1
        self.gossip.hold(now, key, link, origin)
        if first:
            self.defer(link, origin)
        return None

    def handle_deferred(self, now: float, link: str, origin: str) -> None:
        """Handle the next broadcast of an origin over a link that was put off, if there is one.

        Raises:
            RemoteProtocolError: the link has to be closed with the error's code.
        """
        broadcast = self.deferred.take(link, origin)
        if broadcast is not None:
            self._handle_broadcast(now, broadcast)

    def has_deferred(self, link: str, origin: str) -> bool:
        """Return True if broadcasts of an origin over a link wait to be handled."""
        return self.deferred.waits(origin, link)

    def _handle_broadcast(self, now: float, broadcast: DeferredBroadcast) -> None:
        key, origin, link = broadcast.key, broadcast.origin, broadcast.link
        payload = broadcast.payload
        handled = len(self._outgoing)
        received = Received(now, broadcast.type, origin, link, payload, broadcast=True)
        accepted = self._deliver(received)
        if accepted is not True:
            self.gossip.ignore(now, key, link)
            if accepted is False:
                self._charge(link, f"an invalid {broadcast.type}")
            return
        self.counters["broadcasts_delivered"] += 1
        # What the handler sent because of this message follows it on every link.
        answers = self._outgoing[handled:]
        del self._outgoing[handled:]
        onward = Envelope(
            type=broadcast.type,
            from_=origin,
            to=EVERYONE,
            timestamp=broadcast.timestamp,
            payload=Raw(payload),
            id=key,
            hops=min(broadcast.hops + 1, BROADCAST_HOPS),
        )
        self.gossip.add(now, key, onward, len(payload), link, origin)
        self._outgoing += answers
        if broadcast.type in self._useful_types:
            self.on_useful(link)
        if link in self._links:
            self._learn_route(now, origin, link)

    def _receive_control(self, now: float, link: str, envelope: Envelope) -> None:
        message = self._codec.payload(envelope.type, envelope.payload)
        within_bounds = True
        match message:
            case IHave(ids=ids, ages=ages):
                within_bounds = self.gossip.on_announcement(now, link, ids, ages)
            case Graft(ids=ids, push=push, few_links=few):
                within_bounds = self.gossip.on_pull(now, link, ids, push=push, few_links=few)
            case Branch():
                within_bounds = self.gossip.on_branch(link, message)
            case Prune(refusal=refusal):
                self.gossip.on_prune(now, link, refusal=refusal)
            case RefusedMessages(scope="relay", to=to, reason=reason) if len(to) == NODE_ID_LENGTH:
                self.counters["refused_by_relays"] += 1
                self.delivery.refused(now, link, to, reason[:MAX_REASON])
            case RefusedMessages(reason=reason, count=count):
                self.counters["refused_by_peers"] += 1
                log.warning("peer %s drops messages of this node (%d): %.200r", link, count, reason)
        if not within_bounds:
            self._charge(link, f"{envelope.type} out of bounds")

    def _receive_direct(self, now: float, link: str, envelope: Envelope) -> None:
        if envelope.type not in self._handlers:
            return self._charge_unknown(link, envelope.type)
        self.clock_offsets.note(now, link, (self._wall_ms() - envelope.timestamp) / 1000)
        payload = bytes(envelope.payload)
        received = Received(now, envelope.type, link, link, payload, broadcast=False)
        self.counters["delivered"] += 1
        if self._deliver(received) is False:
            self._charge(link, f"an invalid {envelope.type}")
        return None

    def _receive_relayed(self, now: float, link: str, envelope: Envelope) -> None:
        """Process a signed message: for this node, or to be relayed."""
        try:
            new = self._relay.accept(now, link, envelope)
        except ForgedMessage as fault:
            return self._charge(link, str(fault))
        if not new:
            return None
        if envelope.to == self.node_id:
            self._receive_relayed_here(now, link, envelope)
        else:
            self.forwarding.forward(now, link, envelope)
        if envelope.from_ != self.node_id:
            self._learn_route(now, envelope.from_, link)
        return None

    def _receive_relayed_here(self, now: float, link: str, envelope: Envelope) -> None:
        """Deliver a relayed message to this node. Its faults are its origin's, not the link's."""
        if envelope.type not in self._handlers:
            self.counters["unknown_type"] += 1
            return
        payload = bytes(envelope.payload)
        stats = self.delivery.traffic(envelope.from_)
        stats.bytes_received += len(payload)
        stats.last_seen = now
        if envelope.type == SEGMENT_TYPE:
            self.delivery.came(envelope.from_, link)
        else:
            stats.messages_received += 1
            self.counters["delivered"] += 1
        self._deliver(
            Received(now, envelope.type, envelope.from_, link, payload, broadcast=False),
            cut_link=False,
        )

    def _deliver_decrypted(self, now: float, link: str, envelope: Envelope) -> None:
        """Deliver a message of an encrypted session. `link` brought its last segment."""
        kind, payload = envelope.type, bytes(envelope.payload)
        if self.budgets.charge(now, link, kind, len(payload), DIRECT_COST) is not None:
            self.counters["over_budget"] += 1
        elif kind not in self._handlers or kind == SEGMENT_TYPE:
            self.counters["unknown_type"] += 1
        else:
            self.counters["delivered"] += 1
            self.delivery.traffic(envelope.from_).messages_received += 1
            received = Received(now, kind, envelope.from_, link, payload, broadcast=False)
            self._deliver(received, cut_link=False)

    def _learn_route(self, now: float, origin: str, link: str) -> None:
        """Learn a route: a proven message of `origin` arrived first over `link`."""
        if origin != link:
            self.routes.learn(now, origin, link)
            if self.waiting.waiting_for(origin) and not self.waiting.flushes(origin):
                self.delivery.flush(now, origin)

    def _deliver(self, received: Received, *, cut_link: bool = True) -> bool | None:
        """Call the handler and return its verdict; None also if the handler failed."""
        try:
            return self._handlers[received.type](received)
        except RemoteProtocolError:
            if cut_link and not received.broadcast:
                raise
            return False
        except Exception:
            if self._fragile:
                raise
            self.counters["handler_errors"] += 1
            log.exception("the handler of %s messages failed", received.type)
            return None

    def _charge_unknown(self, link: str, type: str) -> None:
        self.counters["unknown_type"] += 1
        self._charge(link, f"unknown message type {type[:40]!r}", Code.UNKNOWN_TYPE)

    def _charge(self, link: str, what: str, code: Code = Code.ABUSE) -> None:
        self.counters["invalid"] += 1
        if link not in self._bad:  # a handler took the link down meanwhile
            return
        self._bad[link] += 1
        if self._bad[link] > self._max_bad_messages:
            raise RemoteProtocolError(code, f"too many invalid messages, the last: {what}")

    # Time

    def next_deadline(self) -> float | None:
        """Return the time of the next action of `tick`, None if there is none."""
        encrypted = None if self.encrypted is None else self.encrypted.next_deadline()
        core = (
            self.gossip.next_deadline(),
            self.waiting.next_deadline(),
            self.forwarding.next_deadline(),
            encrypted,
        )
        return min((at for at in core if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Expire, flush and announce as far as due."""
        self.counters["expired"] += self.waiting.expire(now)
        for to in self.waiting.due(now):
            self.delivery.flush(now, to)
        self.forwarding.tick(now)
        if self.encrypted is not None:
            self.encrypted.tick(now)
        self.gossip.tick(now)
