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
- broadcast: `id` binds type, origin and payload; the payload carries the key that the origin's id derives from
  (`OriginCheck`), or the message costs the origin nothing and teaches no route; and the handler checks the payload's own
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
from collections.abc import Callable
from typing import Final

from msgspec import Raw

from p2p.base.errors import Code, RemoteProtocolError
from p2p.base.identity import NODE_ID_LENGTH, Identity
from p2p.base.network_group import is_local, network_group
from p2p.mesh.broadcast_tree import BroadcastTree
from p2p.mesh.clock_offsets import ClockOffsets
from p2p.mesh.delivery import Delivery
from p2p.mesh.encrypted_relaying import TYPE as SEGMENT_TYPE
from p2p.mesh.message_budget import (
    BROADCAST_COST,
    DIRECT_COST,
    DUPLICATE_COST,
    RELAY_COST,
    DeferredBroadcast,
    MessageBudgets,
    Passing,
)
from p2p.mesh.relaying import ForgedMessage
from p2p.mesh.routed_messages import (
    CONTROL_TYPES,
    DEFAULT_SETTINGS,
    MAX_PAYLOAD,
    MAX_TYPE_LENGTH,
    Handler,
    OriginCheck,
    Outgoing,
    Received,
    RouterHost,
    RouterSettings,
    SendQueue,
    Way,
    broadcast_id,
    check_size,
)
from p2p.wire.messages import (
    EVERYONE,
    Branch,
    Codec,
    Envelope,
    Graft,
    IHave,
    Prune,
    RefusedMessages,
)

log = logging.getLogger(__name__)

BROADCAST_HOPS: Final = 255  # counted to here and no further: duplicates end a broadcast, not hops
MAX_REASON: Final = 200  # characters of a peer's text that are kept
CONTROL: Final = frozenset(CONTROL_TYPES.values())


