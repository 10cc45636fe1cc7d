"""Misbehaviours: each a small class that an attacker carries out on its links.

`tick` is called ten times a second, `on_link` when a link comes up, `on_message` with everything that a victim
sends. How much each does in a tick is what a home connection can send, within what a run can simulate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exchange.feeds.checkpoint_rule import RULE_SINCE
from exchange.feeds.exchange_messages import (
    FeedDigest,
    FeedHead,
    FeedPart,
    FeedRequest,
    Presence,
    Take,
    TakeResult,
    pack,
    unpack,
)
from exchange.feeds.presence import PresenceLeases, _signed
from exchange.model.events import (
    BUY,
    SELL,
    Amended,
    Batch,
    Checkpoint,
    Closed,
    Filled,
    Opened,
    sign_batch,
)
from p2p.wire.messages import EVERYONE, Codec, Envelope, Graft, IHave
from p2p.wire.messages import pack as pack_control
from tests.simulation.dishonest.attacker import NETWORK, Attacker, Owner

if TYPE_CHECKING:
    from exchange.model.events import Event

_codec = Codec()

FAR = 400  # ticks between the price of attackers' orders and that of honest ones
MID = 1000


class Misbehaviour:
    def __init__(self, attacker: Attacker) -> None:
        self.attacker = attacker
        self.rng = attacker.rng
        self.start()

    @property
    def name(self) -> str:
        return type(self).__name__

    def start(self) -> None:
        """Prepare."""

    def on_link(self, peer: int) -> None:
        """A link to a victim came up."""

    def on_message(self, peer: int, envelope: Envelope) -> None:
        """A victim sent a message."""

    def tick(self) -> None:
        """A tenth of a second has passed."""

    def far_order(self) -> Opened:
        """An order that meets no honest one."""
        attacker = self.attacker
        side = self.rng.choice((BUY, SELL))
        owner = attacker.owners[attacker.markets[0]]
        price = MID - side * (FAR + self.rng.randrange(300))
        return Opened(owner.order_number(), side, price, 5, attacker.now_us)


# Feeds


class Fork(Misbehaviour):
    """Shows different feeds to different victims, under the same numbers."""

    def tick(self) -> None:
        attacker = self.attacker
        if self.rng.random() > 0.2 or not attacker.links:
            return
        owner = attacker.owner()
        feed = owner.feed
        number = owner.order_number()
        told = []
        for price in (MID - FAR, MID - FAR - 1):
            event = Opened(number, BUY, price, 5, attacker.now_us)
            batch, digest = sign_batch(
                owner.keys, NETWORK, feed.market, feed.number + 1, feed.state.head, [event]
            )
            told.append((batch, digest, event))
        for peer in attacker.victims():
            attacker.broadcast("order", pack(self.rng.choice(told)[0]), to=[peer])
        batch, digest, event = told[0]
        feed.state.apply(event)
        feed.hold(batch, digest)
        attacker.present()


class OrderFlood(Misbehaviour):
    """Opens orders without end, each at a price of its own."""

    def start(self) -> None:
        self.price = 0

    def tick(self) -> None:
        attacker = self.attacker
        owner = attacker.owner()
        events: list[Event] = []
        for _ in range(30):
            self.price += 1
            price = 1 + self.price % 100_000
            events.append(Opened(owner.order_number(), BUY, price, 1, attacker.now_us))
        if self.price > MID // 2:
            events = [
                msgspec.structs.replace(e, side=SELL, price=e.price + 2 * MID) for e in events
            ]
        attacker.publish(owner.append(*events))


class EarlyCheckpoints(Misbehaviour):
    """Writes a checkpoint after every few events, with times before or after the rule."""

    def start(self) -> None:
        self.time = self.rng.choice((0, RULE_SINCE + 10**9))

    def tick(self) -> None:
        attacker = self.attacker
        owner = attacker.owner()
        order = msgspec.structs.replace(self.far_order(), order=owner.order_number())
        order = msgspec.structs.replace(order, time=max(order.time, self.time))
        batches = owner.append(order)
        attacker.publish(batches)
        attacker.broadcast("order", pack(owner.early_checkpoint()))


class Unconnected(Misbehaviour):
    """Publishes batches, but never the one before them."""

    def start(self) -> None:
        self.hidden: set[str] = set()

    def tick(self) -> None:
        attacker = self.attacker
        owner = attacker.owner()
        events = [Opened(owner.order_number(), BUY, 1 + n, 1, attacker.now_us) for n in range(20)]
        batches = owner.append(*events)
        if owner.feed.market in self.hidden:
            attacker.publish(batches)
        self.hidden.add(owner.feed.market)


class Flicker(Misbehaviour):
    """Leaves and returns all the time, with orders on show."""

    def start(self) -> None:
        self.leaving = False

    def on_link(self, peer: int) -> None:
        owner = self.attacker.owner()
        orders = [
            msgspec.structs.replace(self.far_order(), order=owner.order_number())
            for _ in range(100)
        ]
        self.attacker.publish(owner.append(*orders))

    def tick(self) -> None:
        for _ in range(2):
            self.leaving = not self.leaving
            payload = pack(self.attacker.presence(leaving=self.leaving))
            self.attacker.broadcast("presence", payload)


class Churn(Misbehaviour):
    """Opens, changes and closes orders near the best price as fast as it may."""

    def tick(self) -> None:
        attacker = self.attacker
        owner = attacker.owner()
        events: list[Event] = []
        for _ in range(5):
            order = msgspec.structs.replace(self.far_order(), order=owner.order_number())
            events += [order, Amended(order.order, 3), Closed(order.order, "cancelled")]
        attacker.publish(owner.append(*events))


class InventedTrades(Misbehaviour):
    """Says that it traded with itself, at prices that trigger stops."""

    def tick(self) -> None:
        attacker = self.attacker
        owner = attacker.owner()
        price = MID + self.rng.randint(-20, 20)
        number = owner.order_number()
        events = [
            Opened(number, SELL, price, 5, attacker.now_us),
            Filled(number, SELL, 5, price, 0, 0, attacker.node_id, number, attacker.now_us),
        ]
        for batch in owner.append(*events):
            attacker.broadcast("trade", pack(batch))


# Replication


class GhostHeads(Misbehaviour):
    """Claims to hold feeds that do not exist."""

    def start(self) -> None:
        self.round = 0

    def tick(self) -> None:
        attacker = self.attacker
        self.round += 1
        if self.round % 5:
            return
        market = self.rng.choice(attacker.markets)
        heads = [
            FeedHead(f"{attacker.number:08d}{self.round:08d}{n:016d}", market, 9, b"12345678")
            for n in range(200)
        ]
        payload = pack(FeedDigest(b"x" * 16, heads, answer=self.rng.random() < 0.5))
        for peer in attacker.victims():
            attacker.send(peer, "digest", payload)


class AheadHeads(Misbehaviour):
    """Claims to hold more of honest feeds than there is, those of the victim included."""

    def tick(self) -> None:
        attacker = self.attacker
        if self.rng.random() > 0.2:
            return
        for peer in attacker.victims():
            owners = [attacker.node_id_of(n) for n in range(3)] + [attacker.node_id_of(peer)]
            heads = [
                FeedHead(owner, market, 10**6, b"12345678")
                for owner in dict.fromkeys(owners)
                for market in attacker.markets
            ]
            attacker.send(peer, "digest", pack(FeedDigest(b"y" * 16, heads)))


class DigestFlood(Misbehaviour):
    """Asks for all heads, without end."""

    def tick(self) -> None:
        for peer in self.attacker.victims():
            for _ in range(10):
                summary = self.rng.randbytes(16)
                self.attacker.send(peer, "digest", pack(FeedDigest(summary)))


class RequestFlood(Misbehaviour):
    """Requests whole feeds of honest owners, again and again: little is sent, much has to be answered."""

    def tick(self) -> None:
        attacker = self.attacker
        for peer in attacker.victims():
            for _ in range(10):
                owner = attacker.node_id_of(self.rng.choice((peer, 0, 1, 2)))
                request = FeedRequest(owner, self.rng.choice(attacker.markets), 0)
                attacker.send(peer, "feed_request", pack(request))


class SlowAnswers(Misbehaviour):
    """Announces all that it hears of honest feeds, and answers requests late, or never."""

    def start(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}
        self.batches: dict[tuple[str, str], list[Batch]] = {}

    def on_message(self, peer: int, envelope: Envelope) -> None:
        attacker = self.attacker
        if envelope.type in ("order", "trade"):
            batch = unpack("order", bytes(envelope.payload))
            assert isinstance(batch, Batch)
            name = envelope.from_, batch.market
            self.numbers[name] = max(self.numbers.get(name, 0), batch.last)
            self.batches.setdefault(name, []).append(batch)
        elif envelope.type == "feed_request" and self.rng.random() < 0.5:
            request = unpack("feed_request", bytes(envelope.payload))
            assert isinstance(request, FeedRequest)
            known = self.batches.get((request.owner, request.market), [])
            batches = [b for b in known if b.first > request.after][:4]
            part = FeedPart(request.owner, request.market, 10**6, batches)
            attacker.later(
                self.rng.uniform(0.5, 4.0), lambda: attacker.send(peer, "feed", pack(part)) and None
            )

    def tick(self) -> None:
        if self.rng.random() > 0.1 or not self.numbers:
            return
        heads = [
            FeedHead(owner, market, number + 1, b"12345678")
            for (owner, market), number in self.numbers.items()
        ]
        for peer in self.attacker.victims():
            self.attacker.send(peer, "digest", pack(FeedDigest(b"z" * 16, heads)))


class FalseSnapshots(Misbehaviour):
    """Offers snapshots of its own feed with false, missing or endless pages."""

    def on_message(self, peer: int, envelope: Envelope) -> None:
        if envelope.type != "feed_request":
            return
        request = unpack("feed_request", bytes(envelope.payload))
        assert isinstance(request, FeedRequest)
        owner = self.attacker.owners.get(request.market)
        if owner is None or request.owner != self.attacker.node_id:
            return
        checkpoint = self.checkpoint(owner.feed.market)
        page = self.rng.randbytes(self.rng.choice((10, 1000, 50_000)))
        pages = [self.rng.randbytes(32)] * self.rng.choice((1, 2, 4096))
        part = FeedPart(
            request.owner,
            request.market,
            checkpoint.last,
            checkpoint=checkpoint,
            page=request.page,
            pages=pages,
            orders=page,
        )
        self.attacker.send(peer, "feed", pack(part))

    def checkpoint(self, market: str) -> Batch:
        first = 10**6 + self.rng.randrange(10**6)
        event = Checkpoint(self.rng.randbytes(32))
        keys = self.attacker.keys
        return sign_batch(keys, NETWORK, market, first, bytes(32), [event])[0]

    def tick(self) -> None:
        attacker = self.attacker
        if self.rng.random() > 0.2:
            return
        head = FeedHead(attacker.node_id, self.rng.choice(attacker.markets), 10**7, b"12345678")
        for peer in attacker.victims():
            attacker.send(peer, "digest", pack(FeedDigest(b"s" * 16, [head])))


# Takes


class FalseTakes(Misbehaviour):
    """Requests orders that do not exist, at prices that they do not have, and repeats old requests."""

    def start(self) -> None:
        self.take = 10**15

    def tick(self) -> None:
        attacker = self.attacker
        for peer in attacker.victims():
            for _ in range(10):
                self.take += 1
                take = Take(
                    take=self.take if self.rng.random() < 0.8 else 10**15 + 1,
                    market=self.rng.choice(attacker.markets),
                    order=self.rng.randint(1, 40),
                    taker_order=1,
                    price=MID + self.rng.randint(-200, 200),
                    quantity=self.rng.choice((1, 10**6, 10**12)),
                    below=1,
                    void=self.rng.random() < 0.2,
                    phase=self.rng.choice(("", "reserve", "commit")),
                )
                attacker.send(peer, "take", pack(take))


class FalseResults(Misbehaviour):
    """Answers takes that nobody requested, and those of honest nodes in their makers' stead."""

    def tick(self) -> None:
        attacker = self.attacker
        for peer in attacker.victims():
            result = TakeResult(
                take=attacker.now_us + self.rng.randint(-(10**6), 10**6),
                market=self.rng.choice(attacker.markets),
                order=self.rng.randint(1, 40),
                price=MID,
                quantity=self.rng.randint(0, 10**6),
                time=attacker.now_us,
                number=2**61,
                reason=self.rng.choice(("", "gone", "void", "reserved")),
            )
            attacker.send(peer, "take_result", pack(result))


