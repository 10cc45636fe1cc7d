"""A hostile identity: an end of links to honest nodes, and what its misbehaviours need to write messages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from exchange.feeds.exchange_messages import Presence, pack
from exchange.feeds.feed import Feed, Writer, state_hash
from exchange.feeds.presence import PresenceLeases
from exchange.model.events import Batch, Checkpoint, Event, sign_batch
from node.virtual.server_model import VirtualTime
from p2p.mesh.routed_messages import broadcast_id
from p2p.wire.messages import EVERYONE, Codec, Envelope
from tests.simulation.clock import EPOCH_US
from tests.simulation.keys import FastKeys
from tests.simulation.network import Network, edge_of

if TYPE_CHECKING:
    from tests.simulation.dishonest.misbehaviours import Misbehaviour

NETWORK = "simulation"
TICK = 0.1
UNREAD = 256 * 1024  # bytes that a victim's socket takes without reading
BUSY_LINKS = 4  # links of a gang that are busy at a time, so that a run does not take too long
HEARD = 400  # broadcasts remembered, to be played again

_codec = Codec()


class Owner:
    """A feed that may say anything."""

    def __init__(self, keys: FastKeys, market: str) -> None:
        self.keys = keys
        self.feed = Feed(keys.node_id, market)
        self.writer = Writer(self.feed, keys, NETWORK)
        self.next_order = 1

    def append(self, *events: Event) -> list[Batch]:
        """Batches as an honest writer makes them."""
        for event in events:
            self.writer.append(event)
        return self.writer.flush()

    def early_checkpoint(self) -> Batch:
        """A checkpoint now, whatever the rule says."""
        feed = self.feed
        first, previous = feed.number + 1, feed.state.head
        events: list[Event] = [Checkpoint(state_hash(feed.state.pages()))]
        feed.state.apply(events[0])
        batch, digest = sign_batch(self.keys, NETWORK, feed.market, first, previous, events)
        feed.hold(batch, digest)
        return batch

    def order_number(self) -> int:
        self.next_order += 1
        return self.next_order - 1


class Attacker:
    """One identity. It stands for a whole node, as far as the network sees it."""

    running = True
    boots = 1

    def __init__(
        self,
        number: int,
        keys: FastKeys,
        markets: list[str],
        *,
        clock: VirtualTime,
        network: Network,
        unread: Callable[[int, int], int],
        node_id_of: Callable[[int], str],
        seed: str,
    ) -> None:
        """`markets`: honest orders are timed in the last one. `unread(victim, attacker)`: bytes of the attacker that the victim has not read yet."""
        self.number = number
        self.keys = keys
        self.node_id = keys.node_id
        self.markets = markets
        self.rng = random.Random(f"{seed} attacker {number}")
        self.links: dict[int, None] = {}
        self.misbehaviours: list[Misbehaviour] = []
        self.gang: list[Attacker] = [self]
        self.owners = {market: Owner(keys, market) for market in markets}
        self.heard: list[bytes] = []  # packed broadcasts of honest nodes
        self.sent: Counter[str] = Counter()
        self.sent_bytes = 0
        self.node_id_of = node_id_of
        self.active = False
        self._clock = clock
        self._network = network
        self._unread = unread
        self._leases = PresenceLeases(keys, NETWORK, incarnation=1, lease_ms=9000)

    # Time

    @property
    def now(self) -> float:
        return self._clock.now

    @property
    def now_us(self) -> int:
        return EPOCH_US + int(self._clock.now * 1e6)

    def later(self, delay: float, call: Callable[[], None]) -> None:
        self._clock.after(delay, lambda: call() if self.active else None)

    def begin(self) -> None:
        self.active = True
        for peer in self.links:
            self._met(peer)
        self._tick()

    def leave(self) -> None:
        """Be gone, with a proper goodbye, so that nothing of it is on show any more."""
        if self.active:
            self.broadcast("presence", pack(self.presence(leaving=True)))
        self.active = self.running = False
        self._network.close(self.number)
        self.links.clear()

    def _tick(self) -> None:
        if not self.active:
            return
        links = sum(len(fellow.links) for fellow in self.gang)
        if self.rng.random() * links < BUSY_LINKS:
            for misbehaviour in self.misbehaviours:
                misbehaviour.tick()
        self._clock.after(TICK, self._tick)

    # As an end of links

    def link_up(self, peer: int) -> None:
        self.links[peer] = None
        if self.active:
            self._met(peer)

    def _met(self, peer: int) -> None:
        for misbehaviour in self.misbehaviours:
            misbehaviour.on_link(peer)

    def link_down(self, peer: int) -> None:
        self.links.pop(peer, None)

    def message(self, peer: int, packed: bytes) -> None:
        envelope = _codec.decode(packed)
        if envelope.to == EVERYONE and len(self.heard) < HEARD:
            self.heard.append(packed)
        if self.active:
            for misbehaviour in self.misbehaviours:
                misbehaviour.on_message(peer, envelope)

    # Sending

    def victims(self) -> list[int]:
        return list(self.links)

    def put(self, peer: int, kind: str, packed: bytes) -> bool:
        """Send bytes. False if the victim's socket takes no more."""
        if peer not in self.links or self._unread(peer, self.number) > UNREAD:
            return False
        self.sent[kind] += 1
        self.sent_bytes += len(packed)
        self._network.send(self.number, peer, kind, packed)
        return True

    def mute(self, peer: int) -> None:
        """From now on nothing that this node sends over a link arrives; the victim is not told."""
        if peer in self.links:
            self._network.mute(edge_of(self.number, peer), self.number)

    def send(self, peer: int, kind: str, payload: bytes) -> bool:
        """Send a message of this node over a link."""
        stamp = self.now_us // 1000
        envelope = Envelope(kind, self.node_id, "", stamp, msgspec.Raw(payload))
        return self.put(peer, kind, _codec.encode(envelope))

    def broadcast(
        self, kind: str, payload: bytes, *, origin: str = "", to: list[int] | None = None
    ) -> None:
        """Send a broadcast to all victims, or some."""
        origin = origin or self.node_id
        key = broadcast_id(kind, origin, payload)
        stamp = self.now_us // 1000
        packed = _codec.encode(
            Envelope(kind, origin, EVERYONE, stamp, msgspec.Raw(payload), id=key)
        )
        for peer in self.victims() if to is None else to:
            self.put(peer, kind, packed)

    def publish(self, batches: list[Batch], to: list[int] | None = None) -> None:
        for batch in batches:
            self.broadcast("order", pack(batch), to=to)

    def presence(self, *, leaving: bool = False) -> Presence:
        heads = [(market, owner.feed.signed) for market, owner in self.owners.items()]
        return self._leases.make(self.now, heads, leaving=leaving)

    def present(self) -> None:
        self.broadcast("presence", pack(self.presence()))

    def owner(self) -> Owner:
        return self.owners[self.rng.choice(self.markets)]
