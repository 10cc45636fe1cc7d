# ruff: noqa: A002 - `type` is what the wire and the contract call it
"""MessageRouter: deliver messages to one node or to all, without I/O.

To one node, in this order: over its link, direct or carried by Grenache; relayed over the mesh along a
learned route; queued until a way appears; then `DeliveryError`, which says why each way failed. To all: the
broadcast tree of `p2p.mesh.broadcast_tree`, over every link.

What is proven about a message's origin:
- over a link: the link is authenticated, `from` must be its peer;
- relayed: the origin signs (`signed_bytes`) with the key that its node id derives from; every node on the
  way checks that once and never for a copy, so a forged message dies at the first honest node and the link
  that brought it is charged;
- broadcast: nothing here. `id` binds type, origin and payload, and the handler checks the payload's own
  signature. What a handler refuses is neither kept nor passed on.

A relay sends at most one message for one received. A copy of a relayed message is recognised for SEEN_TTL;
a node that keeps one longer can play it again, so what a request does must not depend on its being new.
No order is promised between messages, except between those that take the same link.

The router never waits and never sends: whoever drives it calls `receive`, `link_up`, `link_down` and `tick`
with the time (float seconds, monotonic), and after each passes on what `take_outgoing` returns.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from msgspec import Raw

from p2p.base import limits
from p2p.base.errors import Code, DeliveryError, RemoteProtocolError
from p2p.base.identity import (
    NODE_ID_LENGTH,
    PUBLIC_KEY_LENGTH,
    SIGNATURE_LENGTH,
    Identity,
    node_id_of,
    verify,
)
from p2p.base.seen_window import SeenWindow
from p2p.mesh.broadcast_tree import ID_LENGTH, BroadcastTree
from p2p.mesh.message_budget import (
    BROADCAST_COST,
    DIRECT_COST,
    DUPLICATE_COST,
    RELAY_COST,
    MessageBudgets,
)
from p2p.mesh.route_table import RouteTable
from p2p.mesh.store_and_forward import StoreAndForward, Waiting
from p2p.wire.messages import (
    EVERYONE,
    Codec,
    Envelope,
    Graft,
    IHave,
    Prune,
    RefusedMessages,
    pack,
    signed_bytes,
)

log = logging.getLogger(__name__)

MAX_PAYLOAD: Final = limits.MAX_FRAME - 1024  # the rest of an envelope is far smaller than this
MAX_TYPE_LENGTH: Final = 64
BROADCAST_HOPS: Final = 255  # counted to here and no further: duplicates end a broadcast, not hops
CONTROL: Final = frozenset({"ihave", "graft", "prune", "refused"})


class Way(StrEnum):
    """Method by which a message was sent."""

    DIRECT = "direct"
    GRENACHE = "grenache"
    RELAYED = "relayed"
    QUEUED = "queued"


@dataclass(slots=True)
class Received:
    """A message for this node.

    `origin` is proven for direct and relayed messages; for a broadcast it is a claim that the handler
    checks against the payload's own signature. `via` is the peer whose link brought it.
    """

    now: float
    type: str
    origin: str
    via: str
    payload: bytes
    broadcast: bool


Handler = Callable[[Received], bool | None]
"""Takes a message. False (or a `RemoteProtocolError`): the payload is not valid. None: a valid broadcast
that is not to be passed on, because its origin says too much."""


@dataclass(slots=True)
class Outgoing:
    """One envelope for one or more linked peers, to be encoded once."""

    peers: tuple[str, ...]
    envelope: Envelope


@dataclass(slots=True)
class _ToSend:
    to: str
    type: str
    payload: bytes
    queue_for: float | None


def broadcast_id(type: str, origin: str, payload: bytes) -> bytes:
    """Return the id of a broadcast: BLAKE2b-128 (RFC 7693) over its type, origin and payload."""
    digest = blake2b(pack((type, origin)), digest_size=ID_LENGTH, person=b"exnode broadcast")
    digest.update(payload)
    return digest.digest()


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
    ) -> None:
        self.node_id = identity.node_id
        self._identity = identity
        self._rng = rng
        self._wall_ms = wall_ms
        self._fragile = fragile
        self._max_hops = max_hops
        self._max_bad_messages = max_bad_messages
        self._codec = Codec()
        self._handlers: dict[str, Handler] = {}
        self._bad: dict[str, int] = {}  # linked peers, with their invalid messages
        self._links: dict[str, Way] = {}  # linked peers, with what their link is
        # Why a node has no link over Grenache, for whoever reads a `DeliveryError`.
        self.why_not_grenache: Callable[[str], str] = lambda node: "no Grape is used"
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
        self._relayed_seen = SeenWindow(seen_ttl, seen_max)
        self.waiting = StoreAndForward(
            max_bytes=queue_max_bytes, max_per_peer=queue_max_per_peer, flush_interval=lazy_flush
        )
        # Each sends the message (None) or returns the reason why not. A new method is a new line here.
        self._ways: list[tuple[Way, Callable[[float, _ToSend], str | None]]] = [
            (Way.DIRECT, self._send_direct),
            (Way.GRENACHE, self._send_over_grenache),
            (Way.RELAYED, self._send_relayed),
            (Way.QUEUED, self._send_queued),
        ]
        self.budgets = MessageBudgets()
        self._notices: set[str] = set()  # linked peers that understand `refused`
        # Called with the peer whose link delivered a new broadcast of a useful type first.
        self.on_useful: Callable[[str], None] = lambda link: None
        self._useful_types: set[str] = set()
        self.counters: dict[str, int] = {
            "broadcasts_sent": 0,
            "broadcasts_delivered": 0,
            "delivered": 0,  # messages to this node
            "sent_direct": 0,
            "sent_grenache": 0,
            "sent_relayed": 0,
            "queued": 0,
            "expired": 0,  # of the queued
            "relayed": 0,  # for others
            "relay_no_route": 0,
            "relay_too_far": 0,
            "relay_duplicates": 0,
            "forged": 0,
            "invalid": 0,  # charged to a link
            "unknown_type": 0,
            "handler_errors": 0,
            "stray": 0,  # arrived after link_down
            "over_budget": 0,  # dropped, see `p2p.mesh.message_budget`
            "refused_by_peers": 0,  # notices that own messages were dropped
        }

    @property
    def links(self) -> list[str]:
        """Peers with a link, in the order in which the links came up."""
        return list(self._bad)

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
    ) -> None:
        """Add an established link to `peer`, direct or over Grenache, and send the messages queued for it.

        `address`: its IP address, for the budget of its network. `exempt`: it has no budgets. `notices`: it
        understands the message type `refused`.
        """
        if peer in self._bad:
            self.link_down(now, peer)
        self._bad[peer] = 0
        self._links[peer] = way
        self.budgets.link_up(now, peer, address, exempt=exempt)
        if notices:
            self._notices.add(peer)
        self.gossip.link_up(now, peer)
        self._flush_waiting(now, peer)

    def link_down(self, now: float, peer: str) -> None:
        """Remove the link to `peer`, and the routes through it."""
        self.waiting.lost(peer)
        self._links.pop(peer, None)
        self._notices.discard(peer)
        self.budgets.link_down(peer)
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
        _check_size(payload)
        message = _ToSend(to, type, payload, queue_for)
        tried: list[tuple[str, str]] = []
        for way, attempt in self._ways:
            why_not = attempt(now, message)
            if why_not is None:
                return way
            tried.append((way.value, why_not))
        raise DeliveryError(to, tried)

    def broadcast(self, now: float, type: str, payload: bytes) -> bytes:
        """Send msgpack `payload` to every node and return the broadcast id. It is not delivered to this
        node.

        The same type and payload again, within SEEN_TTL, is the same broadcast and does nothing.
        """
        _check_size(payload)
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
        self.gossip.add(now, key, envelope, len(payload))
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
        self, peers: tuple[str, ...], message: Envelope | IHave | Graft | Prune | RefusedMessages
    ) -> None:
        if isinstance(message, Envelope):
            envelope = message
        else:
            envelope = Envelope(
                type=_CONTROL_TYPES[type(message)],
                from_=self.node_id,
                to="",
                timestamp=self._wall_ms(),
                payload=Raw(pack(message)),
            )
        self._outgoing.append(Outgoing(peers, envelope))

    def _send_direct(self, now: float, message: _ToSend) -> str | None:
        if self._links.get(message.to) is not Way.DIRECT:
            return "not connected"
        self.counters["sent_direct"] += 1
        self._emit((message.to,), self._envelope(message))
        return None

    def _send_over_grenache(self, now: float, message: _ToSend) -> str | None:
        if self._links.get(message.to) is not Way.GRENACHE:
            return self.why_not_grenache(message.to)
        self.counters["sent_grenache"] += 1
        self._emit((message.to,), self._envelope(message))
        return None

    def _send_relayed(self, now: float, message: _ToSend) -> str | None:
        link = self.routes.find(now, message.to)
        if link is None:
            return "no route: no peer relayed a message of it lately"
        envelope = self._envelope(message)
        # Random, so that equal messages are told apart; part of what is signed and of the seen digest.
        envelope.id = self._rng.randbytes(ID_LENGTH)
        signed = signed_bytes(envelope)
        envelope.key = self._identity.public_key
        envelope.sig = self._identity.sign(signed)
        self._relayed_seen.add(now, _relay_digest(signed), "")
        self.counters["sent_relayed"] += 1
        self._emit((link,), envelope)
        return None

    def _send_queued(self, now: float, message: _ToSend) -> str | None:
        if message.queue_for is None:
            return "the message may not be queued"
        waiting = Waiting(message.type, message.payload, now + message.queue_for)
        why_not = self.waiting.add(message.to, waiting)
        if why_not is None:
            self.counters["queued"] += 1
        return why_not

    def _envelope(self, message: _ToSend) -> Envelope:
        return Envelope(
            type=message.type,
            from_=self.node_id,
            to=message.to,
            timestamp=self._wall_ms(),
            payload=Raw(message.payload),
        )

    def _flush_waiting(self, now: float, to: str) -> None:
        def send(waiting: Waiting) -> bool:
            message = _ToSend(to, waiting.type, waiting.payload, None)
            ways = (attempt for way, attempt in self._ways if way is not Way.QUEUED)
            return any(attempt(now, message) is None for attempt in ways)

        self.waiting.flush(now, to, send)

    # Receiving

    def receive(self, now: float, link: str, envelope: Envelope) -> None:
        """Process a message that arrived over the link of peer `link`.

        Raises:
            RemoteProtocolError: the link is to be cut, with the error's code.
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
            return self.gossip.duplicate(now, key, link)
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
        if not self.budgets.charge_origin(now, origin, envelope.type, len(payload)):
            return self.gossip.ignore(now, key, link)
        handled = len(self._outgoing)
        received = Received(now, envelope.type, origin, link, payload, broadcast=True)
        accepted = self._deliver(received)
        if accepted is not True:
            self.gossip.ignore(now, key, link)
            if accepted is False:
                self._charge(link, f"an invalid {envelope.type}")
            return None
        self.counters["broadcasts_delivered"] += 1
        # What the handler sent because of this message follows it on every link.
        answers = self._outgoing[handled:]
        del self._outgoing[handled:]
        onward = Envelope(
            type=envelope.type,
            from_=origin,
            to=EVERYONE,
            timestamp=envelope.timestamp,
            payload=Raw(payload),
            id=key,
            hops=min(envelope.hops + 1, BROADCAST_HOPS),
        )
        self.gossip.add(now, key, onward, len(payload), link)
        self._outgoing += answers
        if envelope.type in self._useful_types:
            self.on_useful(link)
        self._learn_route(now, origin, link)
        return None

    def _receive_control(self, now: float, link: str, envelope: Envelope) -> None:
        message = self._codec.payload(envelope.type, envelope.payload)
        within_bounds = True
        match message:
            case IHave(ids=ids):
                within_bounds = self.gossip.on_announcement(now, link, ids)
            case Graft(ids=ids):
                within_bounds = self.gossip.on_pull(now, link, ids)
            case Prune():
                self.gossip.on_prune(link)
            case RefusedMessages(reason=reason, count=count):
                self.counters["refused_by_peers"] += 1
                log.warning("peer %s drops messages of this node (%d): %.200r", link, count, reason)
        if not within_bounds:
            self._charge(link, f"{envelope.type} out of bounds")

    def _receive_direct(self, now: float, link: str, envelope: Envelope) -> None:
        if envelope.type not in self._handlers:
            return self._charge_unknown(link, envelope.type)
        payload = bytes(envelope.payload)
        received = Received(now, envelope.type, link, link, payload, broadcast=False)
        self.counters["delivered"] += 1
        if self._deliver(received) is False:
            self._charge(link, f"an invalid {envelope.type}")
        return None

    def _receive_relayed(self, now: float, link: str, envelope: Envelope) -> None:
        """Process a signed message: for this node, or to be relayed."""
        key, sig, origin, to = envelope.key, envelope.sig, envelope.from_, envelope.to
        if (
            key is None
            or sig is None
            or len(key) != PUBLIC_KEY_LENGTH
            or len(sig) != SIGNATURE_LENGTH
            or envelope.id is None
            or len(envelope.id) != ID_LENGTH
            or len(to) != NODE_ID_LENGTH
            or envelope.hops < 0
            or len(envelope.payload) > MAX_PAYLOAD
        ):
            return self._charge(link, "a relayed message whose envelope is not valid")
        if envelope.hops >= self._max_hops:
            self.counters["relay_too_far"] += 1
            return None
        signed = signed_bytes(envelope)
        digest = _relay_digest(signed)
        if digest in self._relayed_seen:
            self.counters["relay_duplicates"] += 1
            return None
        if node_id_of(key) != origin or not verify(key, sig, signed):
            self.counters["forged"] += 1
            return self._charge(link, "a relayed message that its origin did not sign")
        # Remembered only now: a forged copy must not shut out the true one.
        self._relayed_seen.add(now, digest, link)
        if to == self.node_id:
            self._receive_relayed_here(now, link, envelope)
        else:
            self._relay(now, link, envelope, key, sig)
        if origin != self.node_id:
            self._learn_route(now, origin, link)
        return None

    def _receive_relayed_here(self, now: float, link: str, envelope: Envelope) -> None:
        """Deliver a relayed message to this node. Its faults are its origin's, not the link's."""
        if envelope.type not in self._handlers:
            self.counters["unknown_type"] += 1
            return
        payload = bytes(envelope.payload)
        self.counters["delivered"] += 1
        self._deliver(
            Received(now, envelope.type, envelope.from_, link, payload, broadcast=False),
            cut_link=False,
        )

    def _relay(self, now: float, link: str, envelope: Envelope, key: bytes, sig: bytes) -> None:
        """Relay a message once, never back over the link that brought it."""
        to = envelope.to
        onward = to if to in self._bad else self.routes.find(now, to, exclude=link)
        if onward is None or onward == link:
            self.counters["relay_no_route"] += 1
            return
        self.counters["relayed"] += 1
        copy = Envelope(
            type=envelope.type,
            from_=envelope.from_,
            to=to,
            timestamp=envelope.timestamp,
            payload=Raw(bytes(envelope.payload)),
            id=envelope.id,
            hops=envelope.hops + 1,
            key=key,
            sig=sig,
        )
        self._emit((onward,), copy)

    def _learn_route(self, now: float, origin: str, link: str) -> None:
        """Learn a route: a proven message of `origin` arrived first over `link`."""
        if origin != link:
            self.routes.learn(now, origin, link)
            if self.waiting.waiting_for(origin) and not self.waiting.flushes(origin):
                self._flush_waiting(now, origin)

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
        core = (self.gossip.next_deadline(), self.waiting.next_deadline())
        return min((at for at in core if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Expire, flush and announce as far as due."""
        self.counters["expired"] += self.waiting.expire(now)
        for to in self.waiting.due(now):
            self._flush_waiting(now, to)
        self.gossip.tick(now)


_CONTROL_TYPES: Final[dict[type, str]] = {
    IHave: "ihave",
    Graft: "graft",
    Prune: "prune",
    RefusedMessages: "refused",
}


def _relay_digest(signed: bytes) -> bytes:
    return blake2b(signed, digest_size=ID_LENGTH, person=b"exnode relay").digest()


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes; the limit is {MAX_PAYLOAD}")