class LateMaker(Misbehaviour):
    """Shows the best price, and answers who takes it when it likes: late, after the take's end, or never."""

    latest = 30.0  # s until an answer

    def tick(self) -> None:
        attacker = self.attacker
        if self.rng.random() < 0.03:
            attacker.present()
        if self.rng.random() > 0.2:
            return
        owner = attacker.owners[self.rng.choice(attacker.markets[:-1])]  # not where probes trade
        side = self.rng.choice((BUY, SELL))
        order = Opened(owner.order_number(), side, MID + 3 * side, 5, attacker.now_us)
        attacker.publish(owner.append(order))

    def on_message(self, peer: int, envelope: Envelope) -> None:
        if envelope.type != "take":
            return
        take = unpack("take", bytes(envelope.payload))
        assert isinstance(take, Take)
        owner = self.attacker.owners.get(take.market)
        if owner is None or take.order not in owner.feed.state.orders:
            return
        delay = self.rng.uniform(0.0, self.latest)
        taker = envelope.from_
        self.attacker.later(delay, lambda: self.answer(peer, taker, take, owner))

    def answer(self, peer: int, taker: str, take: Take, owner: Owner) -> None:
        self.fill(peer, taker, take, owner, said=True, shown=True)

    def fill(
        self, peer: int, taker: str, take: Take, owner: Owner, *, said: bool, shown: bool
    ) -> None:
        """Fill a take: `said` to the taker, `shown` in the feed."""
        attacker, order = self.attacker, owner.feed.state.orders.get(take.order)
        quantity = 0 if order is None else min(take.quantity, order.shown)
        if order is not None and quantity and shown:
            left = order.shown - quantity
            filled = Filled(
                *(take.order, order.side, quantity, order.price, left, left, taker, take.take),
                attacker.now_us,
            )
            attacker.publish(owner.append(filled))
        if said:
            result = TakeResult(
                *(take.take, take.market, take.order, take.price, quantity, attacker.now_us),
                owner.feed.number,
                "" if quantity else "gone",
            )
            attacker.send(peer, "take_result", pack(result))