class MessageRouter:
    """Routing of messages of one node: `send`, `route`, `broadcast`, `receive`.

    Three owners of state: `gossip` (broadcasts), `delivery` (messages to one node, links and routes) and `budgets`. With
    `fragile` a handler's own error is raised to the caller (tests); otherwise it is logged, counted, and the message
    treated as not accepted, without charging the link for a fault of this node. Without a `host` broadcasts are handled
    as they arrive.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        rng: random.Random,
        wall_ms: Callable[[], int],
        fragile: bool = False,
        host: RouterHost | None = None,
        settings: RouterSettings = DEFAULT_SETTINGS,
    ) -> None:
        self.node_id = identity.node_id
        self.clock_offsets = ClockOffsets()
        self.budgets = MessageBudgets(settings.max_bad_messages)
        self._wall_ms = wall_ms
        self._fragile = fragile
        self._host = host
        self._codec = Codec()
        self._handlers: dict[str, Handler] = {}
        self._origin_checks: dict[str, OriginCheck] = {}  # of the types that are broadcast
        self._useful_types: set[str] = set()
        self._queue = SendQueue(identity.node_id, wall_ms)
        self.gossip: BroadcastTree[Envelope] = BroadcastTree(self._queue.emit, settings)
        self.delivery = Delivery(
            identity,
            self._queue,
            settings,
            rng,
            (lambda node: "no Grape is used") if host is None else host.why_not_grenache,
        )
        if self.delivery.encrypted is not None:
            self.handle(SEGMENT_TYPE, self._receive_segment)
        self._counters: dict[str, int] = {
            "broadcasts_sent": 0,
            "broadcasts_delivered": 0,
            "deferred": 0,  # broadcasts that waited for other messages
            "delivered": 0,  # messages to this node
            "invalid": 0,  # charged to a link
            "unknown_type": 0,
            "unproven": 0,  # broadcasts that are not of the origin that they name
            "handler_errors": 0,
            "stray": 0,  # arrived after link_down
            "over_budget": 0,  # dropped, see `p2p.mesh.message_budget`
            "refused_by_peers": 0,  # notices that own messages were dropped
            "refused_by_relays": 0,  # of these: on the way to another node
        }

    @property
    def counters(self) -> dict[str, int]:
        """Events since the start, for status and tests; those of broadcasts: `gossip.counters`."""
        return self._counters | self.delivery.counters

    @property
    def links(self) -> list[str]:
        """Peers with a link, in the order in which the links came up."""
        return self.delivery.links

    def invalid_messages(self, link: str) -> int:
        """Return the number of invalid messages over the present link of a peer."""
        return self.budgets.invalid_messages(link)

    def handle(
        self,
        type: str,
        handler: Handler,
        *,
        origin: OriginCheck | None = None,
        cost: float | None = None,
        useful: bool = False,
    ) -> None:
        """Register the handler of a message type.

        `origin`: proves who sent a broadcast of the type; without it no broadcast of the type is taken.
        `cost`: microseconds of processor time for one message, see `p2p.mesh.message_budget`. `useful`: a new
        broadcast of the type speaks for the peer that delivers it first.

        Raises:
            ValueError: the type is taken, or is one of the router's own.
        """
        if type in self._handlers or type in CONTROL:
            raise ValueError(f"messages of type {type!r} are handled already")
        self._handlers[type] = handler
        if origin is not None:
            self._origin_checks[type] = origin
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
        if self.delivery.is_linked(peer):
            self.link_down(now, peer)
        self.clock_offsets.link_up(peer, address)
        self.budgets.link_up(now, peer, address, exempt=exempt, notices=notices)
        group = network_group(address) if address and not is_local(address) else ""
        self.gossip.link_up(now, peer, able=branches, group=group)
        self.delivery.link_up(now, peer, way, segments=segments, group=group)

    def link_down(self, now: float, peer: str) -> None:
        """Remove the link to `peer`, and the routes through it."""
        self.clock_offsets.link_down(peer)
        self.budgets.link_down(peer)
        self.gossip.link_down(now, peer)
        self.delivery.link_down(peer)

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
        self._counters["broadcasts_sent"] += 1
        envelope = self._queue.envelope(EVERYONE, type, payload)
        envelope.id = key
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
        return self._queue.take()

    # Receiving

    def receive(self, now: float, link: str, envelope: Envelope) -> None:
        """Process a message that arrived over the link of peer `link`.

        Raises:
            RemoteProtocolError: the link has to be closed with the error's code.
        """
        if not self.delivery.is_linked(link):
            self._counters["stray"] += 1
            return
        to_all = envelope.to == EVERYONE
        size = len(envelope.payload) * envelope.READING
        if to_all and envelope.id is not None and envelope.id in self.gossip.seen:
            scope = self.budgets.charge(now, link, "", size, DUPLICATE_COST)
        else:
            cost = BROADCAST_COST if to_all else DIRECT_COST
            more = 0.0 if envelope.sig is None else RELAY_COST
            scope = self.budgets.charge(now, link, envelope.type, size, cost, more)
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
        self._counters["over_budget"] += 1
        kind = envelope.type
        if count := self.budgets.notice_due(now, link):
            reason = f"{kind[:40]}: more than the budget of your {scope}; {count} messages dropped so far"
            notice = RefusedMessages(kind[:MAX_TYPE_LENGTH], scope, count, reason)
            self._queue.emit((link,), notice)
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
            if origin:
                self.delivery.learn(now, origin, link, first=False)
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
        check = self._origin_checks.get(envelope.type)
        proven = None if check is None else check(origin, payload)
        if proven is not True:
            self.gossip.ignore(now, key, link)
            self._counters["unproven"] += 1
            if proven is False:
                self._charge(link, f"an invalid {envelope.type}")
            return None  # versions before 0.3 pass on what names another origin
        passing = self.budgets.charge_origin(now, origin, envelope.type, len(payload))
        if passing is Passing.NOT:
            return self.gossip.ignore(now, key, link)
        broadcast = DeferredBroadcast(
            key, envelope.type, origin, link, envelope.timestamp, envelope.hops, payload
        )
        deferred = self.budgets.deferred
        if self._host is None or (passing is Passing.FIRST and not deferred.waits(origin)):
            return self._handle_broadcast(now, broadcast)
        first = not deferred.waits(origin, link)
        if not self.budgets.defer(broadcast):
            return self.gossip.ignore(now, key, link)
        self._counters["deferred"] += 1
        self.gossip.hold(now, key, link, origin)
        if first:
            self._host.defer(link, origin)
        return None

    def handle_deferred(self, now: float, link: str, origin: str) -> None:
        """Handle the next broadcast of an origin over a link that was put off, if there is one.

        Raises:
            RemoteProtocolError: the link has to be closed with the error's code.
        """
        broadcast = self.budgets.deferred.take(link, origin)
        if broadcast is not None:
            self._handle_broadcast(now, broadcast)

    def has_deferred(self, link: str, origin: str) -> bool:
        """Return True if broadcasts of an origin over a link wait to be handled."""
        return self.budgets.deferred.waits(origin, link)

    def _handle_broadcast(self, now: float, broadcast: DeferredBroadcast) -> None:
        key, origin, link = broadcast.key, broadcast.origin, broadcast.link
        payload = broadcast.payload
        handled = len(self._queue)
        received = Received(now, broadcast.type, origin, link, payload, broadcast=True)
        accepted = self._deliver(received)
        if accepted is not True:
            self.gossip.ignore(now, key, link)
            if accepted is False:
                self._charge(link, f"an invalid {broadcast.type}")
            return
        self._counters["broadcasts_delivered"] += 1
        # What the handler sent because of this message follows it on every link.
        answers = self._queue.take(handled)
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
        self._queue.put(answers)
        if self._host is not None and broadcast.type in self._useful_types:
            self._host.first_with_news(link)
        self.delivery.learn(now, origin, link)

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
                self._counters["refused_by_relays"] += 1
                self.delivery.refused(now, link, to, reason[:MAX_REASON])
            case RefusedMessages(reason=reason, count=count):
                self._counters["refused_by_peers"] += 1
                log.warning("peer %s drops messages of this node (%d): %.200r", link, count, reason)
        if not within_bounds:
            self._charge(link, f"{envelope.type} out of bounds")

    def _receive_direct(self, now: float, link: str, envelope: Envelope) -> None:
        if envelope.type not in self._handlers:
            return self._charge_unknown(link, envelope.type)
        self.clock_offsets.note(now, link, (self._wall_ms() - envelope.timestamp) / 1000)
        payload = bytes(envelope.payload)
        received = Received(now, envelope.type, link, link, payload, broadcast=False)
        self._counters["delivered"] += 1
        if self._deliver(received) is False:
            self._charge(link, f"an invalid {envelope.type}")
        return None

    def _receive_relayed(self, now: float, link: str, envelope: Envelope) -> None:
        """Process a signed message: for this node, or to be relayed."""
        try:
            new = self.delivery.relay.accept(now, link, envelope)
        except ForgedMessage as fault:
            return self._charge(link, str(fault))
        if not new:
            return None
        if envelope.to == self.node_id:
            self._receive_relayed_here(now, link, envelope)
        else:
            self._forward(now, link, envelope)
        if envelope.from_ != self.node_id:
            self.delivery.learn(now, envelope.from_, link)
        return None

    def _forward(self, now: float, link: str, envelope: Envelope) -> None:
        """Relay a message of another node. Its origin is informed of a refusal if it is the neighbour."""
        origin, to = envelope.from_, envelope.to
        refusal = self.delivery.forward(now, link, envelope)
        if refusal is not None and self.budgets.relay_notice_due(now, link, origin, to):
            count = self.delivery.relay.counters["relay_refused"]
            notice = RefusedMessages(envelope.type, "relay", count, refusal.reason, to=to)
            self._queue.emit((link,), notice)

    def _receive_relayed_here(self, now: float, link: str, envelope: Envelope) -> None:
        """Deliver a relayed message to this node. Its faults are its origin's, not the link's."""
        kind, payload = envelope.type, bytes(envelope.payload)
        if kind not in self._handlers:
            self._counters["unknown_type"] += 1
            return
        received = Received(now, kind, envelope.from_, link, payload, broadcast=False)
        self.delivery.arrived(now, received)
        if kind != SEGMENT_TYPE:
            self._counters["delivered"] += 1
        self._deliver(received, cut_link=False)

    def _receive_segment(self, received: Received) -> bool:
        """Process a segment of an encrypted session, and deliver the messages that are complete."""
        encrypted = self.delivery.encrypted
        envelopes = None if encrypted is None else encrypted.receive(received)
        for envelope in envelopes or ():
            self._deliver_decrypted(received.now, received.via, envelope)
        return envelopes is not None

    def _deliver_decrypted(self, now: float, link: str, envelope: Envelope) -> None:
        """Deliver a message of an encrypted session. `link` brought its last segment."""
        kind, payload = envelope.type, bytes(envelope.payload)
        if self.budgets.charge(now, link, kind, len(payload), DIRECT_COST) is not None:
            self._counters["over_budget"] += 1
        elif kind not in self._handlers or kind == SEGMENT_TYPE:
            self._counters["unknown_type"] += 1
        else:
            self._counters["delivered"] += 1
            self.delivery.traffic(envelope.from_).messages_received += 1
            received = Received(now, kind, envelope.from_, link, payload, broadcast=False)
            self._deliver(received, cut_link=False)

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
            self._counters["handler_errors"] += 1
            log.exception("the handler of %s messages failed", received.type)
            return None

    def _charge_unknown(self, link: str, type: str) -> None:
        self._counters["unknown_type"] += 1
        self._charge(link, f"unknown message type {type[:40]!r}", Code.UNKNOWN_TYPE)

    def _charge(self, link: str, what: str, code: Code = Code.ABUSE) -> None:
        self._counters["invalid"] += 1
        # A handler may have taken the link down meanwhile.
        if self.delivery.is_linked(link) and self.budgets.is_faulty(link):
            raise RemoteProtocolError(code, f"too many invalid messages, the last: {what}")

    # Time

    def next_deadline(self) -> float | None:
        """Return the time of the next action of `tick`, None if there is none."""
        times = (self.gossip.next_deadline(), self.delivery.next_deadline())
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Expire, flush and announce as far as due."""
        self.delivery.tick(now)
        self.gossip.tick(now)
