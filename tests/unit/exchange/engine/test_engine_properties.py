"""Engines under anything: any bytes, any well-formed message, any order of events.

`receive` gives a bool for whatever arrives and the node trades on. Any sequence of orders, cancels,
deliveries, losses, doubles and crashes keeps the invariants, and agrees once everybody can talk.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import msgspec
from exchange_kit import EPOCH_US, ETH, NETWORK, Keys, M, Mail, Network, Owner, submit
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exchange.engine.engine import Engine
from exchange.feeds import presence as presence_module
from exchange.feeds.exchange_messages import (
    MESSAGES,
    FeedDigest,
    FeedHead,
    FeedPart,
    FeedRequest,
    KeptPresence,
    Presence,
    PresencePart,
    PresenceRequest,
    Take,
    TakeResult,
    pack,
)
from exchange.feeds.feed import Feed, pages_hash
from exchange.feeds.presence import PresenceLeases
from exchange.feeds.startup_fence import FENCE_MAX
from exchange.model.events import (
    BUY,
    GENESIS,
    SELL,
    Amended,
    Batch,
    Checkpoint,
    Closed,
    Filled,
    Opened,
    sign_batch,
)
from tests.simulation.disk import MemoryDisk

# Messages: well-formed, and as odd as the wire allows

WIRE_INTS = st.one_of(
    st.integers(-2, 12),
    st.sampled_from([2**40, 2**48, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)]),
    st.integers(-(2**63), 2**64 - 1),
)
SMALL = st.integers(1, 4)
NUMBERS = st.one_of(SMALL, WIRE_INTS)
TEXTS = st.one_of(st.sampled_from([M, ETH, "", "*"]), st.text(max_size=20))
IDS = st.one_of(st.sampled_from([Keys(i).node_id for i in (1, 2, 50, 51)]), TEXTS)
BYTES = st.one_of(st.sampled_from([GENESIS, b"", b"\x90"]), st.binary(max_size=40))
KEYS = st.one_of(st.sampled_from([Keys(i).public_key for i in (1, 2, 50, 51)]), BYTES)
SIDES = st.one_of(st.sampled_from([BUY, SELL]), WIRE_INTS)

EVENTS = st.one_of(
    st.builds(Opened, NUMBERS, SIDES, NUMBERS, NUMBERS, NUMBERS),
    st.builds(Filled, NUMBERS, SIDES, NUMBERS, NUMBERS, NUMBERS, NUMBERS, TEXTS, NUMBERS, NUMBERS),
    st.builds(Amended, NUMBERS, NUMBERS),
    st.builds(Closed, NUMBERS, TEXTS),
    st.builds(Checkpoint, BYTES),
)
PLAUSIBLE_EVENTS = st.one_of(
    st.builds(Opened, SMALL, st.sampled_from([BUY, SELL]), SMALL, SMALL, st.just(EPOCH_US)),
    st.builds(Amended, SMALL, st.integers(0, 4)),
    st.builds(Closed, SMALL, st.just("cancelled")),
)


@st.composite
def signed_batches(draw: st.DrawFn) -> Batch:
    """By an owner whose key is at hand: so that what it signs is let in and must be judged."""
    events = draw(st.lists(st.one_of(PLAUSIBLE_EVENTS, EVENTS), max_size=4))
    first = draw(st.one_of(SMALL, WIRE_INTS))
    previous = draw(st.one_of(st.just(GENESIS), BYTES))
    market = draw(st.sampled_from([M, M, M, ETH]))
    return sign_batch(
        Keys(draw(st.sampled_from([50, 51]))), NETWORK, market, first, previous, events
    )[0]


ROWS = st.tuples(NUMBERS, SIDES, NUMBERS, NUMBERS, NUMBERS)
PAGES = st.one_of(st.lists(ROWS, max_size=3).map(msgspec.msgpack.encode), st.binary(max_size=30))


@st.composite
def snapshot_parts(draw: st.DrawFn) -> FeedPart:
    """A page that fits its checkpoint, which its owner has signed, whatever is on it."""
    pages = draw(st.lists(PAGES, min_size=1, max_size=2))
    hashes = [hashlib.sha256(page).digest() for page in pages]
    seed = draw(st.sampled_from([1, 50, 51]))
    state = Checkpoint(pages_hash(hashes))
    first = draw(st.integers(1, 9))
    batch, _ = sign_batch(Keys(seed), NETWORK, M, first, GENESIS, [state])
    page = draw(st.integers(0, len(pages) - 1))
    return FeedPart(Keys(seed).node_id, M, draw(NUMBERS), [], batch, page, hashes, pages[page])


@st.composite
def signed_presences(draw: st.DrawFn) -> Presence:
    seed = draw(st.sampled_from([1, 50, 51]))
    heads = draw(st.lists(st.tuples(TEXTS, WIRE_INTS), max_size=3))
    lease = draw(st.one_of(st.just(60_000), WIRE_INTS))
    made = Presence(Keys(seed).public_key, draw(NUMBERS), draw(NUMBERS), lease, heads)
    digest = presence_module._signed(NETWORK, made)
    return msgspec.structs.replace(made, signature=Keys(seed).sign(digest))


BATCHES = st.one_of(
    signed_batches(),
    st.builds(Batch, KEYS, TEXTS, WIRE_INTS, BYTES, st.lists(EVENTS, max_size=3), BYTES),
)
HEADS = st.builds(FeedHead, IDS, TEXTS, WIRE_INTS, BYTES)
ODD: dict[str, st.SearchStrategy[Any]] = {
    "order": BATCHES,
    "trade": BATCHES,
    "presence": st.one_of(
        signed_presences(),
        st.builds(
            Presence,
            KEYS,
            WIRE_INTS,
            WIRE_INTS,
            WIRE_INTS,
            st.lists(st.tuples(TEXTS, WIRE_INTS), max_size=3),
            BYTES,
        ),
    ),
    "digest": st.builds(
        FeedDigest,
        BYTES,
        st.one_of(st.none(), st.lists(HEADS, max_size=4)),
        st.booleans(),
        WIRE_INTS,
    ),
    "presence_request": st.builds(PresenceRequest, WIRE_INTS, WIRE_INTS),
    "presences": st.builds(
        PresencePart,
        SMALL,
        st.one_of(st.just(16), WIRE_INTS),
        st.lists(st.builds(KeptPresence, WIRE_INTS, signed_presences()), max_size=3),
    ),
    "feed_request": st.builds(FeedRequest, IDS, TEXTS, WIRE_INTS, WIRE_INTS),
    "feed": st.one_of(
        snapshot_parts(),
        st.builds(
            FeedPart,
            IDS,
            TEXTS,
            WIRE_INTS,
            st.lists(BATCHES, max_size=2),
            st.one_of(st.none(), BATCHES),
            WIRE_INTS,
            st.lists(BYTES, max_size=3),
            BYTES,
        ),
    ),
    "take": st.builds(
        Take, NUMBERS, TEXTS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans()
    ),
    "take_result": st.builds(
        TakeResult, NUMBERS, TEXTS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, TEXTS
    ),
}
MAIL = st.sampled_from(sorted(ODD)).flatmap(
    lambda kind: st.tuples(st.just(kind), ODD[kind].map(pack))
)


def test_every_message_type_is_fuzzed() -> None:
    assert ODD.keys() == MESSAGES.keys()


class Target:
    """Node in the middle of trading: an own order on each side, a pending take, another owner's feed."""

    def __init__(self) -> None:
        self.net = Network(1)
        owner = Owner(50)
        leases = PresenceLeases(owner.keys, NETWORK, incarnation=1, lease_ms=600_000)
        self.net.give(0, leases.make(self.net.now, []))
        self.net.give(0, owner.batch(Opened(1, SELL, 3, 2, EPOCH_US)))
        self.net.sell(0, 10, 9)
        self.net.buy(0, 3, 4)
        self.net.round()
        self.net[0].neighbour_up(self.net.now, Keys(50).node_id)

    def take_in(self, kind: str, payload: bytes, origin: str) -> None:
        valid = self.net[0].receive(self.net.now, kind, payload, origin, origin)
        assert valid in (True, False, None)

    def still_trades(self) -> None:
        """Everything that was taken in is digested, made durable, recovered; and an order trades."""
        net = self.net
        for _ in range(3):
            net.run(1.0, step=0.5)
        net.restart(0)
        net.run(1.0, step=0.5)
        market = net[0].markets[M]
        for key, price, *_ in list(market.book.orders(BUY)) + list(market.book.orders(SELL)):
            owner, number = market.owners.split(key)
            feed = market.feed(owner)
            assert feed is not None
            assert feed.state.orders[number].price == price
        if net[0].stale is None:
            for order in net[0].order_store.open_orders:
                if not order.cancelled:
                    net[0].orders.cancel(net.now, order.number)
            maker = net.sell(0, 1000, 5)
            taken = net.buy(0, 2**48 - 1, 5)
            fills = [f for f in net[0].drain(net.now).fills if f.role == "taker"]
            assert taken.pending + sum(f.quantity for f in fills) <= 5
            assert maker.filled + maker.shown == 5