class ChoosingMaker(LateMaker):
    """Answers as it pays: fills that it keeps out of its feed, fills without an answer, refusals of what it goes on to
    show."""

    latest = 15.0

    def answer(self, peer: int, taker: str, take: Take, owner: Owner) -> None:
        choice = self.rng.randrange(5)
        if choice == 0:
            self.fill(peer, taker, take, owner, said=True, shown=False)
        elif choice == 1:
            self.fill(peer, taker, take, owner, said=False, shown=True)
        elif choice == 2:
            reason = self.rng.choice(("gone", "late", "halted", "reserved"))
            refusal = TakeResult(
                *(take.take, take.market, take.order, take.price, 0, self.attacker.now_us, 0),
                reason,
            )
            self.attacker.send(peer, "take_result", pack(refusal))
        elif choice == 3:
            self.fill(peer, taker, take, owner, said=True, shown=True)


class GhostPresences(Misbehaviour):
    """Presences with heads of feeds that nobody can show: far ahead, of markets that do not exist."""

    def tick(self) -> None:
        attacker = self.attacker
        if self.rng.random() > 0.2:
            return
        heads = [(market, 10**6 + self.rng.randrange(10**6)) for market in attacker.markets]
        heads += [(f"G{n}-USD@0.01/0.01", 9) for n in range(50)]
        leases = attacker._leases
        attacker.broadcast("presence", pack(leases.make(attacker.now, heads)))


class TapeFlood(InventedTrades):
    """Fills the tape with trades with itself, at the price of the market."""

    def tick(self) -> None:
        for _ in range(5):
            super().tick()


# The mesh


class SybilBroadcasts(Misbehaviour):
    """Broadcasts valid messages of identities that it makes up."""

    def start(self) -> None:
        self.count = 0

    def tick(self) -> None:
        attacker = self.attacker
        for _ in range(10):
            self.count += 1
            fellow = self.rng.choice(attacker.gang)
            leases = PresenceLeases(fellow.keys, NETWORK, incarnation=2, lease_ms=3000)
            draft = leases.make(attacker.now, [])
            signed = msgspec.structs.replace(draft, counter=self.count)
            payload = pack(_signed_again(fellow, signed))
            attacker.broadcast("presence", payload, origin=fellow.node_id)


def _signed_again(attacker: Attacker, presence: Presence) -> Presence:
    return msgspec.structs.replace(
        presence, signature=attacker.keys.sign(_signed(NETWORK, presence))
    )


class GhostAnnouncements(Misbehaviour):
    """Announces broadcasts that do not exist, or delivers none of those that do."""

    def on_message(self, peer: int, envelope: Envelope) -> None:
        if envelope.to == EVERYONE and envelope.id is not None and self.rng.random() < 0.5:
            payload = pack_control(IHave([envelope.id]))
            for other in self.attacker.victims():
                self.attacker.send(other, "ihave", payload)

    def tick(self) -> None:
        for peer in self.attacker.victims():
            ids = [self.rng.randbytes(16) for _ in range(100)]
            self.attacker.send(peer, "ihave", pack_control(IHave(ids)))