ORIGINS = st.sampled_from([Keys(50).node_id, Keys(51).node_id])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(MAIL, ORIGINS), max_size=12))
def test_any_well_formed_messages_are_judged_and_the_node_trades_on(
    messages: list[tuple[tuple[str, bytes], str]],
) -> None:
    target = Target()
    for (kind, payload), origin in messages:
        target.take_in(kind, payload, origin)
    target.still_trades()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*MESSAGES, "nonsense"]), st.binary(max_size=200))
def test_any_bytes_are_judged(kind: str, payload: bytes) -> None:
    target = Target()
    target.take_in(kind, payload, Keys(50).node_id)
    target.still_trades()


@settings(max_examples=150, deadline=None)
@given(MAIL, st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 3))
def test_a_message_with_a_byte_changed_or_cut_off_is_judged(
    mail: tuple[str, bytes], position: int, byte: int, how: int
) -> None:
    kind, payload = mail
    at = position % len(payload)
    damaged = payload[:at] if how == 0 else payload[:at] + bytes([byte]) + payload[at + 1 :]
    target = Target()
    target.take_in(kind, damaged, Keys(50).node_id)
    target.still_trades()


# Any order of events


class Trading(RuleBasedStateMachine):
    """Three nodes; hypothesis decides what is placed, sent, lost, doubled, overtaken and killed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Network(3, fence_max=FENCE_MAX)
        self.mail: list[Mail] = []

    def alive(self, i: int) -> bool:
        return self.net.nodes[i].engine is not None

    def writes(self, i: int) -> bool:
        return self.alive(i) and not self.net[i].fenced

    @rule(
        i=st.integers(0, 2),
        side=st.sampled_from([BUY, SELL]),
        price=st.one_of(st.none(), st.integers(98, 102)),
        quantity=st.integers(1, 5),
    )
    def submit(self, i: int, side: int, price: int | None, quantity: int) -> None:
        if self.writes(i):
            submit(self.net[i], self.net.now, M, side, price, quantity)

    @rule(i=st.integers(0, 2), pick=st.integers(0, 99))
    def cancel(self, i: int, pick: int) -> None:
        if self.writes(i):
            numbers = [o.number for o in self.net[i].order_store.open_orders if not o.cancelled]
            if numbers:
                self.net[i].orders.cancel(self.net.now, numbers[pick % len(numbers)])

    @rule(i=st.integers(0, 2))
    def drain(self, i: int) -> None:
        if self.alive(i):
            self.mail += self.net.drain(i)

    @precondition(lambda self: self.mail)
    @rule(pick=st.integers(0, 99), keep=st.booleans())
    def deliver(self, pick: int, keep: bool) -> None:
        """Any message, now; kept, it arrives again later."""
        at = pick % len(self.mail)
        mail = self.mail[at] if keep else self.mail.pop(at)
        self.net.deliver(mail)

    @precondition(lambda self: self.mail)
    @rule(pick=st.integers(0, 99))
    def lose(self, pick: int) -> None:
        del self.mail[pick % len(self.mail)]

    @precondition(lambda self: self.mail)
    @rule()
    def deliver_all(self) -> None:
        mail, self.mail = self.mail, []
        for each in mail:
            self.net.deliver(each)

    @rule(seconds=st.sampled_from([0.001, 0.5, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.net.now += seconds
        for i in range(3):
            if self.alive(i):
                self.net[i].tick(self.net.now)

    @rule(i=st.integers(0, 2))
    def kill(self, i: int) -> None:
        if self.alive(i):
            self.net.kill(i)

    @rule(i=st.integers(0, 2))
    def restart(self, i: int) -> None:
        self.net.restart(i)

    @invariant()
    def nothing_is_filled_twice_or_shown_that_is_not_free(self) -> None:
        for i in range(3):
            if not self.alive(i):
                continue
            engine: Engine = self.net[i]
            market = engine.markets[M]
            pending: dict[int, int] = {}
            for take in engine.orders.takes.pending:
                pending[take.order] = pending.get(take.order, 0) + take.quantity
            for order in [*engine.order_store.open_orders, *engine.order_store.recent.values()]:
                assert order.filled + order.pending <= order.quantity
                assert order.pending == pending.get(order.number, 0)
                shown = market.writer.feed.state.orders.get(order.number)
                limit = order.price is not None and not order.done
                assert (shown.shown if shown else 0) == (order.free if limit else 0)
            for feed in engine.feeds.values():
                assert feed.fault is None
            assert engine.stale is None

    @invariant()
    def both_sides_of_a_trade_never_contradict_each_other(self) -> None:
        takers = {}
        for i in range(3):
            for fill in self.net.fills(i):
                if fill.role == "taker":
                    takers[fill.taker, fill.take] = fill
        makers = {
            (fill.taker, fill.take): fill
            for i in range(3)
            for fill in self.net.fills(i)
            if fill.role == "maker"
        }
        assert takers.keys() <= makers.keys()
        for name, fill in takers.items():
            assert (fill.price, fill.quantity) == (makers[name].price, makers[name].quantity)

    def teardown(self) -> None:
        net = self.net
        for i in range(3):
            if not self.alive(i):
                net.restart(i)
            net.link(i)
        # What was under way may still arrive, late and in another order.
        random.Random(len(self.mail)).shuffle(self.mail)
        for mail in self.mail:
            net.deliver(mail)
        net.run(30.0, step=0.25)
        net.check()
        for i in range(3):
            self._rebuilt(i)

    def _rebuilt(self, i: int) -> None:
        """A replica is a pure function of the feeds: from the journal alone comes the same."""
        store = self.net.nodes[i].store
        assert isinstance(store, MemoryDisk)
        for stored in store.recover().feeds:
            feed = Feed(stored.owner, stored.market)
            feed.reload(stored.snapshot, stored.batches, NETWORK)
            live = self.net[i].feeds[stored.owner, stored.market]
            assert (feed.state.orders, feed.state.head) == (live.state.orders, live.state.head)


TestTrading = Trading.TestCase
TestTrading.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