class GraftFlood(Misbehaviour):
    """Pulls every broadcast again and again."""

    def start(self) -> None:
        self.ids: list[bytes] = []

    def on_message(self, peer: int, envelope: Envelope) -> None:
        if envelope.to == EVERYONE and envelope.id is not None:
            self.ids.append(envelope.id)

    def tick(self) -> None:
        if self.ids:
            payload = pack_control(Graft(self.ids[-200:]))
            for peer in self.attacker.victims():
                for _ in range(3):
                    self.attacker.send(peer, "graft", payload)


class Replay(Misbehaviour):
    """Plays broadcasts of honest nodes again, as they were or altered."""

    def tick(self) -> None:
        attacker = self.attacker
        for _ in range(10):
            if not attacker.heard:
                return
            packed = self.rng.choice(attacker.heard)
            if self.rng.random() < 0.02:
                place = self.rng.randrange(len(packed))
                packed = packed[:place] + self.rng.randbytes(1) + packed[place + 1 :]
            for peer in attacker.victims():
                attacker.put(peer, "replay", packed)


class Rubbish(Misbehaviour):
    """Sends bytes that are no messages, and messages that make no sense."""

    def tick(self) -> None:
        attacker = self.attacker
        if self.rng.random() > 0.1:
            return
        for peer in attacker.victims():
            kind = self.rng.choice(("order", "presence", "take", "digest", "feed", "nonsense"))
            match self.rng.randrange(3):
                case 0:
                    attacker.put(peer, "rubbish", self.rng.randbytes(self.rng.randint(1, 200)))
                case 1:
                    attacker.send(peer, kind, pack_control(self.rng.randint(0, 10**6)))
                case _:
                    stamp = self.rng.choice((-1, 0, 2**63))
                    body = msgspec.Raw(pack_control([]))
                    envelope = Envelope(kind, attacker.node_id, EVERYONE, stamp, body, id=b"short")
                    attacker.put(peer, "rubbish", _codec.encode(envelope))


class HalfOpen(Misbehaviour):
    """Takes links and goes deaf: nothing that it sends arrives, until the victim gives the link up."""

    def on_link(self, peer: int) -> None:
        attacker = self.attacker
        attacker.later(self.rng.uniform(0.0, 2.0), lambda: attacker.mute(peer))


class Withhold(Misbehaviour):
    """Stays in the broadcast tree and passes nothing on. (An attacker never does; this one only says
    that it is there, so that its links are not idle.)"""

    def tick(self) -> None:
        if self.rng.random() < 0.05:
            self.attacker.present()


CATALOGUE: tuple[type[Misbehaviour], ...] = (
    Fork,
    OrderFlood,
    EarlyCheckpoints,
    Unconnected,
    Flicker,
    Churn,
    InventedTrades,
    GhostHeads,
    AheadHeads,
    DigestFlood,
    RequestFlood,
    SlowAnswers,
    FalseSnapshots,
    FalseTakes,
    FalseResults,
    LateMaker,
    ChoosingMaker,
    GhostPresences,
    TapeFlood,
    SybilBroadcasts,
    GhostAnnouncements,
    GraftFlood,
    Replay,
    Rubbish,
    HalfOpen,
    Withhold,
)
